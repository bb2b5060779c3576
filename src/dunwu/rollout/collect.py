"""From prompts to groups: `collect` samples and scores, `add_advantages` compares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dunwu.core.algorithm import AlgorithmConfig, KlEstimator, advantages, kl_estimate
from dunwu.core.records import (
    Completion,
    Group,
    Message,
    MicroBatch,
    Prompt,
    RewardScores,
    Rollout,
    SamplingParams,
)

if TYPE_CHECKING:
    from dunwu.core.protocols import Engine, Scorer

__all__ = ["add_advantages", "collect", "kl_penalties", "sample_and_score", "subtract_kl_penalty"]


def collect(prompts: Sequence[Prompt], engine: Engine, scorer: Scorer, sampling: SamplingParams) -> list[Group]:
    """Sample each prompt `sampling.n` times and score the completions: one group a prompt, without advantages.

    The engine must be ready (`engines.ready`).
    """
    return sample_and_score(prompts, engine, scorer, sampling)[0]


def sample_and_score(
    prompts: Sequence[Prompt], engine: Engine, scorer: Scorer, sampling: SamplingParams
) -> tuple[list[Group], RewardScores]:
    """As `collect`, with the scores beside the groups: they hold what the reward functions logged."""
    sampled = engine.generate(prompts, sampling)
    owners = [prompt for prompt, completions in zip(prompts, sampled, strict=True) for _ in completions]
    flat = [completion for completions in sampled for completion in completions]
    scores = scorer.score(
        prompts=[prompt.original for prompt in owners],
        completions=[_as_prompted(prompt, completion) for prompt, completion in zip(owners, flat, strict=True)],
        completion_ids=[list(completion.ids) for completion in flat],
        columns=_columns(owners),
    )
    rewards = scorer.total(scores)
    rollouts = [
        Rollout(
            completion=completion,
            reward=reward,
            scores=dict(zip(scores.names, values, strict=True)),
            extras={column: logged[i] for column, logged in scores.extras.items()},
        )
        for i, (completion, reward, values) in enumerate(zip(flat, rewards, scores.values, strict=True))
    ]
    n = sampling.n
    cut = [tuple(rollouts[i * n : (i + 1) * n]) for i in range(len(prompts))]
    groups = [Group(prompt=prompt, rollouts=own) for prompt, own in zip(prompts, cut, strict=True)]
    return groups, scores


def add_advantages(
    groups: Sequence[Group], algorithm: AlgorithmConfig, *, others: Sequence[Group] = ()
) -> list[Group]:
    """The same groups with advantages; `others` are groups of other ranks, which count in a batch-wide std."""
    if not groups:
        return []
    everyone = [*groups, *others]
    rewards_PG = torch.tensor(
        [[math.nan if r.reward is None else r.reward for r in group.rollouts] for group in everyone],
        dtype=torch.float64,
    )
    values = advantages(rewards_PG, baseline=algorithm.advantage_baseline, scale=algorithm.scale_rewards).tolist()
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


def kl_penalties(
    batches: Sequence[MicroBatch], estimator: KlEstimator, policy_logps: Sequence[Tensor] | None = None
) -> list[float]:
    """KL of each rollout, summed over its trained tokens (nats), group-major: what a KL in the reward takes off.

    Args:
        batches: micro-batches of all rollouts, with the reference's log-probabilities.
        estimator: of the KL at each token.
        policy_logps: the policy's log-probabilities for each micro-batch, (B, C). None: the sampler's stand for
            them, which is right only where nothing cut the distribution that was sampled (top-k, top-p, min-p, a
            repetition penalty): a renormalised distribution is not the policy's.
    """
    found: dict[int, float] = {}
    for i, batch in enumerate(batches):
        assert batch.reference_logps_BC is not None
        logps_BC = batch.sampler_logps_BC if policy_logps is None else policy_logps[i]
        kl_BC = kl_estimate(logps_BC, batch.reference_logps_BC, estimator)
        found |= dict(zip(batch.rollout_index, (kl_BC * batch.mask_BC).sum(dim=1).tolist(), strict=True))
    return [found[index] for index in sorted(found)]


def _as_prompted(prompt: Prompt, completion: Completion) -> str | list[Message]:
    """Rewards get completions in the prompt's own form: text, or messages. A prefill stays in the prompt."""
    if isinstance(prompt.original, str):
        return completion.text
    if completion.messages:
        return [dict(message) for message in completion.messages]
    return [{"role": "assistant", "content": completion.text}]


def _columns(owners: Sequence[Prompt]) -> dict[str, list[object]]:
    names = {name: None for prompt in owners for name in prompt.row if name not in ("prompt", "completion")}
    return {name: [prompt.row.get(name) for prompt in owners] for name in names}


def _lowered(reward: float | None, penalty: float) -> float | None:
    return None if reward is None else reward - penalty
