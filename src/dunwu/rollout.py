"""Rollouts: `collect` asks and scores, `with_advantages` compares, `pack` makes batches.

What it is: the road from prompts to tensors, and what is worth counting on it.
What it is not: an engine, a reward or a loss; those come in through their interfaces.

Shapes: B rows, T positions, C completion positions.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from dunwu.algorithm import Aggregation, KlEstimator, Objective, advantages, kl_estimate, token_weights
from dunwu.records import Batch, Completion, Engine, Group, Prompt, Rollout, Sampling, Scores

__all__ = [
    "RolloutFacts",
    "Scorer",
    "collect",
    "counted_lengths",
    "kl_penalties",
    "pack",
    "rollout_facts",
    "rollout_metrics",
    "with_advantages",
    "with_penalties",
]


class Scorer(Protocol):
    """What `collect` needs of the rewards; `dunwu.rewards.RewardRunner` is one."""

    def score(
        self,
        *,
        prompts: list[Any],
        completions: list[Any],
        completion_ids: list[list[int]],
        columns: dict[str, list[Any]],
    ) -> Scores:
        """Scores of each completion."""
        ...

    def total(self, scores: Scores) -> list[float | None]:
        """Weighted sum of each completion's scores; None where nothing could score it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutFacts:
    """What metrics need of one rollout: small enough to gather from all ranks.

    Example: `RolloutFacts(length=41, ended=True, reward=1.0, scores={"equation": 1.0}, dead=False)`
    """

    length: int
    """Completion tokens."""
    ended: bool
    """Whether it ended by itself."""
    reward: float | None
    """Weighted reward."""
    scores: Mapping[str, float | None]
    """Each function's value."""
    dead: bool
    """Whether its whole group got one reward, so that nothing can be learned from it."""


def collect(prompts: Sequence[Prompt], engine: Engine, scorer: Scorer, sampling: Sampling) -> list[Group]:
    """Ask each prompt `sampling.n` times and score what comes: one group a prompt, advantages not yet filled."""
    asked = engine.generate(prompts, sampling)
    owner = [prompt for prompt, completions in zip(prompts, asked, strict=True) for _ in completions]
    flat = [completion for completions in asked for completion in completions]
    scores = scorer.score(
        prompts=[prompt.given for prompt in owner],
        completions=[_as_given(prompt, completion) for prompt, completion in zip(owner, flat, strict=True)],
        completion_ids=[list(completion.ids) for completion in flat],
        columns=_columns(owner),
    )
    rewards = scorer.total(scores)
    rollouts = [
        Rollout(completion=completion, reward=reward, scores=dict(zip(scores.names, values, strict=True)))
        for completion, reward, values in zip(flat, rewards, scores.values, strict=True)
    ]
    n = sampling.n
    return [Group(prompt=prompt, rollouts=tuple(rollouts[i * n : (i + 1) * n])) for i, prompt in enumerate(prompts)]


def with_advantages(groups: Sequence[Group], objective: Objective, *, others: Sequence[Group] = ()) -> list[Group]:
    """The same groups with advantages; `others` are groups of other ranks, which count in a batch-wide std."""
    if not groups:
        return []
    everyone = [*groups, *others]
    rewards_PG = torch.tensor(
        [[math.nan if r.reward is None else r.reward for r in group.rollouts] for group in everyone],
        dtype=torch.float64,
    )
    values = advantages(rewards_PG, baseline=objective.baseline, scale=objective.scale).tolist()
    return [
        replace(group, rollouts=tuple(replace(r, advantage=a) for r, a in zip(group.rollouts, row, strict=True)))
        for group, row in zip(groups, values, strict=False)
    ]


def with_penalties(groups: Sequence[Group], penalties: Sequence[float]) -> list[Group]:
    """The same groups, each rollout's reward lowered by its penalty (group-major order)."""
    left = iter(penalties)
    return [
        replace(group, rollouts=tuple(replace(r, reward=_lowered(r.reward, next(left))) for r in group.rollouts))
        for group in groups
    ]


def kl_penalties(batches: Sequence[Batch], estimator: KlEstimator) -> list[float]:
    """KL of each rollout, summed over its tokens (nats), group-major: what a KL in the reward takes off.

    The sampler's own log-probabilities stand for the policy's: they are the distribution the tokens came from.
    """
    found: dict[int, float] = {}
    for batch in batches:
        assert batch.reference_logps_BC is not None
        kl_BC = kl_estimate(batch.sampler_logps_BC, batch.reference_logps_BC, estimator)
        found |= dict(zip(batch.rollout_index, (kl_BC * batch.mask_BC).sum(dim=1).tolist(), strict=True))
    return [found[index] for index in sorted(found)]


def counted_lengths(groups: Sequence[Group], *, mask_truncated: bool) -> list[int]:
    """Tokens of each rollout that count in the loss, group-major; 0 for a masked one."""
    return [_counted(r.completion, mask_truncated) for group in groups for r in group.rollouts]


def pack(
    groups: Sequence[Group],
    *,
    aggregation: Aggregation,
    tokens: int,
    mask_truncated: bool = False,
    skip_zero_advantage: bool = False,
) -> list[Batch]:
    """Batches of at most `tokens` padded tokens (a longer row stands alone), rows of like length together.

    What carries no gradient is left out: masked rollouts and, where `skip_zero_advantage`, those with advantage 0.
    At least one row stays, so that every rank has a forward and a backward to take part in.
    """
    rows = [
        (index, group.prompt, rollout)
        for index, (group, rollout) in enumerate((g, r) for g in groups for r in g.rollouts)
    ]
    useful = [
        row
        for row in rows
        if _counted(row[2].completion, mask_truncated) and not (skip_zero_advantage and row[2].advantage == 0.0)
    ]
    chosen = sorted(useful or rows[:1], key=lambda row: (_length(row), row[0]))
    batches: list[Batch] = []
    start = 0
    for end in range(1, len(chosen) + 1):
        if end == len(chosen) or _padded(chosen[start : end + 1]) > tokens:
            batches.append(_batch(chosen[start:end], aggregation, mask_truncated))
            start = end
    return batches


def rollout_facts(groups: Sequence[Group]) -> list[RolloutFacts]:
    """Facts of every rollout, group-major."""
    return [
        RolloutFacts(
            length=len(rollout.completion.ids),
            ended=rollout.completion.finish == "stop",
            reward=rollout.reward,
            scores=rollout.scores,
            dead=len({r.reward for r in group.rollouts if r.reward is not None}) < 2,
        )
        for group in groups
        for rollout in group.rollouts
    ]


def rollout_metrics(facts: Sequence[RolloutFacts]) -> dict[str, float]:
    """Metrics of a step's rollouts, under TRL's names where they mean the same."""
    lengths = [float(f.length) for f in facts]
    ended = [float(f.length) for f in facts if f.ended] or [0.0]
    rewards = [f.reward for f in facts if f.reward is not None]
    metrics = {
        "num_completions": float(len(facts)),
        "completions/mean_length": statistics.fmean(lengths),
        "completions/min_length": min(lengths),
        "completions/max_length": max(lengths),
        "completions/clipped_ratio": statistics.fmean(not f.ended for f in facts),
        "completions/mean_terminated_length": statistics.fmean(ended),
        "completions/min_terminated_length": min(ended),
        "completions/max_terminated_length": max(ended),
        "reward": statistics.fmean(rewards) if rewards else math.nan,
        "reward_std": statistics.stdev(rewards) if len(rewards) > 1 else 0.0,
        "frac_reward_zero_std": statistics.fmean(f.dead for f in facts),
    }
    for name in facts[0].scores:
        values = [value for f in facts if (value := f.scores[name]) is not None]
        metrics[f"rewards/{name}/mean"] = statistics.fmean(values) if values else math.nan
        metrics[f"rewards/{name}/std"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return metrics


def _as_given(prompt: Prompt, completion: Completion) -> Any:
    """Completions reach rewards in the prompt's own dress: text, or messages. A prefill stays part of the prompt."""
    if isinstance(prompt.given, str):
        return completion.text
    return [{"role": "assistant", "content": completion.text}]


def _columns(owners: Sequence[Prompt]) -> dict[str, list[Any]]:
    names = {name: None for prompt in owners for name in prompt.row if name not in ("prompt", "completion")}
    return {name: [prompt.row.get(name) for prompt in owners] for name in names}


def _lowered(reward: float | None, penalty: float) -> float | None:
    return None if reward is None else reward - penalty


def _counted(completion: Completion, mask_truncated: bool) -> int:
    return 0 if mask_truncated and completion.finish == "length" else len(completion.ids)


def _length(row: tuple[int, Prompt, Rollout]) -> int:
    return len(row[1].ids) + len(row[2].completion.ids)


def _padded(rows: Sequence[tuple[int, Prompt, Rollout]]) -> int:
    prompt = max(len(prompt.ids) for _, prompt, _ in rows)
    return len(rows) * (prompt + max(len(rollout.completion.ids) for _, _, rollout in rows))


def _batch(rows: Sequence[tuple[int, Prompt, Rollout]], aggregation: Aggregation, mask_truncated: bool) -> Batch:
    prompts = [prompt.ids for _, prompt, _ in rows]
    completions = [rollout.completion for _, _, rollout in rows]
    before, after = max(map(len, prompts)), max(len(c.ids) for c in completions)
    ids_BT, attention_BT = torch.zeros(2, len(rows), before + after, dtype=torch.long).unbind()
    mask_BC, sampler_BC = torch.zeros(2, len(rows), after).unbind()
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        end = before + len(completion.ids)
        ids_BT[i, before - len(prompt) : end] = torch.tensor([*prompt, *completion.ids])
        attention_BT[i, before - len(prompt) : end] = 1
        mask_BC[i, : _counted(completion, mask_truncated)] = 1.0
        sampler_BC[i, : len(completion.logps)] = torch.tensor(completion.logps)
    return Batch(
        ids_BT=ids_BT,
        attention_BT=attention_BT,
        positions_BT=_positions(attention_BT),
        mask_BC=mask_BC,
        sampler_logps_BC=sampler_BC,
        advantages_B=torch.tensor([rollout.advantage for _, _, rollout in rows]),
        weights_BC=token_weights(mask_BC, aggregation),
        rollout_index=tuple(index for index, _, _ in rows),
    )


def _positions(attention_BT: Tensor) -> Tensor:
    return (attention_BT.cumsum(dim=1) - 1).clamp(min=0)
