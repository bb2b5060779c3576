"""The algorithm: pure tensor functions, each with its equation and its source.

Advantages, importance ratios, policy losses, KL estimators, weights, denominators, log-probabilities. Nothing here
knows a model, a tokenizer, a device or a process group.

An algorithm is a product of choices (`AlgorithmConfig`), not a list of names; the names are in `config.PRESETS`.
One law: a step's loss is  sum(weight of a token × loss of a token) / denominator  with one
denominator for all micro-batches and all ranks, so that how a step is cut never changes its gradient.

Shapes: B rows, C completion positions, P prompts, G completions a prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from dunwu.core.policy_losses import LossInputs, bind_policy_loss
from dunwu.errors import ConfigError

__all__ = [
    "STD_EPS",
    "AlgorithmConfig",
    "Baseline",
    "ImportanceCorrection",
    "KlEstimator",
    "KlPlace",
    "LossAggregation",
    "RatioLevel",
    "RewardScale",
    "TokenLoss",
    "advantages",
    "importance_weights",
    "kl_estimate",
    "log_ratio",
    "loss_denominator",
    "loss_metric_sums",
    "loss_weights",
    "off_policy_mask",
    "token_entropy",
    "token_logps",
    "token_loss",
]

STD_EPS = 1e-4
"""Added to a standard deviation before dividing by it; the value the tutorials' library uses."""

RewardScale: TypeAlias = Literal["group", "batch", "none"]
Baseline: TypeAlias = Literal["mean", "leave_one_out"]
RatioLevel: TypeAlias = Literal["token", "sequence", "none"]
LossAggregation: TypeAlias = Literal["seq_mean", "token_mean", "seq_sum", "seq_sum_norm"]
KlEstimator: TypeAlias = Literal["k1", "k2", "k3"]
KlPlace: TypeAlias = Literal["loss", "reward"]
ImportanceCorrection: TypeAlias = Literal["none", "truncate", "mask"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmConfig:
    """One algorithm, as the product of its choices.

    Example, DAPO: `AlgorithmConfig(loss_aggregation="token_mean", loss_options={"epsilon_high": 0.28})`

    Example, Dr. GRPO: `AlgorithmConfig(scale_rewards="none", loss_aggregation="seq_sum_norm")`
    """

    advantage_baseline: Baseline = "mean"
    """What a reward is compared with: the group's mean, or the mean of the others (RLOO)."""
    scale_rewards: RewardScale = "group"
    """What the difference is divided by: the group's standard deviation, the batch's, or nothing."""
    importance_sampling_level: RatioLevel = "token"
    """Level of the importance ratio."""
    policy_loss: str = "clip"
    """How ratio and advantage meet: a name in `policy_losses.POLICY_LOSSES`, or `package.module:function`."""
    loss_options: Mapping[str, object] = field(default_factory=dict)
    """The policy loss's own options, over its defaults."""
    loss_aggregation: LossAggregation = "token_mean"
    """How token losses become one number."""
    beta: float = 0.0
    """Coefficient of the KL term; 0: no reference model is needed."""
    kl_estimator: KlEstimator = "k3"
    """Schulman's estimators of KL(policy‖reference)."""
    kl_in: KlPlace = "loss"
    """Whether the KL term is added to each token's loss or taken off the sequence's reward."""
    kl_importance_weighted: bool = False
    """Multiply the KL term by the token ratio: its gradient is then that of the reverse KL (DeepSeek-V3.2)."""
    importance_correction: ImportanceCorrection = "none"
    """What is done where the sampler's distribution is not the policy's (another kernel, dtype or server): nothing,
    a weight π / π_sampler of at most `importance_cap` a token, or no loss for tokens beyond the cap either way."""
    importance_cap: float = 2.0
    """Largest weight of a token, or largest mismatch that is trained on."""
    off_policy_threshold: float | None = None
    """Completions with a negative advantage that drifted further than this from the policy are left out of the
    surrogate (see `off_policy_mask`); None: none is."""

    @property
    def can_skip_zero_advantage(self) -> bool:
        """Whether a rollout with advantage 0 adds nothing to the gradient, so that its forward can be skipped."""
        return self.beta == 0.0 or self.kl_in == "reward"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLoss:
    """Per-token loss and what is worth logging of it; all (B, C).

    Example: `TokenLoss(loss_BC=torch.tensor([[-0.7, -0.84]]), kl_BC=None, ratio_BC=torch.tensor([[1.0, 1.49]]),
    clipped_low_BC=torch.tensor([[False, False]]), clipped_high_BC=torch.tensor([[False, True]]))`
    """

    loss_BC: Tensor
    """Loss of each token before weights; carries the gradient."""
    kl_BC: Tensor | None
    """KL estimate of each token (detached), None without a reference."""
    clipped_low_BC: Tensor
    """True where the surrogate is clipped at the lower bound (advantage < 0)."""
    clipped_high_BC: Tensor
    """True where the surrogate is clipped at the upper bound (advantage > 0)."""
    ratio_BC: Tensor
    """Importance ratio of each token (detached)."""


def token_logps(logits_BCV: Tensor, ids_BC: Tensor, temperature: float = 1.0) -> Tensor:
    """log p(id) under softmax(logits / temperature), in float32 (float64 stays). Returns (B, C), nats.

    The policy applies the sampler's temperature: they must be one distribution, or the ratio is wrong from the start.
    """
    if temperature <= 0:
        raise ConfigError(f"temperature must be above 0 for log-probabilities, got {temperature}; use 1.0")
    logits_BCV = _at_least_float32(logits_BCV) / temperature
    picked_BC = logits_BCV.gather(-1, ids_BC.unsqueeze(-1)).squeeze(-1)
    return picked_BC - logits_BCV.logsumexp(dim=-1)


def token_entropy(logits_BCV: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy −Σ p log p of each position's distribution, (B, C), nats."""
    logps_BCV = (_at_least_float32(logits_BCV) / temperature).log_softmax(dim=-1)
    return -(logps_BCV.exp() * logps_BCV).sum(dim=-1)


def advantages(
    rewards_PG: Tensor, *, baseline: Baseline = "mean", scale: RewardScale = "group", eps: float = STD_EPS
) -> Tensor:
    """How much better each rollout is than its group, (P, G); NaN rewards (unscorable) get 0 and shift no mean.

    A = (r − mean) / (std + eps), std with ddof 1 (DeepSeekMath, arXiv 2402.03300, eq. 3); `scale="none"` is Dr. GRPO
    (arXiv 2503.20783); `scale="batch"` divides by the whole batch's std (arXiv 2508.08221); `leave_one_out` compares
    with the mean of the others, A = (r − mean) · G / (G − 1) (RLOO, arXiv 2402.14740, eq. 8).
    Equal rewards in a group give exactly 0, whatever the rounding of their mean.

    Raises:
        ConfigError: with fewer than two completions a prompt: one has nothing to be compared with.
    """
    if rewards_PG.ndim != 2 or rewards_PG.shape[1] < 2:
        raise ConfigError(
            f"a group needs at least 2 completions to compare, got rewards of shape {tuple(rewards_PG.shape)}; "
            "raise num_generations"
        )
    rewards = rewards_PG.double()
    scored = ~rewards.isnan()
    count_P1 = scored.sum(dim=1, keepdim=True)
    centred = rewards - rewards.nanmean(dim=1, keepdim=True)
    if baseline == "leave_one_out":
        centred = centred * count_P1 / (count_P1 - 1).clamp(min=1)
    if scale == "group":
        centred = centred / (_nanstd(rewards, dim=1) + eps)
    elif scale == "batch":
        centred = centred / (_nanstd(rewards.reshape(1, -1), dim=1) + eps)
    return torch.where(scored & ~_all_equal(rewards), centred, 0.0).to(rewards_PG.dtype)


def log_ratio(policy_logps_BC: Tensor, old_logps_BC: Tensor, mask_BC: Tensor, level: RatioLevel) -> Tensor:
    """log of the importance ratio π / π_old, (B, C).

    `token`: log π(o_t) − log π_old(o_t) (PPO). `sequence`: its mean over the row's trained tokens, one for all of
    them (GSPO, arXiv 2507.18071, eq. 7). `none`: 0 in value, with the policy's gradient (REINFORCE).
    """
    if level == "none":
        return policy_logps_BC - policy_logps_BC.detach()
    difference_BC = policy_logps_BC - old_logps_BC
    if level == "token":
        return difference_BC
    mean_B1 = (difference_BC * mask_BC).sum(-1, keepdim=True) / mask_BC.sum(-1, keepdim=True).clamp(min=1.0)
    return mean_B1.expand_as(difference_BC)


def kl_estimate(policy_logps_BC: Tensor, reference_logps_BC: Tensor, estimator: KlEstimator = "k3") -> Tensor:
    """Estimate of KL(policy‖reference) at each sampled token, (B, C), nats (Schulman, "Approximating KL divergence").

    With d = log π_ref − log π:  k1 = −d,  k2 = d²/2,  k3 = exp(d) − d − 1. As a *loss* their gradients differ: k1 has
    none in expectation, k2 has the reverse KL's, k3 the forward KL's (π − π_ref); k3 × ratio has the reverse KL's.
    """
    d = reference_logps_BC - policy_logps_BC
    if estimator == "k1":
        return -d
    if estimator == "k2":
        return 0.5 * d.square()
    return torch.expm1(d) - d


def token_loss(
    algorithm: AlgorithmConfig,
    policy_logps_BC: Tensor,
    advantages_B: Tensor,
    mask_BC: Tensor,
    *,
    old_logps_BC: Tensor | None = None,
    sampler_logps_BC: Tensor | None = None,
    reference_logps_BC: Tensor | None = None,
    entropy_BC: Tensor | None = None,
) -> TokenLoss:
    """Loss of every token, before weights.

    `old_logps_BC=None`: the policy has not moved since it sampled; the ratio is exactly 1 and carries its gradient.
    """
    old_BC = policy_logps_BC.detach() if old_logps_BC is None else old_logps_BC
    ratio_BC = log_ratio(policy_logps_BC, old_BC, mask_BC, algorithm.importance_sampling_level).exp()
    inputs = LossInputs(
        ratio_BC=ratio_BC,
        policy_logps_BC=policy_logps_BC,
        old_logps_BC=old_BC,
        sampler_logps_BC=sampler_logps_BC,
        advantages_B1=advantages_B.unsqueeze(1),
        mask_BC=mask_BC,
        entropy_BC=entropy_BC,
    )
    result = bind_policy_loss(algorithm.policy_loss, algorithm.loss_options)(inputs)
    loss_BC = _without_what_is_off_policy(algorithm, result.loss_BC, inputs)
    kl_BC = _maybe_kl(algorithm, policy_logps_BC, reference_logps_BC)
    if kl_BC is not None:
        loss_BC = loss_BC + _kl_loss(algorithm, kl_BC, policy_logps_BC - old_BC)
    return TokenLoss(
        loss_BC=loss_BC,
        kl_BC=None if kl_BC is None else kl_BC.detach(),
        clipped_low_BC=_or_nowhere(result.clipped_low_BC, ratio_BC),
        clipped_high_BC=_or_nowhere(result.clipped_high_BC, ratio_BC),
        ratio_BC=ratio_BC.detach(),
    )


def importance_weights(algorithm: AlgorithmConfig, old_logps_BC: Tensor, sampler_logps_BC: Tensor) -> Tensor:
    """Weight of each token for having been sampled from another distribution than the policy's, (B, C), no gradient.

    With w = π_old / π_sampler: `truncate` gives min(w, cap) (truncated importance sampling, Yao et al. 2025,
    "Your efficient RL framework secretly brings you off-policy RL training"); `mask` gives 1 where
    1/cap ≤ w ≤ cap and 0 elsewhere (IcePop, Ling team 2025).
    """
    weight_BC = (old_logps_BC.detach() - sampler_logps_BC).exp()
    if algorithm.importance_correction == "truncate":
        return weight_BC.clamp(max=algorithm.importance_cap)
    inside_BC = (weight_BC <= algorithm.importance_cap) & (weight_BC >= 1 / algorithm.importance_cap)
    return inside_BC.to(weight_BC.dtype)


def _without_what_is_off_policy(algorithm: AlgorithmConfig, loss_BC: Tensor, x: LossInputs) -> Tensor:
    """The loss of the surrogate, weighed or masked where the sampler and the policy are not one."""
    if algorithm.importance_correction != "none" and x.sampler_logps_BC is not None:
        loss_BC = loss_BC * importance_weights(algorithm, x.old_logps_BC, x.sampler_logps_BC)
    if algorithm.off_policy_threshold is None:
        return loss_BC
    sampled_BC = x.old_logps_BC if x.sampler_logps_BC is None else x.sampler_logps_BC
    return loss_BC * off_policy_mask(x, sampled_BC, algorithm.off_policy_threshold)


def off_policy_mask(x: LossInputs, sampled_logps_BC: Tensor, threshold: float) -> Tensor:
    """1 for completions that are trained on, 0 for those that are not, (B, 1), no gradient.

    Left out are completions with A < 0 whose log-probability a token, in the mean, has fallen by more than
    `threshold` since they were sampled: the policy has left them already, and pushing on destabilises it
    (DeepSeek-V3.2, arXiv 2512.02556, eq. 9).
    """
    drift_BC = torch.where(x.mask_BC > 0, sampled_logps_BC - x.policy_logps_BC.detach(), 0.0)
    mean_B1 = drift_BC.sum(-1, keepdim=True) / x.mask_BC.sum(-1, keepdim=True).clamp(min=1.0)
    return ((x.advantages_B1 >= 0) | (mean_B1 <= threshold)).to(x.mask_BC.dtype)


def loss_weights(mask_BC: Tensor, loss_aggregation: LossAggregation) -> Tensor:
    """Weight of each token's loss, (B, C).

    `seq_mean`: mask / length, every completion counts the same (GRPO, arXiv 2402.03300). `token_mean`, `seq_sum` and
    `seq_sum_norm`: mask, every token counts the same (DAPO, LUSPO, Dr. GRPO).
    """
    if loss_aggregation != "seq_mean":
        return mask_BC
    return mask_BC / mask_BC.sum(-1, keepdim=True).clamp(min=1.0)


def loss_denominator(lengths: list[int], loss_aggregation: LossAggregation, max_completion_length: int) -> float:
    """The one number a whole step's weighted loss is divided by.

    `lengths` are the counted tokens of every completion of the step on all ranks; a masked completion (0 tokens) is
    left out, as if it had not been sampled. `seq_mean`: number of completions. `token_mean`: number of tokens.
    `seq_sum`: number of completions, so that a sequence weighs by its length (LUSPO, arXiv 2602.05261).
    `seq_sum_norm`: completions × max_completion_length (Dr. GRPO, arXiv 2503.20783). Never below 1: a step in which
    all is masked has loss 0.
    """
    counted = [length for length in lengths if length > 0]
    totals = {
        "seq_mean": len(counted),
        "seq_sum": len(counted),
        "token_mean": sum(counted),
        "seq_sum_norm": len(counted) * max_completion_length,
    }
    return float(max(totals[loss_aggregation], 1))


@torch.no_grad()
def loss_metric_sums(
    result: TokenLoss, policy_logps_BC: Tensor, sampler_logps_BC: Tensor, entropy_BC: Tensor, mask_BC: Tensor
) -> dict[str, Tensor]:
    """Sums over the counted tokens of what is worth logging, and their number under `tokens`; scalars.

    Sums, not means: they add up over micro-batches and ranks, and are divided once.
    """
    gap_BC = (policy_logps_BC - sampler_logps_BC).abs()
    per_token = {
        "tokens": torch.ones_like(mask_BC),
        "entropy": entropy_BC,
        "clip_ratio/low_mean": result.clipped_low_BC,
        "clip_ratio/high_mean": result.clipped_high_BC,
        "clip_ratio/region_mean": result.clipped_low_BC | result.clipped_high_BC,
        "importance_ratio/mean": result.ratio_BC,
        "sampling/sampling_logp_difference/mean": gap_BC,
    }
    if result.kl_BC is not None:
        per_token["kl"] = result.kl_BC
    # `where`, not a product: what stands in padding may be infinite, and 0 × inf is not 0.
    counted = mask_BC > 0
    return {name: torch.where(counted, value.float(), 0.0).sum() for name, value in per_token.items()}


def _kl_loss(algorithm: AlgorithmConfig, kl_BC: Tensor, log_ratio_BC: Tensor) -> Tensor | float:
    """The KL term of each token's loss, (B, C); 0 where the KL is in the reward.

    Its weight is the token's own ratio, whatever the loss's level (DeepSeek-V3.2, eq. 7).
    """
    if not algorithm.beta or algorithm.kl_in != "loss":
        return 0.0
    return algorithm.beta * (kl_BC * log_ratio_BC.exp() if algorithm.kl_importance_weighted else kl_BC)


def _maybe_kl(
    algorithm: AlgorithmConfig, policy_logps_BC: Tensor, reference_logps_BC: Tensor | None
) -> Tensor | None:
    if reference_logps_BC is None:
        return None
    return kl_estimate(policy_logps_BC, reference_logps_BC, algorithm.kl_estimator)


def _or_nowhere(where_BC: Tensor | None, like_BC: Tensor) -> Tensor:
    return torch.zeros_like(like_BC, dtype=torch.bool) if where_BC is None else where_BC


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _nanstd(values: Tensor, dim: int) -> Tensor:
    """Sample standard deviation (ddof 1) of what is not NaN, dimension kept; 0 where fewer than two are left."""
    count = (~values.isnan()).sum(dim=dim, keepdim=True)
    squares = (values - values.nanmean(dim=dim, keepdim=True)).square().nansum(dim=dim, keepdim=True)
    return (squares / (count - 1).clamp(min=1)).sqrt()


def _all_equal(rewards_PG: Tensor) -> Tensor:
    """(P, 1): whether all scored rewards of a group are the same number."""
    highest = rewards_PG.nan_to_num(nan=-torch.inf).amax(dim=1, keepdim=True)
    lowest = rewards_PG.nan_to_num(nan=torch.inf).amin(dim=1, keepdim=True)
    return highest <= lowest
