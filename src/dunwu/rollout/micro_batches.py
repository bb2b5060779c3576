"""Groups of rollouts become micro-batches of bounded size, and a micro-batch that does not fit becomes smaller ones.

How a step is cut never changes its gradient: weights are per token, and the denominator is the step's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dunwu.core.algorithm import LossAggregation, loss_weights
from dunwu.core.records import Completion, Group, MicroBatch, Prompt, Rollout

__all__ = [
    "forward_tokens",
    "make_micro_batches",
    "plan_micro_batches",
    "split_micro_batch",
    "trained_token_counts",
]


def trained_token_counts(groups: Sequence[Group], *, mask_truncated: bool) -> list[int]:
    """Tokens of each rollout that are trained on, group-major; 0 for a masked rollout."""
    return [sum(_trained(r.completion, mask_truncated)) for group in groups for r in group.rollouts]


def make_micro_batches(
    groups: Sequence[Group],
    *,
    loss_aggregation: LossAggregation,
    tokens: int,
    temperature: float = 1.0,
    mask_truncated: bool = False,
    skip_zero_advantage: bool = False,
    shared_prompts: bool = True,
) -> list[MicroBatch]:
    """Micro-batches whose forward pass computes at most `tokens` tokens; a longer row stands alone.

    With `shared_prompts`, a prompt counts once for all its completions in a micro-batch, nothing is padded, and rows
    keep their order: a group that is cut computes its prompt once a part. Without, rows are padded, so rows of
    similar length are put together.
    What carries no gradient is left out: masked rollouts and, where `skip_zero_advantage`, those with advantage 0.
    At least one row stays, so that every rank has a forward and a backward to take part in.
    """
    rows = [
        _RolloutRow(index=index, group=number, prompt=group.prompt, rollout=rollout)
        for index, (number, group, rollout) in enumerate((i, g, r) for i, g in enumerate(groups) for r in g.rollouts)
    ]
    useful = [
        row
        for row in rows
        if any(_trained(row.rollout.completion, mask_truncated))
        and not (skip_zero_advantage and row.rollout.advantage == 0.0)
    ]
    chosen = useful or rows[:1]
    if not shared_prompts:
        chosen = sorted(chosen, key=lambda row: (sum(row.size), row.index))
    parts = plan_micro_batches(
        [row.group for row in chosen], [row.size for row in chosen], tokens, shared_prompts=shared_prompts
    )
    return [_micro_batch(chosen[part], loss_aggregation, temperature, mask_truncated) for part in parts]


def split_micro_batch(batch: MicroBatch, tokens: int, *, shared_prompts: bool = True) -> list[MicroBatch]:
    """The same rows in micro-batches of at most `tokens`, cut as `make_micro_batches` would."""
    sizes = [(len(batch.prompts[i]), length) for i, length in zip(batch.prompt_index, batch.lengths, strict=True)]
    parts = plan_micro_batches(batch.prompt_index, sizes, tokens, shared_prompts=shared_prompts)
    return [batch.select_rows(range(len(sizes))[part]) for part in parts]


def forward_tokens(batch: MicroBatch, *, shared_prompts: bool = True) -> int:
    """Tokens that the forward pass of a micro-batch computes."""
    counter, tokens = _TokenCounter(shared_prompts), 0
    for owner, length in zip(batch.prompt_index, batch.lengths, strict=True):
        tokens = counter.add(owner, len(batch.prompts[owner]), length)
    return tokens


def plan_micro_batches(
    owners: Sequence[int], sizes: Sequence[tuple[int, int]], tokens: int, *, shared_prompts: bool = True
) -> list[slice]:
    """Where a sequence of rows is cut so that no part computes more than `tokens`, unless it is a single row.

    `owners` gives the prompt that each row answers; `sizes` are (prompt tokens, completion tokens).
    """
    parts: list[slice] = []
    start = 0
    counter = _TokenCounter(shared_prompts)
    for row, (owner, size) in enumerate(zip(owners, sizes, strict=True)):
        if counter.add(owner, *size) > tokens and row > start:
            parts.append(slice(start, row))
            start, counter = row, _TokenCounter(shared_prompts)
            counter.add(owner, *size)
    return [*parts, slice(start, len(sizes))] if sizes else []


@dataclass(frozen=True, slots=True, kw_only=True)
class _RolloutRow:
    """A rollout on its way into a micro-batch."""

    index: int
    group: int
    prompt: Prompt
    rollout: Rollout

    @property
    def size(self) -> tuple[int, int]:
        return len(self.prompt.ids), len(self.rollout.completion.ids)


class _TokenCounter:
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


def _trained(completion: Completion, mask_truncated: bool) -> tuple[bool, ...]:
    """Whether each token is trained on: those that the model sampled, and none of a masked completion."""
    if mask_truncated and completion.finish_reason == "length":
        return (False,) * len(completion.ids)
    return (True,) * len(completion.ids) if completion.sampled is None else completion.sampled


def _micro_batch(
    rows: Sequence[_RolloutRow], loss_aggregation: LossAggregation, temperature: float, mask_truncated: bool
) -> MicroBatch:
    owners = list(dict.fromkeys(row.group for row in rows))
    completions = [row.rollout.completion for row in rows]
    width = max(len(completion.ids) for completion in completions)
    completion_ids_BC = torch.zeros(len(rows), width, dtype=torch.long)
    mask_BC, sampler_BC = torch.zeros(2, len(rows), width).unbind()
    for i, completion in enumerate(completions):
        length = len(completion.ids)
        completion_ids_BC[i, :length] = torch.tensor(completion.ids)
        mask_BC[i, :length] = torch.tensor(_trained(completion, mask_truncated), dtype=torch.float32)
        sampler_BC[i, :length] = torch.tensor(completion.sampler_logps)
    prompt_of = {row.group: row.prompt.ids for row in rows}
    return MicroBatch(
        prompts=tuple(prompt_of[group] for group in owners),
        prompt_index=tuple(owners.index(row.group) for row in rows),
        lengths=tuple(len(completion.ids) for completion in completions),
        completion_ids_BC=completion_ids_BC,
        mask_BC=mask_BC,
        sampler_logps_BC=sampler_BC,
        advantages_B=torch.tensor([row.rollout.advantage for row in rows]),
        weights_BC=loss_weights(mask_BC, loss_aggregation),
        temperature=temperature,
        rollout_index=tuple(row.index for row in rows),
    )
