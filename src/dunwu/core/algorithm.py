"""The algorithm: pure tensor functions, each with its equation and its source.

What it is: advantages, importance ratios, surrogates, KL estimators, weights, denominators, log-probabilities.
What it is not: a trainer. Nothing here knows a model, a tokenizer, a device or a process group.

An algorithm is a product of choices (`AlgorithmConfig`), not a list of names; the names live in `config.PRESETS`.
One law holds everywhere: a step's loss is  sum(weight of a token × loss of a token) / denominator  with one
denominator for all micro-batches and all ranks, so that how a step is cut never changes its gradient.

Shapes: B rows, C completion positions, P prompts, G completions a prompt, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

__all__ = [
    "STD_EPS",
    "AlgorithmConfig",
    "Baseline",
    "KlEstimator",
    "LossAggregation",
    "RatioLevel",
    "RewardScale",
    "Surrogate",
    "TokenLoss",
    "advantages",
    "clipped_surrogate",
    "kl_estimate",
    "log_ratio",
    "loss_denominator",
    "loss_metric_sums",
    "loss_weights",
    "token_entropy",
    "token_logps",
    "token_loss",
]

STD_EPS = 1e-4
"""Added to a standard deviation before dividing by it; the value the tutorials' library uses."""

RewardScale: TypeAlias = Literal["group", "batch", "none"]
Baseline: TypeAlias = Literal["mean", "leave_one_out"]
RatioLevel: TypeAlias = Literal["token", "sequence", "none"]
Surrogate: TypeAlias = Literal["clip", "cispo", "logp"]
LossAggregation: TypeAlias = Literal["seq_mean", "token_mean", "seq_sum_norm"]
KlEstimator: TypeAlias = Literal["k1", "k2", "k3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmConfig:
    """One algorithm, as the product of its choices.

    Example: DAPO is `AlgorithmConfig(loss_aggregation="token_mean", epsilon_high=0.28)`; Dr. GRPO is
    `AlgorithmConfig(scale_rewards="none", loss_aggregation="seq_sum_norm")`.
    """

    advantage_baseline: Baseline = "mean"
    """What a reward is compared with: the group's mean, or the mean of the others (RLOO)."""
    scale_rewards: RewardScale = "group"
    """What the difference is divided by: the group's standard deviation, the batch's, or nothing."""
    importance_sampling_level: RatioLevel = "token"
    """Level of the importance ratio."""
    surrogate: Surrogate = "clip"
    """How ratio and advantage meet."""
    loss_aggregation: LossAggregation = "token_mean"
    """How token losses become one number."""
    epsilon_low: float = 0.2
    """The clipped surrogate keeps the ratio above 1 − epsilon_low."""
    epsilon_high: float = 0.2
    """The clipped surrogate keeps the ratio below 1 + epsilon_high; for `cispo` it is the cap itself."""
    delta: float | None = None
    """Upper bound of the ratio where the advantage is negative (dual clip); None: unbounded, as in PPO."""
    beta: float = 0.0
    """Coefficient of the KL term; 0: no reference model is needed."""
    kl_estimator: KlEstimator = "k3"
    """Schulman's estimators of KL(policy‖reference)."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Whether the KL term is added to each token's loss or taken off the sequence's reward."""
    kl_importance_weighted: bool = False
    """Multiply the KL term by the token ratio: its gradient is then that of the reverse KL (DeepSeek-V3.2)."""

    @property
    def can_skip_zero_advantage(self) -> bool:
        """Whether a rollout with advantage 0 adds nothing to the gradient, so that its forward can be skipped."""
        return self.beta == 0.0 or self.kl_in == "reward"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLoss:
    """Per-token loss and what is worth logging of it; all (B, C)."""

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
        raise ValueError(f"temperature must be above 0 for log-probabilities, got {temperature}; use 1.0")
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
        ValueError: with fewer than two completions a prompt: one has nothing to be compared with.
    """
    if rewards_PG.ndim != 2 or rewards_PG.shape[1] < 2:
        raise ValueError(
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

    `token`: log π(o_t) − log π_old(o_t) (PPO). `sequence`: its mean over the row's counted tokens, one for all of
    them (GSPO, arXiv 2507.18071, eq. 7). `none`: 0 everywhere (REINFORCE).
    """
    if level == "none":
        return torch.zeros_like(policy_logps_BC)
    difference_BC = policy_logps_BC - old_logps_BC
    if level == "token":
        return difference_BC
    mean_B1 = (difference_BC * mask_BC).sum(-1, keepdim=True) / mask_BC.sum(-1, keepdim=True).clamp(min=1.0)
    return mean_B1.expand_as(difference_BC)


def clipped_surrogate(
    ratio_BC: Tensor, advantages_B1: Tensor, *, low: float, high: float, delta: float | None = None
) -> Tensor:
    """−min(ρA, clip(ρ, 1 − low, 1 + high)·A), (B, C): PPO's loss (arXiv 1707.06347, eq. 7).

    low ≠ high is DAPO's clip-higher (arXiv 2503.14476). With `delta`, ρ in the first term is at most delta, which
    bounds the loss of a bad token that became likely (dual clip, arXiv 1912.09729, eq. 5).
    """
    unclipped_BC = ratio_BC if delta is None else ratio_BC.clamp(max=delta)
    return -torch.min(unclipped_BC * advantages_B1, ratio_BC.clamp(1 - low, 1 + high) * advantages_B1)


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
    objective: AlgorithmConfig,
    policy_logps_BC: Tensor,
    advantages_B: Tensor,
    mask_BC: Tensor,
    *,
    old_logps_BC: Tensor | None = None,
    reference_logps_BC: Tensor | None = None,
) -> TokenLoss:
    """Loss of every token, before weights.

    `old_logps_BC=None` means that the policy has not moved since it sampled: the ratio is exactly 1 in value and
    carries the policy's gradient.
    """
    old_BC = policy_logps_BC.detach() if old_logps_BC is None else old_logps_BC
    advantages_B1 = advantages_B.unsqueeze(1)
    ratio_BC = log_ratio(policy_logps_BC, old_BC, mask_BC, objective.importance_sampling_level).exp()
    loss_BC = _surrogate_loss(objective, ratio_BC, policy_logps_BC, advantages_B1)
    kl_BC = None
    if reference_logps_BC is not None:
        kl_BC = kl_estimate(policy_logps_BC, reference_logps_BC, objective.kl_estimator)
        if objective.beta and objective.kl_in == "loss":
            # The correction needs the token's own ratio whatever the surrogate's level (DeepSeek-V3.2, eq. 7).
            corrected = kl_BC * (policy_logps_BC - old_BC).exp() if objective.kl_importance_weighted else kl_BC
            loss_BC = loss_BC + objective.beta * corrected
        kl_BC = kl_BC.detach()
    low_BC, high_BC = _clipped(objective, ratio_BC, advantages_B1)
    return TokenLoss(
        loss_BC=loss_BC, kl_BC=kl_BC, clipped_low_BC=low_BC, clipped_high_BC=high_BC, ratio_BC=ratio_BC.detach()
    )


def loss_weights(mask_BC: Tensor, loss_aggregation: LossAggregation) -> Tensor:
    """Weight of each token's loss, (B, C).

    `seq_mean`: mask / length, every completion counts the same (GRPO, arXiv 2402.03300). `token_mean` and
    `seq_sum_norm`: mask, every token counts the same (DAPO, Dr. GRPO).
    """
    if loss_aggregation != "seq_mean":
        return mask_BC
    return mask_BC / mask_BC.sum(-1, keepdim=True).clamp(min=1.0)


def loss_denominator(lengths: list[int], loss_aggregation: LossAggregation, max_length: int) -> float:
    """The one number a whole step's weighted loss is divided by.

    `lengths` are the counted tokens of every completion of the step on all ranks; a masked completion (0 tokens) is
    left out, as if it had not been sampled. `seq_mean`: number of completions. `token_mean`: number of tokens.
    `seq_sum_norm`: completions × max_length (Dr. GRPO, arXiv 2503.20783). Never below 1: a step in which all is
    masked has loss 0.
    """
    counted = [length for length in lengths if length > 0]
    totals = {"seq_mean": len(counted), "token_mean": sum(counted), "seq_sum_norm": len(counted) * max_length}
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


def _surrogate_loss(
    objective: AlgorithmConfig, ratio_BC: Tensor, policy_logps_BC: Tensor, advantages_B1: Tensor
) -> Tensor:
    if objective.surrogate == "clip":
        return clipped_surrogate(
            ratio_BC,
            advantages_B1,
            low=objective.epsilon_low,
            high=objective.epsilon_high,
            delta=objective.delta,
        )
    if objective.surrogate == "cispo":
        # MiniMax-M1, arXiv 2506.13585, eq. 4: the capped ratio is a constant, so no token's gradient is ever cut off.
        return -ratio_BC.detach().clamp(max=objective.epsilon_high) * advantages_B1 * policy_logps_BC
    return -advantages_B1 * policy_logps_BC


def _clipped(objective: AlgorithmConfig, ratio_BC: Tensor, advantages_B1: Tensor) -> tuple[Tensor, Tensor]:
    if objective.surrogate == "cispo":
        high = (ratio_BC > objective.epsilon_high) & (advantages_B1 > 0)
        return torch.zeros_like(high), high
    if objective.surrogate == "logp":
        nowhere = torch.zeros_like(ratio_BC, dtype=torch.bool)
        return nowhere, nowhere
    low = (ratio_BC < 1 - objective.epsilon_low) & (advantages_B1 < 0)
    return low, (ratio_BC > 1 + objective.epsilon_high) & (advantages_B1 > 0)


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
