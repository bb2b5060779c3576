"""The algorithm against numbers worked out by hand. No model where none is needed."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback

from dunwu.config import PRESETS, GRPOConfig
from dunwu.core import algorithm, policy_losses
from dunwu.core.algorithm import AlgorithmConfig
from dunwu.core.records import MicroBatch
from dunwu.errors import ConfigError
from dunwu.model.loading import load_model
from dunwu.model.logprobs import forward_logps
from dunwu.rollout.collect import add_advantages, kl_penalties, subtract_kl_penalty

F64 = {"dtype": torch.float64}


def step_loss(
    objective: AlgorithmConfig,
    logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    old: Tensor | None = None,
    reference: Tensor | None = None,
    max_length: int = 4,
) -> Tensor:
    result = algorithm.token_loss(objective, logps, advantages, mask, old_logps_BC=old, reference_logps_BC=reference)
    weights = algorithm.loss_weights(mask, objective.loss_aggregation)
    lengths = [int(row.sum()) for row in mask]
    return (result.loss_BC * weights).sum() / algorithm.loss_denominator(
        lengths, objective.loss_aggregation, max_length
    )


def preset(name: str, tmp_path: Any, **options: Any) -> AlgorithmConfig:
    return GRPOConfig(output_dir=str(tmp_path), loss_type=name, **options).algorithm()


def one_token(rho: float, advantage: float, **choices: Any) -> tuple[float, float]:
    """Loss of one token, and its derivative with respect to the token's log-probability."""
    logps = torch.tensor([[-1.0]], **F64, requires_grad=True)
    old = logps.detach() - math.log(rho)
    known = {
        option for loss in policy_losses.POLICY_LOSSES.values() for option in policy_losses.loss_option_names(loss)
    }
    own = {name: value for name, value in choices.items() if name in known}
    rest = {name: value for name, value in choices.items() if name not in own}
    objective = AlgorithmConfig(loss_options=own, **rest)
    loss = algorithm.token_loss(
        objective, logps, torch.tensor([advantage], **F64), torch.ones(1, 1), old_logps_BC=old
    )
    loss.loss_BC.sum().backward()
    return float(loss.loss_BC.detach()), float(logps.grad)


# -- 1: three normalisations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"), [("grpo", 0.0), ("bnpo", 0.5), ("dapo", 0.5), ("dr_grpo", 0.25), ("gspo", 0.0)]
)
def test_a_good_short_and_a_bad_long_answer_give_each_normalisation_its_own_loss(name, expected, tmp_path):
    """Guards against one normalisation used under another's name, which no reward curve shows."""
    logps = torch.full((2, 3), -1.0, **F64)
    mask = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]], **F64)
    loss = step_loss(preset(name, tmp_path), logps, torch.tensor([1.0, -1.0], **F64), mask)
    assert float(loss) == pytest.approx(expected, abs=1e-15)


# One example for all presets. Ratios (1.5 | 1.5, .9, .7), advantages (+1 | −1), policy log-probabilities below.
POLICY = [[-1.0, 0.0, 0.0], [-0.5, -2.0, -1.0]]
RATIOS = [[1.5, 1.0, 1.0], [1.5, 0.9, 0.7]]
_W = 1.5 * 0.9 * 0.7  # the second sequence's ratio; _S is its mean over tokens
_S = _W ** (1 / 3)


def _gate(rho: float, tau: float) -> float:
    """SAPO: (4/τ)·σ(τ(ρ − 1))."""
    return 4 / tau / (1 + math.exp(-tau * (rho - 1)))


def _gate_slope(rho: float, tau: float) -> float:
    """Its derivative with respect to log ρ: 4ρ·σ(1 − σ)."""
    sigma = 1 / (1 + math.exp(-tau * (rho - 1)))
    return 4 * rho * sigma * (1 - sigma)


_PHI = (1.5**2 * math.exp(3 * (1 - 1.5)), _W**3 * math.exp(2 * (1 - _W)))  # VESPO: w^k · exp(λ(1 − w))
BY_HAND = {
    "grpo": ((-1.2 + (1.5 + 0.9 + 0.8) / 3) / 2, [[0, 0, 0], [1.5 / 6, 0.9 / 6, 0]]),
    "bnpo": ((-1.2 + 3.2) / 4, [[0, 0, 0], [1.5 / 4, 0.9 / 4, 0]]),
    "dapo": ((-1.2 + 3.2) / 4, [[0, 0, 0], [1.5 / 4, 0.9 / 4, 0]]),
    "dr_grpo": ((-1.2 + 3.2) / 8, [[0, 0, 0], [1.5 / 8, 0.9 / 8, 0]]),
    "gspo": ((-1.2 + _S) / 2, [[0, 0, 0], [_S / 6, _S / 6, _S / 6]]),
    "cispo": ((1.5 - 0.75 - 1.8 - 0.7) / 4, [[-1.5 / 4, 0, 0], [1.5 / 4, 0.9 / 4, 0.7 / 4]]),
    "sapo": (
        (-_gate(1.5, 1.0) + (_gate(1.5, 1.05) + _gate(0.9, 1.05) + _gate(0.7, 1.05)) / 3) / 2,
        [[-_gate_slope(1.5, 1.0) / 2, 0, 0], [_gate_slope(rho, 1.05) / 6 for rho in (1.5, 0.9, 0.7)]],
    ),
    # The first sequence is clipped; the second's three tokens each carry the whole ratio.
    "luspo": ((-1.2 + 3 * _S) / 2, [[0, 0, 0], [_S / 2, _S / 2, _S / 2]]),
    "vespo": ((_PHI[0] * 1.0 - _PHI[1] * 3.5) / 4, [[-_PHI[0] / 4, 0, 0], [_PHI[1] / 4] * 3]),
    "reinforce": ((1.0 - 3.5) / 4, [[-1 / 4, 0, 0], [1 / 4, 1 / 4, 1 / 4]]),
}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_has_its_loss_and_gradient_worked_out_by_hand(name, tmp_path):
    """A preset added to the table without a number here fails by a KeyError: that is meant."""
    logps = torch.tensor(POLICY, **F64, requires_grad=True)
    mask = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]], **F64)
    old = logps.detach() - torch.tensor(RATIOS, **F64).log()
    loss = step_loss(preset(name, tmp_path), logps, torch.tensor([1.0, -1.0], **F64), mask, old=old)
    loss.backward()
    value, gradient = BY_HAND[name]
    assert float(loss.detach()) == pytest.approx(value, abs=1e-14)
    torch.testing.assert_close(logps.grad, torch.tensor(gradient, **F64), atol=1e-14, rtol=0)


def test_gspo_is_grpo_with_the_ratio_of_sequences(tmp_path):
    assert preset("gspo", tmp_path) == preset("grpo", tmp_path, importance_sampling_level="sequence")


def test_luspo_is_gspo_with_every_sequence_weighed_by_its_length(tmp_path):
    assert preset("luspo", tmp_path) == preset("gspo", tmp_path, loss_aggregation="seq_sum")


# -- 2: advantages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({}, [1.49970, -0.49990, -0.49990, -0.49990]),
        ({"scale": "none"}, [0.75, -0.25, -0.25, -0.25]),
        ({"baseline": "leave_one_out", "scale": "none"}, [1.0, -1 / 3, -1 / 3, -1 / 3]),
        ({"baseline": "leave_one_out"}, [1.99960, -0.66653, -0.66653, -0.66653]),
    ],
)
def test_advantages_of_one_success_in_four(choices, expected):
    """Guards against the population's standard deviation (ddof 0 would give 1.73165) and a forgotten eps."""
    found = algorithm.advantages(torch.tensor([[1.0, 0, 0, 0]], **F64), **choices)
    assert found[0].tolist() == pytest.approx(expected, abs=5e-6)


def test_scaling_by_the_batch_divides_every_group_by_one_standard_deviation():
    rewards = torch.tensor([[1.0, 0.0], [5.0, 3.0]], **F64)
    std = math.sqrt(((1 - 2.25) ** 2 + 2.25**2 + 2.75**2 + 0.75**2) / 3)
    found = algorithm.advantages(rewards, scale="batch")
    expected = [0.5 / (std + 1e-4), -0.5 / (std + 1e-4), 1 / (std + 1e-4), -1 / (std + 1e-4)]
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1 + 0.2, 1 / 3, 1e17 + 0.7, -2.3e-9])
@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
def test_equal_rewards_give_advantages_of_exactly_zero(value, size, scale, baseline):
    """The mean of three times 0.1+0.2 is not 0.1+0.2 in floating point; divided by eps, that became a gradient."""
    rewards = torch.tensor([[value] * size, [1.0] + [0.0] * (size - 1)], **F64)
    for dtype in (torch.float64, torch.float32):
        found = algorithm.advantages(rewards.to(dtype), scale=scale, baseline=baseline)
        assert found[0].tolist() == [0.0] * size
        assert found[1, 0] > 0


def test_a_group_of_one_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match="raise num_generations"):
        algorithm.advantages(torch.tensor([[1.0], [0.0]]))


def test_a_reward_of_none_gets_no_advantage_and_shifts_no_mean(tiny):
    """Guards against None counted as 0, which would make every wrong answer look good."""
    prompt = tiny.prompts("q")[0]
    from dunwu.core.records import Completion, Group, Rollout

    said = Completion(ids=(5,), sampler_logps=(-1.0,), finish_reason="stop", text="a")
    rollouts = tuple(Rollout(completion=said, reward=r, scores={}) for r in (5.0, None, 3.0, None))
    found = add_advantages([Group(prompt=prompt, rollouts=rollouts)], AlgorithmConfig(scale_rewards="none"))
    assert [r.advantage for r in found[0].rollouts] == [1.0, 0.0, -1.0, 0.0]
    lonely = tuple(Rollout(completion=said, reward=r, scores={}) for r in (5.0, None, None, None))
    found = add_advantages([Group(prompt=prompt, rollouts=lonely)], AlgorithmConfig())
    assert [r.advantage for r in found[0].rollouts] == [0.0] * 4


# -- 3: clip -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.5, -1.0, 1.5, 1.5),
        (0.5, -1.0, 0.8, 0.0),
        (1.5, 1.0, -1.2, 0.0),
        (0.5, 1.0, -0.5, -0.5),
        (1.0, 1.0, -1.0, -1.0),
    ],
)
def test_the_clip_cuts_only_where_it_would_go_on_gaining(ratio, advantage, loss, slope):
    """Guards against a clip of both signs: a bad token that became likely must still be pushed down."""
    assert one_token(ratio, advantage) == pytest.approx((loss, slope), abs=1e-14)


def test_each_token_is_clipped_by_its_own_ratio():
    """One ratio for the whole sequence (1.485) instead of three is another algorithm."""
    ratios = torch.tensor([[1.10, 0.90, 1.50]], **F64)
    found = -policy_losses.clipped_surrogate(ratios, torch.ones(1, 1, **F64), low=0.2, high=0.2)
    assert found[0].tolist() == pytest.approx([1.10, 0.90, 1.20], abs=1e-15)


def test_the_upper_and_lower_clip_are_separate():
    """DAPO's clip-higher: raising the upper bound must not move the lower one."""
    assert one_token(1.25, 1.0, epsilon_high=0.28) == pytest.approx((-1.25, -1.25))
    assert one_token(1.30, 1.0, epsilon_high=0.28) == pytest.approx((-1.28, 0.0))
    assert one_token(0.75, -1.0, epsilon_high=0.28) == pytest.approx((0.8, 0.0))
    assert one_token(0.75, -1.0, epsilon_low=0.3) == pytest.approx((0.75, 0.75))


def test_dual_clip_bounds_a_bad_token_that_became_likely_and_nothing_else():
    assert one_token(5.0, -1.0, delta=3.0) == pytest.approx((3.0, 0.0))
    assert one_token(2.0, -1.0, delta=3.0) == pytest.approx((2.0, 2.0))
    assert one_token(5.0, 1.0, delta=3.0) == pytest.approx((-1.2, 0.0))


def test_cispo_caps_the_ratio_and_never_cuts_a_gradient_off():
    assert one_token(9.0, 1.0, policy_loss="cispo", cap=5.0) == pytest.approx((5.0, -5.0))
    assert one_token(0.1, -2.0, policy_loss="cispo", cap=5.0) == pytest.approx((-0.2, 0.2))


def test_reinforce_does_not_look_at_the_ratio():
    assert one_token(9.0, 1.0, policy_loss="logp", importance_sampling_level="none") == pytest.approx((1.0, -1.0))


@pytest.mark.parametrize(("advantage", "tau"), [(2.0, 1.3), (-2.0, 0.8), (0.0, 0.8)])
def test_sapo_takes_the_temperature_of_the_advantages_sign_and_closes_smoothly(advantage, tau):
    """An advantage of 0 takes the negative temperature, as in the paper; the slope at a ratio of 1 is REINFORCE's."""
    options = {"policy_loss": "sapo", "temperature_pos": 1.3, "temperature_neg": 0.8}
    assert one_token(1.7, advantage, **options) == pytest.approx(
        (-advantage * _gate(1.7, tau), -advantage * _gate_slope(1.7, tau)), abs=1e-14
    )
    assert one_token(1.0, advantage, **options)[1] == pytest.approx(-advantage, abs=1e-14)
    assert abs(one_token(40.0, advantage, **options)[1]) < 1e-8


@pytest.mark.parametrize("option", ["temperature_pos", "temperature_neg"])
def test_sapo_refuses_a_temperature_that_is_not_above_zero(option):
    with pytest.raises(ConfigError, match="temperatures above 0"):
        one_token(1.0, 1.0, policy_loss="sapo", **{option: 0.0})


@pytest.mark.parametrize(("advantage", "k", "rate"), [(2.0, 1.5, 0.5), (-2.0, 0.7, 2.5)])
def test_vespo_weighs_by_the_sequences_ratio_and_lets_no_gradient_through_the_weight(advantage, k, rate):
    """log π is −1: the loss is φ·A, its slope −φ·A. A slope through φ would add A·φ·(k − λw)."""
    options = {"policy_loss": "vespo", "k_pos": 1.5, "lambda_pos": 0.5, "k_neg": 0.7, "lambda_neg": 2.5}
    phi = 1.7**k * math.exp(rate * (1 - 1.7))
    assert one_token(1.7, advantage, **options) == pytest.approx((phi * advantage, -phi * advantage), abs=1e-14)
    assert one_token(1.0, advantage, **options) == pytest.approx((advantage, -advantage), abs=1e-14)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_vespo_multiplies_the_ratios_of_counted_tokens_whatever_the_level(level):
    """w = 1.2 · 1.1; what stands in padding, here e^9, is no part of it."""
    policy = torch.tensor([[-1.0, -2.0, -3.0]], **F64)
    old = policy - torch.tensor([[math.log(1.2), math.log(1.1), 9.0]], **F64)
    objective = AlgorithmConfig(policy_loss="vespo", importance_sampling_level=level)
    mask = torch.tensor([[1.0, 1.0, 0.0]], **F64)
    found = algorithm.token_loss(objective, policy, torch.tensor([1.0], **F64), mask, old_logps_BC=old)
    phi = 1.32**2 * math.exp(3 * (1 - 1.32))
    assert found.loss_BC[0, :2].tolist() == pytest.approx([phi, 2 * phi], rel=1e-12)


@pytest.mark.parametrize(("log_ratio", "phi"), [(-60.0, 1e-16 * math.exp(3)), (30.0, 0.0)])
def test_vespo_of_a_sequence_far_away_stays_finite(log_ratio, phi):
    """Down to w = 1e-8 (k = 2, λ = 3), and up to where exp(−λw) is nothing."""
    policy = torch.full((1, 6), -1.0, **F64)
    found = algorithm.token_loss(
        AlgorithmConfig(policy_loss="vespo"),
        policy,
        torch.tensor([1.0], **F64),
        torch.ones(1, 6, **F64),
        old_logps_BC=policy - log_ratio / 6,
    )
    assert found.loss_BC[0].tolist() == pytest.approx([phi] * 6, rel=1e-6, abs=1e-300)


def test_a_bad_completion_that_the_policy_has_left_is_no_longer_pushed():
    """Mean falls of log-probability a token: .3, .3, .1 and −.3; only the bad one beyond .2 is left out."""
    policy = torch.tensor([[-1.3, -1.3, -9.0], [-1.3, -1.3, -9.0], [-1.2, -1.0, -9.0], [-0.7, -0.7, -9.0]], **F64)
    sampled = torch.tensor([[-1.0, -1.0, 0.0]] * 4, **F64)
    mask = torch.tensor([[1.0, 1.0, 0.0]] * 4, **F64)
    advantages = torch.tensor([-1.0, 1.0, -1.0, -1.0], **F64)
    losses = [
        algorithm.token_loss(
            AlgorithmConfig(policy_loss="logp", importance_sampling_level="none", off_policy_threshold=threshold),
            policy,
            advantages,
            mask,
            sampler_logps_BC=sampled,
        ).loss_BC[:, :2]
        for threshold in (0.2, None)
    ]
    kept, all_of_them = losses
    assert kept[0].tolist() == [0.0, 0.0]
    assert torch.equal(kept[1:], all_of_them[1:]) and not all_of_them[0].eq(0).any()


def test_the_sequence_ratio_is_the_mean_over_counted_tokens_only():
    """Guards against padding counted in GSPO's mean, which makes the ratio depend on the longest row."""
    policy = torch.tensor([[-1.0, -1.0, -9.0]], **F64)
    old = torch.tensor([[-1.2, -1.0, -1.0]], **F64)
    mask = torch.tensor([[1.0, 1.0, 0.0]], **F64)
    found = algorithm.log_ratio(policy, old, mask, "sequence")
    assert found[0].tolist() == pytest.approx([0.1] * 3, abs=1e-15)


def test_clipped_tokens_are_counted_on_their_own_side():
    logps = torch.zeros(2, 2, **F64)
    old = -torch.tensor([[1.5, 0.5], [1.5, 0.5]], **F64).log()
    found = algorithm.token_loss(
        AlgorithmConfig(), logps, torch.tensor([1.0, -1.0]), torch.ones(2, 2), old_logps_BC=old
    )
    assert found.clipped_high_BC.tolist() == [[True, False], [False, False]]
    assert found.clipped_low_BC.tolist() == [[False, False], [False, True]]


def test_without_old_logps_the_ratio_is_one_and_carries_the_gradient():
    logps = torch.tensor([[-0.3, -2.0]], **F64, requires_grad=True)
    found = algorithm.token_loss(AlgorithmConfig(), logps, torch.tensor([2.0], **F64), torch.ones(1, 2))
    found.loss_BC.sum().backward()
    assert found.ratio_BC.tolist() == [[1.0, 1.0]]
    assert logps.grad.tolist() == [[-2.0, -2.0]]


# -- 4: temperature ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, -0.40761), (0.5, -0.14293), (2.0, -0.68027)])
def test_log_probabilities_are_those_of_the_temperature(temperature, expected):
    logits = torch.tensor([[[2.0, 1.0, 0.0]]], **F64)
    assert algorithm.token_logps(logits, torch.tensor([[0]]), temperature).item() == pytest.approx(expected, abs=5e-6)
    probs = (logits[0, 0] / temperature).softmax(-1)
    entropy = -(probs * probs.log()).sum().item()
    assert algorithm.token_entropy(logits, temperature).item() == pytest.approx(entropy, abs=1e-12)


def test_a_temperature_of_zero_has_no_log_probabilities():
    with pytest.raises(ValueError, match=r"temperature must be above 0.*use 1\.0"):
        algorithm.token_logps(torch.zeros(1, 1, 3), torch.tensor([[0]]), 0.0)


def test_log_probabilities_of_bfloat16_logits_are_computed_in_float32():
    """In bf16 the log-sum-exp is off by up to 1 %, which the ratio then exponentiates."""
    logits = torch.linspace(-3, 3, 200).to(torch.bfloat16).reshape(1, 1, -1)
    exact = logits.double().log_softmax(-1)[0, 0, 7].item()
    found = algorithm.token_logps(logits, torch.tensor([[7]]))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact, abs=2e-6)


# -- 5: KL ---------------------------------------------------------------------------------------------------------

REFERENCE = torch.tensor([0.5, 0.3, 0.2], **F64)
REVERSE = [-0.158568, 0.011707, 0.146862]
FORWARD = [-0.166667, 0.033333, 0.133333]


def expected_kl(estimator: str, *, times_ratio: bool = False, beta: float = 1.0) -> tuple[float, list[float]]:
    """Expectation over the vocabulary of the KL term of the loss, and of its gradient for the logits."""
    logits = torch.zeros(3, **F64, requires_grad=True)
    logps = logits.log_softmax(0).reshape(3, 1)
    objective = AlgorithmConfig(beta=beta, kl_estimator=estimator, kl_importance_weighted=times_ratio)
    found = algorithm.token_loss(
        objective, logps, torch.zeros(3, **F64), torch.ones(3, 1), reference_logps_BC=REFERENCE.log().reshape(3, 1)
    )
    loss = (found.loss_BC * logps.detach().exp()).sum()
    loss.backward()
    return float(loss.detach()), logits.grad.tolist()


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_have_the_value_of_the_kl(estimator):
    assert expected_kl(estimator)[0] == pytest.approx(0.070240, abs=5e-7)


def test_k2_is_half_the_squared_log_ratio():
    by_hand = sum((math.log(r) - math.log(1 / 3)) ** 2 / 6 for r in (0.5, 0.3, 0.2))
    assert expected_kl("k2")[0] == pytest.approx(by_hand, abs=1e-12)


def test_k3_at_a_log_ratio_of_minus_a_fifth():
    found = algorithm.kl_estimate(torch.tensor([[0.0]], **F64), torch.tensor([[-0.2]], **F64), "k3")
    assert found.item() == pytest.approx(0.018731, abs=5e-7)
    assert algorithm.kl_estimate(torch.tensor([[0.0]]), torch.tensor([[-0.2]]), "k1").item() == pytest.approx(0.2)


def test_the_gradient_of_k1_as_a_loss_is_nothing():
    """k1 in the loss looks like a KL penalty in the logs and does nothing; in the reward it works."""
    assert expected_kl("k1")[1] == pytest.approx([0.0] * 3, abs=1e-15)


def test_the_gradient_of_k2_as_a_loss_is_the_reverse_kls():
    assert expected_kl("k2")[1] == pytest.approx(REVERSE, abs=1e-6)


def test_the_gradient_of_k3_as_a_loss_is_the_forward_kls():
    assert expected_kl("k3")[1] == pytest.approx(FORWARD, abs=1e-6)


def test_k3_times_the_ratio_has_the_gradient_of_the_reverse_kl():
    value, gradient = expected_kl("k3", times_ratio=True)
    assert value == pytest.approx(0.070240, abs=5e-7)
    assert gradient == pytest.approx(REVERSE, abs=1e-6)


def test_beta_scales_the_kl_term():
    assert expected_kl("k3", beta=0.25)[1] == pytest.approx([g / 4 for g in FORWARD], abs=1e-6)


def test_a_kl_in_the_reward_leaves_the_loss_alone():
    logps = torch.tensor([[-1.0]], **F64)
    reference = torch.tensor([[-3.0]], **F64)
    objective = AlgorithmConfig(beta=10.0, kl_in="reward")
    found = algorithm.token_loss(
        objective, logps, torch.tensor([1.0]), torch.ones(1, 1), reference_logps_BC=reference
    )
    assert found.loss_BC.item() == -1.0
    assert found.kl_BC.item() == pytest.approx(math.exp(-2) + 2 - 1)


def test_a_kl_in_the_reward_is_taken_off_each_rollout_as_a_sum_over_its_counted_tokens(tiny):
    """Guards against a mean over tokens (long drift would cost as little as short) and against padding counted in."""
    sampler = torch.tensor([[-1.0, -2.0], [-1.0, -7.0]])
    batch = MicroBatch(
        prompts=((5,),),
        prompt_index=(0, 0),
        lengths=(2, 2),
        completion_ids_BC=torch.zeros(2, 2, dtype=torch.long),
        mask_BC=torch.tensor([[1.0, 1.0], [1.0, 0.0]]),
        sampler_logps_BC=sampler,
        advantages_B=torch.zeros(2),
        weights_BC=torch.ones(2, 2),
        rollout_index=(1, 0),
        reference_logps_BC=torch.tensor([[-1.5, -2.25], [-3.0, 0.0]]),
    )
    assert kl_penalties([batch], "k1") == pytest.approx([2.0, 0.75])
    assert kl_penalties([batch], "k2") == pytest.approx([2.0, 0.125 + 0.03125])
    from dunwu.core.records import Completion

    said = Completion(ids=(5, 6), sampler_logps=(-1.0, -2.0), finish_reason="stop", text="ab")
    group = tiny.group(tiny.prompts("q")[0], [said, said], [1.0, 1.0])
    lowered = subtract_kl_penalty([group], [2.0, 0.75])
    assert [r.reward for r in lowered[0].rollouts] == [-1.0, 0.25]
    assert [r.advantage for r in add_advantages(lowered, AlgorithmConfig(scale_rewards="none"))[0].rollouts] == [
        -0.625,
        0.625,
    ]


# -- 6: shift ------------------------------------------------------------------------------------------------------


def batch_of(ids: Tensor, completion: int) -> MicroBatch:
    rows = len(ids)
    zeros = torch.zeros(rows, completion)
    return MicroBatch(
        prompts=tuple(tuple(row) for row in ids[:, :-completion].tolist()),
        prompt_index=tuple(range(rows)),
        lengths=(completion,) * rows,
        completion_ids_BC=ids[:, -completion:],
        mask_BC=torch.ones(rows, completion),
        sampler_logps_BC=zeros,
        advantages_B=torch.zeros(rows),
        weights_BC=torch.ones(rows, completion),
    )


def test_a_uniform_model_gives_minus_log_v_everywhere(tiny):
    model = tiny.model("qwen2")
    torch.nn.init.zeros_(model.lm_head.weight)
    found, entropy = forward_logps(model, batch_of(torch.randint(5, 40, (2, 9)), 6))
    torch.testing.assert_close(found, torch.full((2, 6), -math.log(tiny.vocabulary)))
    torch.testing.assert_close(entropy, torch.full((2, 6), math.log(tiny.vocabulary)))


def test_a_model_that_predicts_previous_plus_one_is_certain_of_a_count(tiny):
    """Guards against the shift by one: log-probabilities of the wrong position are about −60 here, not about 0."""
    model = tiny.model("llama", hidden_size=tiny.vocabulary + (-tiny.vocabulary) % 8, num_attention_heads=4)
    width = model.config.hidden_size
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(tiny.vocabulary, width))
        model.lm_head.weight.copy_(torch.eye(tiny.vocabulary, width).roll(1, dims=0) * 10)
    logps, _ = forward_logps(model, batch_of(torch.tensor([[10, 11, 12, 13, 14, 15]]), 4))
    assert logps.abs().max() < 1e-4
    logps, _ = forward_logps(model, batch_of(torch.tensor([[10, 11, 12, 12, 13, 14]]), 4))
    assert (logps[0] < -10).tolist() == [False, True, False, False]


# -- 7: degenerate groups ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "share"), [(8, 0.43), (16, 0.19)])
def test_a_hard_prompt_wastes_the_expected_share_of_groups(size, share):
    """Over every outcome of G answers that are right with p = .1: those in which nothing is learned."""
    outcomes = torch.tensor(list(itertools.product([0.0, 1.0], repeat=size)), **F64)
    chance = (0.1**outcomes * 0.9 ** (1 - outcomes)).prod(dim=1)
    dead = (algorithm.advantages(outcomes) == 0).all(dim=1)
    assert float(chance[dead].sum()) == pytest.approx(share, abs=0.005)
    assert float(chance[dead].sum()) == pytest.approx(0.1**size + 0.9**size, rel=1e-9)


# -- 8: weights that small steps move ------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "share"), [(5e-7, 0.009), (1e-6, 0.019), (5e-6, 0.077), (1e-5, 0.15)])
def test_a_small_step_moves_few_bfloat16_weights_and_all_float32_ones(step, share):
    weights = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0)) * 0.02
    low = weights.to(torch.bfloat16)
    one_way = float(((low - step).to(torch.bfloat16) != low).float().mean())
    assert one_way == pytest.approx(share, rel=0.1)
    assert float((weights - step != weights).float().mean()) > 0.995


class _PushUp(TrainerCallback):
    """Gives every weight the same gradient, after the trainer has computed its own."""

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, -1.0)


def test_a_hundred_small_steps_move_a_model_saved_in_bfloat16_by_a_hundred_small_steps(tiny, make_trainer, tmp_path):
    """A bf16 checkpoint trained in bf16 stands still at lr 1e-6: steps round back. The default loads float32."""
    folder = str(tmp_path / "bf16")
    tiny.model(scale=0.02).to(torch.bfloat16).save_pretrained(folder)
    before = load_model(folder).get_parameter("model.layers.0.mlp.up_proj.weight").detach().clone()
    assert before.dtype == torch.float32
    trainer = make_trainer(
        folder,
        max_steps=100,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        num_generations=2,
        prompts_per_step=1,
        max_completion_length=1,
        logging_steps=100,
        extras={"callbacks": [_PushUp()]},
    )
    trainer.train()
    moved = trainer.model.get_parameter("model.layers.0.mlp.up_proj.weight").detach().double() - before.double()
    assert float(moved.mean()) == pytest.approx(1e-4, rel=0.01)
    assert float((moved - 1e-4).abs().max()) < 1e-6


# -- weights and denominators --------------------------------------------------------------------------------------


def test_a_masked_row_leaves_every_denominator():
    assert algorithm.loss_denominator([3, 0, 5], "seq_mean", 10) == 2.0
    assert algorithm.loss_denominator([3, 0, 5], "token_mean", 10) == 8.0
    assert algorithm.loss_denominator([3, 0, 5], "seq_sum", 10) == 2.0
    assert algorithm.loss_denominator([3, 0, 5], "seq_sum_norm", 10) == 20.0
    for aggregation in ("seq_mean", "token_mean", "seq_sum", "seq_sum_norm"):
        assert algorithm.loss_denominator([0, 0], aggregation, 10) == 1.0


def test_weights_of_a_masked_row_are_zero_and_never_nan():
    mask = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert algorithm.loss_weights(mask, "seq_mean").tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    assert algorithm.loss_weights(mask, "token_mean").tolist() == mask.tolist()
    assert algorithm.loss_weights(mask, "seq_sum").tolist() == mask.tolist()
    assert algorithm.loss_weights(mask, "seq_sum_norm").tolist() == mask.tolist()


def test_sums_for_the_log_pass_over_what_stands_in_padding():
    """0 × inf is NaN: one infinite value in padding would make every logged mean NaN."""
    mask = torch.tensor([[1.0, 0.0]])
    bad = torch.tensor([[-1.0, -torch.inf]])
    found = algorithm.token_loss(AlgorithmConfig(), bad, torch.tensor([1.0]), mask, old_logps_BC=torch.zeros(1, 2))
    sums = algorithm.loss_metric_sums(found, bad, torch.tensor([[-1.5, 0.0]]), torch.tensor([[0.7, torch.inf]]), mask)
    assert {name: float(value) for name, value in sums.items()} == pytest.approx(
        {
            "tokens": 1.0,
            "entropy": 0.7,
            "clip_ratio/low_mean": 0.0,
            "clip_ratio/high_mean": 0.0,
            "clip_ratio/region_mean": 0.0,
            "importance_ratio/mean": math.exp(-1),
            "sampling/sampling_logp_difference/mean": 0.5,
        }
    )
