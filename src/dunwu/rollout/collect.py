"""Rollouts: `collect` asks and scores, `add_advantages` compares, `make_micro_batches` makes batches.

What it is: the road from prompts to tensors, and what is worth counting on it.
What it is not: an engine, a reward or a loss; those come in through their interfaces.

Shapes: B rows, T positions, C completion positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from dunwu.core.algorithm import AlgorithmConfig, KlEstimator, advantages, kl_estimate
from dunwu.core.protocols import Engine, Scorer
from dunwu.core.records import Completion, Group, MicroBatch, Prompt, Rollout, SamplingParams

__all__ = [
    "add_advantages",
    "collect",
    "kl_penalties",
    "subtract_kl_penalty",
]


def collect(prompts: Sequence[Prompt], engine: Engine, scorer: Scorer, sampling: SamplingParams) -> list[Group]:
    """Ask each prompt `sampling.n` times and score what comes: one group a prompt, advantages not yet filled."""
    asked = engine.generate(prompts, sampling)
    owner = [prompt for prompt, completions in zip(prompts, asked, strict=True) for _ in completions]
    flat = [completion for completions in asked for completion in completions]
    scores = scorer.score(
        prompts=[prompt.original for prompt in owner],
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


def add_advantages(
    groups: Sequence[Group], objective: AlgorithmConfig, *, others: Sequence[Group] = ()
) -> list[Group]:
    """The same groups with advantages; `others` are groups of other ranks, which count in a batch-wide std."""
    if not groups:
        return []
    everyone = [*groups, *others]
    rewards_PG = torch.tensor(
        [[math.nan if r.reward is None else r.reward for r in group.rollouts] for group in everyone],
        dtype=torch.float64,
    )
    values = advantages(rewards_PG, baseline=objective.advantage_baseline, scale=objective.scale_rewards).tolist()
    return [
        replace(group, rollouts=tuple(replace(r, advantage=a) for r, a in zip(group.rollouts, row, strict=True)))
        for group, row in zip(groups, values, strict=False)
    ]


def subtract_kl_penalty(groups: Sequence[Group], penalties: Sequence[float]) -> list[Group]:
    """The same groups, each rollout's reward lowered by its penalty (group-major order)."""
    left = iter(penalties)
    return [
        replace(group, rollouts=tuple(replace(r, reward=_lowered(r.reward, next(left))) for r in group.rollouts))
        for group in groups
    ]


def kl_penalties(batches: Sequence[MicroBatch], estimator: KlEstimator) -> list[float]:
    """KL of each rollout, summed over its tokens (nats), group-major: what a KL in the reward takes off.

    The sampler's own log-probabilities stand for the policy's: they are the distribution the tokens came from.
    """
    found: dict[int, float] = {}
    for batch in batches:
        assert batch.reference_logps_BC is not None
        kl_BC = kl_estimate(batch.sampler_logps_BC, batch.reference_logps_BC, estimator)
        found |= dict(zip(batch.rollout_index, (kl_BC * batch.mask_BC).sum(dim=1).tolist(), strict=True))
    return [found[index] for index in sorted(found)]


def _as_given(prompt: Prompt, completion: Completion) -> Any:
    """Completions reach rewards in the prompt's own dress: text, or messages. A prefill stays part of the prompt."""
    if isinstance(prompt.original, str):
        return completion.text
    return [{"role": "assistant", "content": completion.text}]


def _columns(owners: Sequence[Prompt]) -> dict[str, list[Any]]:
    names = {name: None for prompt in owners for name in prompt.row if name not in ("prompt", "completion")}
    return {name: [prompt.row.get(name) for prompt in owners] for name in names}


def _lowered(reward: float | None, penalty: float) -> float | None:
    return None if reward is None else reward - penalty
