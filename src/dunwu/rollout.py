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

from dunwu.algorithm import Aggregation, KlEstimator, Objective, advantages, kl_estimate, token_weights
from dunwu.records import Batch, Completion, Engine, Group, Prompt, Rollout, Sampling, Scores

__all__ = [
    "RolloutFacts",
    "Scorer",
    "collect",
    "computed_tokens",
    "counted_lengths",
    "cuts",
    "kl_penalties",
    "pack",
    "rollout_facts",
    "rollout_metrics",
    "split",
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
    shared_prompts: bool = True,
) -> list[Batch]:
    """Batches whose forward pass computes at most `tokens` tokens; a row that is longer alone stands alone.

    With `shared_prompts`, a prompt counts once for all its completions in a batch, nothing is padded, and rows keep
    their order: a group that is cut computes its prompt once a part. Without, rows are padded, so rows of like
    length come together.
    What carries no gradient is left out: masked rollouts and, where `skip_zero_advantage`, those with advantage 0.
    At least one row stays, so that every rank has a forward and a backward to take part in.
    """
    rows = [
        _Row(index=index, group=number, prompt=group.prompt, rollout=rollout)
        for index, (number, group, rollout) in enumerate((i, g, r) for i, g in enumerate(groups) for r in g.rollouts)
    ]
    useful = [
        row
        for row in rows
        if _counted(row.rollout.completion, mask_truncated)
        and not (skip_zero_advantage and row.rollout.advantage == 0.0)
    ]
    chosen = useful or rows[:1]
    if not shared_prompts:
        chosen = sorted(chosen, key=lambda row: (sum(row.size), row.index))
    parts = cuts([row.group for row in chosen], [row.size for row in chosen], tokens, shared_prompts=shared_prompts)
    return [_batch(chosen[part], aggregation, mask_truncated) for part in parts]


def split(batch: Batch, tokens: int, *, shared_prompts: bool = True) -> list[Batch]:
    """The same rows in batches of at most `tokens`, as `pack` would cut them."""
    sizes = [(len(batch.prompts[i]), length) for i, length in zip(batch.prompt_index, batch.lengths, strict=True)]
    parts = cuts(batch.prompt_index, sizes, tokens, shared_prompts=shared_prompts)
    return [batch.take(range(len(sizes))[part]) for part in parts]


def computed_tokens(batch: Batch, *, shared_prompts: bool = True) -> int:
    """Tokens that the forward pass of a batch computes."""
    measure, tokens = _Measure(shared_prompts), 0
    for owner, length in zip(batch.prompt_index, batch.lengths, strict=True):
        tokens = measure.add(owner, len(batch.prompts[owner]), length)
    return tokens


def cuts(
    owners: Sequence[int], sizes: Sequence[tuple[int, int]], tokens: int, *, shared_prompts: bool = True
) -> list[slice]:
    """Where a sequence of rows is cut so that no part computes more than `tokens`, unless it is a single row.

    `owners` says which prompt each row answers; `sizes` are (prompt tokens, completion tokens).
    """
    parts: list[slice] = []
    start = 0
    measure = _Measure(shared_prompts)
    for row, (owner, size) in enumerate(zip(owners, sizes, strict=True)):
        if measure.add(owner, *size) > tokens and row > start:
            parts.append(slice(start, row))
            start, measure = row, _Measure(shared_prompts)
            measure.add(owner, *size)
    return [*parts, slice(start, len(sizes))] if sizes else []


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A rollout on its way into a batch."""

    index: int
    group: int
    prompt: Prompt
    rollout: Rollout

    @property
    def size(self) -> tuple[int, int]:
        return len(self.prompt.ids), len(self.rollout.completion.ids)


class _Measure:
    """Counts what the forward pass of some rows computes."""

    def __init__(self, shared_prompts: bool) -> None:
        self.shared_prompts = shared_prompts
        self.owners: set[int] = set()
        self.rows = self.tokens = self.widest_prompt = self.widest_completion = 0

    def add(self, owner: int, prompt: int, completion: int) -> int:
        """Tokens with one row more."""
        if self.shared_prompts:
            # The last token of a completion predicts nothing, so it is no input.
            self.tokens += completion - 1 + (0 if owner in self.owners else prompt)
            self.owners.add(owner)
            return self.tokens
        self.rows += 1
        self.widest_prompt = max(self.widest_prompt, prompt)
        self.widest_completion = max(self.widest_completion, completion)
        return self.rows * (self.widest_prompt + self.widest_completion)


def _counted(completion: Completion, mask_truncated: bool) -> int:
    return 0 if mask_truncated and completion.finish == "length" else len(completion.ids)


def _length(row: tuple[int, Prompt, Rollout]) -> int:
    return len(row[1].ids) + len(row[2].completion.ids)


def _batch(rows: Sequence[_Row], aggregation: Aggregation, mask_truncated: bool) -> Batch:
    owners = list(dict.fromkeys(row.group for row in rows))
    completions = [row.rollout.completion for row in rows]
    width = max(len(completion.ids) for completion in completions)
    completion_ids_BC = torch.zeros(len(rows), width, dtype=torch.long)
    mask_BC, sampler_BC = torch.zeros(2, len(rows), width).unbind()
    for i, completion in enumerate(completions):
        completion_ids_BC[i, : len(completion.ids)] = torch.tensor(completion.ids)
        mask_BC[i, : _counted(completion, mask_truncated)] = 1.0
        sampler_BC[i, : len(completion.logps)] = torch.tensor(completion.logps)
    prompt_of = {row.group: row.prompt.ids for row in rows}
    return Batch(
        prompts=tuple(prompt_of[group] for group in owners),
        prompt_index=tuple(owners.index(row.group) for row in rows),
        lengths=tuple(len(completion.ids) for completion in completions),
        completion_ids_BC=completion_ids_BC,
        mask_BC=mask_BC,
        sampler_logps_BC=sampler_BC,
        advantages_B=torch.tensor([row.rollout.advantage for row in rows]),
        weights_BC=token_weights(mask_BC, aggregation),
        rollout_index=tuple(row.index for row in rows),
    )
