"""TRL 1.16 as an outside oracle: on one batch of rollouts, its loss and gradient are ours.

What is compared is TRL's own `GRPOTrainer.compute_loss` on a real trainer. Where ours differs by design, the test
says so and compares the case that means the same: TRL's bnpo divides by the tokens of a micro-batch (ours by the
step's), its grpo, sapo, luspo, gspo and dr_grpo count masked completions in the denominator (ours leaves them out),
and its KL correction takes the sequence's ratio where the surrogate does (ours always the token's).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dunwu.config import GRPOConfig
from dunwu.core import algorithm
from dunwu.core.algorithm import AlgorithmConfig
from dunwu.core.metrics import logged_metrics
from dunwu.core.records import MicroBatch, SamplingParams
from dunwu.engines import TransformersEngine
from dunwu.model.logprobs import forward_logps, padded
from dunwu.rewards import RewardRunner
from dunwu.rollout.collect import add_advantages, collect
from dunwu.rollout.micro_batches import make_micro_batches, trained_token_counts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    trl = pytest.importorskip("trl", minversion="1.16.0")
    from trl import GRPOConfig as TheirConfig
    from trl import GRPOTrainer as TheirTrainer

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's own; nothing of ours is checked for warnings here

LIMIT = 10


class Fixed:
    """Scores that differ within groups, by position."""

    def score(self, *, prompts, completions, completion_ids, columns):
        from dunwu.core.records import RewardScores

        values = tuple(((0.3 + (7 * i) % 5) / 3,) for i in range(len(completions)))
        return RewardScores(names=("fixed",), values=values)

    def total(self, scores):
        return [value for (value,) in scores.values]


@pytest.fixture(scope="module")
def scene(tiny, tmp_path_factory) -> SimpleNamespace:
    """A policy, a moved copy of it, a reference, and rollouts of the policy before it moved."""
    tokenizer = tiny.tokenizer()
    old = tiny.model("llama").eval()
    old.generation_config.eos_token_id = list(range(5, 12))
    moved, reference = copy.deepcopy(old), copy.deepcopy(old)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    prompts = tiny.prompts("a", "what is 2+2", tokenizer=tokenizer)
    groups = collect(prompts, TransformersEngine(old, tokenizer), Fixed(), SamplingParams(n=6, max_new_tokens=LIMIT))
    assert {r.completion.finish_reason for g in groups for r in g.rollouts} == {"stop", "length"}
    folder = str(tmp_path_factory.mktemp("policy"))  # TRL loads its reference by name
    moved.save_pretrained(folder)
    return SimpleNamespace(
        policy=moved, folder=folder, old=old, reference=reference, groups=groups, tokenizer=tokenizer
    )


@pytest.fixture
def their_trainer(scene, tmp_path) -> Callable[..., Any]:
    def make(**options: Any) -> Any:
        from datasets import Dataset

        args = TheirConfig(
            output_dir=str(tmp_path / "trl"),
            use_cpu=True,
            bf16=False,
            report_to="none",
            disable_tqdm=True,
            num_generations=6,
            per_device_train_batch_size=12,
            gradient_accumulation_steps=1,
            gradient_checkpointing=False,
            max_completion_length=LIMIT,
            model_init_kwargs={"dtype": "float32"},
            **options,
        )
        trainer = TheirTrainer(
            model=scene.folder,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=args,
            train_dataset=Dataset.from_list([{"prompt": "a"}] * 4),
            processing_class=scene.tokenizer,
        )
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    return make


def ours(scene: Any, tmp_path: Any, *, with_old: bool, redact: bool = False, **options: Any) -> tuple[Any, ...]:
    """(loss, gradients, the batch, its counted lengths) of our functions."""
    args = GRPOConfig(output_dir=str(tmp_path), max_completion_length=LIMIT, use_cpu=True, **options)
    objective = args.algorithm()
    groups = add_advantages(scene.groups, objective)
    # The masked rows stay in TRL's batch: the whole batch is packed unmasked, and masked by hand below.
    (batch,) = make_micro_batches(groups, loss_aggregation=objective.loss_aggregation, tokens=100_000)
    with torch.no_grad():
        old = forward_logps(scene.old, batch)[0] if with_old else None
        reference = forward_logps(scene.reference, batch)[0]
    lengths = trained_token_counts(groups, mask_truncated=redact)
    used = batch
    if redact:
        (used,) = make_micro_batches(
            groups, loss_aggregation=objective.loss_aggregation, tokens=100_000, mask_truncated=True
        )
        width = used.mask_BC.shape[1]
        rows = [batch.rollout_index.index(i) for i in used.rollout_index]
        old = None if old is None else old[rows, :width]
        reference_used = reference[rows, :width]
    else:
        reference_used = reference
    model = copy.deepcopy(scene.policy)
    logps, _ = forward_logps(model, used)
    result = algorithm.token_loss(
        objective,
        logps,
        used.advantages_B,
        used.mask_BC,
        old_logps_BC=old,
        reference_logps_BC=reference_used if objective.beta else None,
    )
    denominator = algorithm.loss_denominator(lengths, objective.loss_aggregation, LIMIT)
    loss = (result.loss_BC * used.weights_BC).sum() / denominator
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters()}, batch, lengths


def their_inputs(scene: Any, batch: MicroBatch, lengths: list[int], *, with_old: bool) -> dict[str, torch.Tensor]:
    width = batch.mask_BC.shape[1]
    counted = torch.tensor([[float(lengths[i] > 0)] for i in batch.rollout_index])
    ids, attention, _ = padded(batch)
    inputs = {
        "prompt_ids": ids[:, :-width],
        "prompt_mask": attention[:, :-width],
        "completion_ids": ids[:, -width:],
        "completion_mask": (batch.mask_BC * counted).long(),
        "advantages": batch.advantages_B,
        "num_items_in_batch": (batch.mask_BC * counted).sum(),
    }
    with torch.no_grad():
        if with_old:
            inputs["old_per_token_logps"] = forward_logps(scene.old, batch)[0]
        inputs["ref_per_token_logps"] = forward_logps(scene.reference, batch)[0]
    return inputs


def theirs(trainer: Any, inputs: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in trainer.model.named_parameters()}


SAPO = {"loss_options": None, "sapo_temperature_pos": 0.6, "sapo_temperature_neg": 2.0}
VESPO = {"loss_options": None, "vespo_k_pos": 1.0, "vespo_lambda_pos": 2.0} | {
    "vespo_k_neg": 0.5,
    "vespo_lambda_neg": 0.7,
}
"""TRL's arguments in place of `loss_options`."""

CASES = [
    ("grpo", {}, {}),
    ("bnpo", {}, {}),
    ("dr_grpo", {"scale_rewards": "none"}, {}),
    ("dapo", {}, {}),
    ("dapo", {"epsilon_high": 0.28}, {}),
    ("grpo", {"epsilon": 0.01, "epsilon_high": 0.02}, {}),
    ("grpo", {"delta": 1.21}, {}),
    ("cispo", {"epsilon_high": 1.1}, {}),
    ("cispo", {"epsilon_high": 5.0}, {}),
    ("sapo", {}, {}),
    ("sapo", {"loss_options": {"temperature_pos": 0.6, "temperature_neg": 2.0}}, SAPO),
    ("luspo", {"epsilon": 3e-3, "epsilon_high": 4e-3}, {"importance_sampling_level": "sequence"}),
    ("luspo", {"importance_sampling_level": "token"}, {}),
    ("vespo", {}, {}),
    ("vespo", {"loss_options": {"k_pos": 1.0, "lambda_pos": 2.0, "k_neg": 0.5, "lambda_neg": 0.7}}, VESPO),
    ("dapo", {"off_policy_mask_threshold": 1e-3}, {}),
    ("gspo", {}, {"loss_type": "grpo", "importance_sampling_level": "sequence"}),
    ("gspo", {"epsilon": 3e-3, "epsilon_high": 4e-3}, {"loss_type": "grpo", "importance_sampling_level": "sequence"}),
]


def named(case: tuple[str, dict[str, Any], dict[str, Any]]) -> str:
    return "-".join([case[0], *(f"{k}={v}" for k, v in case[1].items())])


def takes_the_ratio_of_sequences(case: tuple[str, dict[str, Any], dict[str, Any]]) -> bool:
    return case[2].get("importance_sampling_level") == "sequence"


KLS = {
    "no-kl": {},
    "kl": {"beta": 0.3, "use_bias_correction_kl": False},
    "kl-corrected": {"beta": 0.3, "use_bias_correction_kl": True},
}


@pytest.mark.parametrize("with_old", [False, True], ids=["first-update", "later-update"])
@pytest.mark.parametrize(
    ("case", "kl"),
    [(case, kl) for case in CASES for kl in KLS if not (takes_the_ratio_of_sequences(case) and kl == "kl-corrected")],
    ids=lambda part: part if isinstance(part, str) else named(part),
)
def test_loss_and_gradient_are_those_of_trl(scene, tiny, their_trainer, tmp_path, case, kl, with_old):
    """bnpo and the sequence means agree because the batch is one micro-batch with nothing masked.

    gspo and luspo with a corrected KL are left out: TRL multiplies each token's KL by the sequence's ratio, ours by
    the token's own (DeepSeek-V3.2 derives it for tokens), and their gradients differ from the first update on.
    """
    name, options, instead = case
    kl = KLS[kl]
    loss, gradients, batch, lengths = ours(scene, tmp_path, with_old=with_old, loss_type=name, **options, **kl)
    given = {"loss_type": name} | options | kl | instead
    trainer = their_trainer(**{name: value for name, value in given.items() if name != "loss_options"})
    expected, slopes = theirs(trainer, their_inputs(scene, batch, lengths, with_old=with_old))
    assert loss == pytest.approx(expected, abs=2e-6)
    assert tiny.far(slopes, gradients) < 1e-5
    assert any(slope.abs().max() > 1e-3 for slope in slopes.values())


def test_the_off_policy_threshold_of_the_comparison_leaves_some_completions_out(scene, tmp_path):
    whole, _, _, _ = ours(scene, tmp_path, with_old=True, loss_type="dapo")
    part, _, _, _ = ours(scene, tmp_path, with_old=True, loss_type="dapo", off_policy_mask_threshold=1e-3)
    assert part != pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize("kl", [{}, {"beta": 0.3, "use_bias_correction_kl": True}], ids=["no-kl", "kl-corrected"])
@pytest.mark.parametrize("name", ["dapo", "bnpo", "cispo", "vespo", "grpo", "sapo", "dr_grpo"])
def test_masked_truncated_completions_are_those_of_trl(scene, tiny, their_trainer, tmp_path, name, kl):
    """TRL's grpo, sapo and dr_grpo divide by all completions, the masked ones too; ours by those that count."""
    more = {"epsilon_high": 5.0} if name == "cispo" else {"scale_rewards": "none"} if name == "dr_grpo" else {}
    options = {"loss_type": name, **more, **kl}
    loss, gradients, batch, lengths = ours(scene, tmp_path, with_old=True, redact=True, **options)
    assert 0 < lengths.count(0) < 12
    expected, slopes = theirs(their_trainer(**options), their_inputs(scene, batch, lengths, with_old=True))
    design = 12 / (12 - lengths.count(0)) if name in ("grpo", "sapo", "dr_grpo") else 1.0
    assert loss == pytest.approx(expected * design, abs=2e-6)
    assert tiny.far({n: slope * design for n, slope in slopes.items()}, gradients) < 1e-5


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_log_probabilities_at_a_temperature_are_those_of_trl(scene, their_trainer, temperature):
    groups = add_advantages(scene.groups, AlgorithmConfig())
    (batch,) = make_micro_batches(groups, loss_aggregation="token_mean", tokens=100_000, temperature=temperature)
    trainer = their_trainer(temperature=temperature)
    with torch.no_grad():
        logps, entropy = forward_logps(scene.policy, batch)
        ids, attention, _ = padded(batch)
        expected, expected_entropy, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, attention, batch.mask_BC.shape[1], compute_entropy=True
        )
    mask = batch.mask_BC.bool()
    torch.testing.assert_close(logps[mask], expected[mask], atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy[mask], expected_entropy[mask], atol=1e-5, rtol=0)


REWARDS = [[1.0, 0.0, 0.0, 0.0, 1.0, 0.25], [3.0, -1.0, 0.5, 0.5, 0.5, 2.0]]


@pytest.mark.parametrize("holes", [(), (1, 8), (0, 1, 2, 3, 4)], ids=["all", "two-none", "one-left"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_of_the_same_rewards_are_those_of_trl(scene, their_trainer, scale, holes):
    """Through TRL's whole rollout, with a reward function that returns these numbers (None where nothing applies)."""
    flat = [None if i in holes else r for i, r in enumerate(chain(*REWARDS))]
    trainer = their_trainer(scale_rewards=scale)
    trainer.reward_funcs = [lambda completions, **_: flat]
    torch.manual_seed(0)
    output = trainer._generate_and_score_completions([{"prompt": p} for p in ["a"] * 6 + ["b"] * 6])
    rewards = torch.tensor([float("nan") if r is None else r for r in flat], dtype=torch.float64).view(2, 6)
    found = algorithm.advantages(rewards, scale=scale).flatten()
    torch.testing.assert_close(found.float(), output["advantages"], atol=1e-5, rtol=1e-5)


def test_what_a_reward_function_logs_is_what_trl_keeps_of_it(scene, their_trainer):
    """TRL's own step with two functions: the arguments they get, the metrics, and the columns."""
    seen: list[set[str]] = []

    def logs(completions, log_metric, log_extra, trainer_state, **columns):
        seen.append({"log_metric", "log_extra", "trainer_state", "completions", *columns})
        log_metric("length", sum(map(len, completions)) / len(completions))
        log_metric("step", trainer_state.global_step)
        log_extra("upper", [text.upper() for text in completions])
        return [1.0] * len(completions)

    def later(completions, log_metric, log_extra, **_):
        log_metric("length", 0.0)
        for i, _ in enumerate(completions):
            log_extra("index", [i])
        return [2.0] * len(completions)

    trainer = their_trainer()
    trainer.reward_funcs, trainer.reward_func_names = [logs, later], ["logs", "later"]
    trainer.reward_processing_classes, trainer.reward_weights = [None, None], torch.ones(2)
    trainer.state.global_step = 3
    trainer._generate_and_score_completions([{"prompt": p, "n": 1} for p in ["a"] * 6 + ["b"] * 6])
    completions = list(trainer._logs["completion"])
    runner = RewardRunner([logs, later])
    runner.trainer_state = lambda: trainer.state
    scores = runner.score(
        prompts=list(trainer._logs["prompt"]),
        completions=completions,
        completion_ids=[[1]] * 12,
        columns={"n": [1] * 12},
    )
    assert seen[0] == seen[1]
    expected = {name: value for name in ("length", "step") for value in trainer._metrics["train"][name]}
    assert logged_metrics([scores.metrics]) == pytest.approx(expected, rel=1e-6)
    assert {name: list(values) for name, values in scores.extras.items()} == {
        name: list(values) for name, values in trainer._logs["extra"].items()
    }


class Replay:
    """An engine that says what was said before."""

    def __init__(self, groups: Any) -> None:
        self.said = {g.prompt.row_index: [r.completion for r in g.rollouts] for g in groups}

    def sync_weights(self, policy: Any, *, version: int) -> None:
        pass

    def session(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()

    def generate(self, prompts: Any, sampling: Any) -> Any:
        return [self.said[prompt.row_index] for prompt in prompts]


@pytest.mark.parametrize("name", ["grpo", "dapo", "dr_grpo"])
def test_a_whole_optimizer_step_on_the_same_rollouts_gives_the_weights_of_trl(
    scene, make_trainer, their_trainer, name
):
    """Clipping, AdamW, its betas, weight decay and the first learning rate: everything after the gradient."""
    rewards = [(0.3 + (7 * i) % 5) / 3 for i in range(12)]
    options = {"loss_type": name, "learning_rate": 1e-3, "max_grad_norm": 0.5, "weight_decay": 0.1}
    # With the usual epsilon AdamW's first step is lr × sign(g): it would hide a gradient of the wrong size.
    options |= {"adam_epsilon": 1e-3}
    options |= {"scale_rewards": "none"} if name == "dr_grpo" else {}
    trainer = make_trainer(
        copy.deepcopy(scene.policy),
        lambda completions, **_: rewards,
        [{"prompt": "a"}, {"prompt": "what is 2+2"}],
        tokenizer=scene.tokenizer,
        extras={"engine": Replay(scene.groups)},
        max_steps=1,
        num_generations=6,
        max_completion_length=LIMIT,
        shuffle_dataset=False,
        tokens_per_micro_batch=60,
        **options,
    )
    trainer.train()
    groups = add_advantages(scene.groups, trainer.algorithm)
    (batch,) = make_micro_batches(groups, loss_aggregation="token_mean", tokens=100_000)
    lengths = trained_token_counts(groups, mask_truncated=False)
    other = their_trainer(max_steps=1, **options)
    other.create_optimizer_and_scheduler(1)
    theirs_inputs = their_inputs(scene, batch, lengths, with_old=False)
    other.compute_loss(other.model, theirs_inputs).backward()
    torch.nn.utils.clip_grad_norm_(other.model.parameters(), 0.5)
    other.optimizer.step()
    before = scene.policy.state_dict()
    for key, value in other.model.state_dict().items():
        assert not torch.equal(value, before[key]) or "norm" in key
        torch.testing.assert_close(trainer.model.state_dict()[key], value, atol=1e-6, rtol=0)
