"""Where each token of a micro-batch lies in one row without padding, and who may attend to whom.

Prompts come first, each once; completions follow, long ones before short ones. A completion's last token predicts
nothing that is trained on, so it is no input: c tokens need c − 1 positions.

Shapes: N tokens of the row, M completion tokens, P prompts, L longest prompt, B completions of a bucket, C input
positions of its longest completion, T = L + C keys, K key-value heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Final, TypeAlias

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from dunwu.core.records import MicroBatch

__all__ = ["AttentionMask", "Bucket", "Layout", "Pad", "layout_of"]

_BUCKET_SHARE: Final = 0.6
"""A completion joins a bucket if it is at least this share of the bucket's longest: only attention pads."""

_layouts: Final = WeakIdKeyDictionary()
"""Layouts by the identity of a batch's tensor of completion ids; an entry goes with its tensor."""


class AttentionMask:
    """A mask to add to attention scores, of all rows or one for all, and its copies for heads that share keys.

    Example: `AttentionMask(torch.zeros(2, 1, 3, 8))` hides nothing from 2 rows of 3 queries and 8 keys.
    """

    def __init__(self, added_B1CT: Tensor) -> None:
        self.added_B1CT = added_B1CT
        self._grouped: dict[tuple[int, int, int], Tensor] = {}

    def grouped(self, rows: int, kv_heads: int, sharing: int) -> Tensor:
        """(rows·K, sharing·C, T): the mask for `sharing` query heads stacked over each key-value head."""
        key = (rows, kv_heads, sharing)
        if key not in self._grouped:
            self._grouped[key] = _grouped_query_mask(self.added_B1CT, *key)
        return self._grouped[key]


_Masks: TypeAlias = dict[tuple[int | None, torch.dtype], AttentionMask]


@dataclass(frozen=True, kw_only=True)
class Pad:
    """How a run of tokens becomes a padded block, and back; a block is (rows, width).

    Example, rows of 2 tokens and 1: `Pad(gather_index=torch.tensor([0, 1, 2, 2]),
    scatter_index=torch.tensor([0, 1, 2]), rows=2, width=2)`
    """

    gather_index: Tensor
    """(rows·width,) which of the run's tokens stands at each place of the block; padding has a row's first token."""
    scatter_index: Tensor
    """(tokens,) place of each token in the block."""
    rows: int
    """Sequences in the run."""
    width: int
    """Tokens of the longest."""
    cache: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)
    """Both indices for tokens that consist of so many heads; made when first needed, shared by all layers."""

    def to(self, device: torch.device) -> Pad:
        """The same on another device."""
        return replace(
            self, gather_index=self.gather_index.to(device), scatter_index=self.scatter_index.to(device), cache={}
        )

    def head_indices(self, heads: int) -> tuple[Tensor, Tensor]:
        """Both indices for tokens that consist of heads: (rows·heads·width,) and (tokens·heads,)."""
        if heads not in self.cache:
            self.cache[heads] = _head_indices(self, heads)
        return self.cache[heads]


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Completions of similar length, for attention.

    Example, completions with 2 and 1 inputs after a prompt of 3 tokens: `Bucket(pad=_make_pad([2, 1]),
    prompt_B=torch.tensor([0, 0]), positions_BC=torch.tensor([[3, 4], [3, 4]]))`
    """

    pad: Pad
    """Their tokens."""
    prompt_B: Tensor
    """Which prompt each row belongs to."""
    positions_BC: Tensor
    """Position of each query in its own sequence, padding included."""
    masks: _Masks = field(default_factory=dict, repr=False, compare=False)
    """Masks by attention window and dtype; made when first needed, shared by all layers."""

    def to(self, device: torch.device) -> Bucket:
        """The same on another device."""
        positions_BC = self.positions_BC.to(device)
        return Bucket(pad=self.pad.to(device), prompt_B=self.prompt_B.to(device), positions_BC=positions_BC)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Index tensors of the padding-free row. Prompts come first, then completions, long ones before short ones.

    Example, the prompt 5 9 7 with the completions 3 1 and 4: `Layout(ids_N=torch.tensor([5, 9, 7, 3]),
    positions_N=torch.tensor([0, 1, 2, 3]), source_M=torch.tensor([2, 3, 2]), target_M=torch.tensor([3, 1, 4]),
    place_M=torch.tensor([0, 1, 2]), prompts=_make_pad([3]), lengths_P=torch.tensor([3]), buckets=(Bucket(
    pad=_make_pad([1]), prompt_B=torch.tensor([0]), positions_BC=torch.tensor([[3]])),))`
    """

    ids_N: Tensor
    """Token ids."""
    positions_N: Tensor
    """Position of each token in its own sequence, prompt included."""
    source_M: Tensor
    """For each completion token, the place in N that predicts it: the token before it."""
    target_M: Tensor
    """Its id."""
    place_M: Tensor
    """Its place in the (B, C) tensors of the micro-batch, flattened."""
    prompts: Pad
    """The prompts' tokens."""
    lengths_P: Tensor
    """Tokens of each prompt."""
    buckets: tuple[Bucket, ...]
    """The completions' tokens, in the order in which they lie."""
    masks: _Masks = field(default_factory=dict, repr=False, compare=False)
    """The prompts' masks by attention window and dtype; made when first needed, shared by all layers."""

    def to(self, device: torch.device) -> Layout:
        """The same on another device."""
        return Layout(
            ids_N=self.ids_N.to(device),
            positions_N=self.positions_N.to(device),
            source_M=self.source_M.to(device),
            target_M=self.target_M.to(device),
            place_M=self.place_M.to(device),
            prompts=self.prompts.to(device),
            lengths_P=self.lengths_P.to(device),
            buckets=tuple(bucket.to(device) for bucket in self.buckets),
        )

    def prompt_mask(self, window: int | None, dtype: torch.dtype) -> AttentionMask:
        """(1, 1, L, L): a prompt sees itself up to each position."""
        if (window, dtype) not in self.masks:
            place_L = torch.arange(self.prompts.width, device=self.ids_N.device)
            sees_LL = _causal_mask(place_L[:, None], place_L[None, :], window)
            self.masks[window, dtype] = AttentionMask(_additive_mask(sees_LL[None, None], dtype))
        return self.masks[window, dtype]

    def bucket_mask(self, bucket: Bucket, window: int | None, dtype: torch.dtype) -> AttentionMask:
        """(B, 1, C, T): a completion sees its prompt without padding, and itself up to each position."""
        if (window, dtype) not in bucket.masks:
            place_L = torch.arange(self.prompts.width, device=self.ids_N.device)
            real_BL = place_L < self.lengths_P[bucket.prompt_B].unsqueeze(1)
            query_BC1 = bucket.positions_BC.unsqueeze(2)
            prompt_BCL = _causal_mask(query_BC1, place_L[None, None, :], window) & real_BL.unsqueeze(1)
            own_BCC = _causal_mask(query_BC1, bucket.positions_BC.unsqueeze(1), window)
            sees_B1CT = torch.cat([prompt_BCL, own_BCC], dim=2).unsqueeze(1)
            bucket.masks[window, dtype] = AttentionMask(_additive_mask(sees_B1CT, dtype))
        return bucket.masks[window, dtype]


def layout_of(batch: MicroBatch) -> Layout:
    """The layout of a batch, on the device of its tensors.

    Made once for a tensor of completions: on a CPU the reference, the policy and later updates of the same rollouts
    share it; a batch that is moved to a GPU for each pass is laid out for each.
    """
    key = batch.completion_ids_BC
    if key not in _layouts:
        _layouts[key] = _make_layout(batch)
    layout: Layout = _layouts[key]
    return layout


def _make_layout(batch: MicroBatch) -> Layout:
    lengths = [len(ids) for ids in batch.prompts]
    inputs = [length - 1 for length in batch.lengths]
    order = sorted((row for row, n in enumerate(inputs) if n > 0), key=lambda row: (-inputs[row], row))
    prompt_start = [0, *accumulate(lengths)]
    row_start = dict(zip(order, accumulate((inputs[row] for row in order), initial=prompt_start[-1]), strict=False))

    ids = [token for prompt in batch.prompts for token in prompt]
    positions = [position for length in lengths for position in range(length)]
    completions = batch.completion_ids_BC.tolist()
    for row in order:
        ids += completions[row][: inputs[row]]
        before = lengths[batch.prompt_index[row]]
        positions += range(before, before + inputs[row])

    source: list[int] = []
    target: list[int] = []
    place: list[int] = []
    width = batch.completion_ids_BC.shape[1]
    for row, length in enumerate(batch.lengths):
        source.append(prompt_start[batch.prompt_index[row] + 1] - 1)
        source += range(row_start.get(row, 0), row_start.get(row, 0) + length - 1)
        target += completions[row][:length]
        place += range(row * width, row * width + length)

    layout = Layout(
        ids_N=torch.tensor(ids),
        positions_N=torch.tensor(positions),
        source_M=torch.tensor(source),
        target_M=torch.tensor(target),
        place_M=torch.tensor(place),
        prompts=_make_pad(lengths),
        lengths_P=torch.tensor(lengths),
        buckets=tuple(_make_bucket(rows, batch, inputs, lengths) for rows in _length_buckets(order, inputs)),
    )
    return layout.to(batch.completion_ids_BC.device)


def _head_indices(pad: Pad, heads: int) -> tuple[Tensor, Tensor]:
    head = torch.arange(heads, device=pad.gather_index.device)
    gather_index = (pad.gather_index.view(pad.rows, 1, pad.width) * heads + head.view(1, -1, 1)).flatten()
    row, place = (pad.scatter_index // pad.width).unsqueeze(1), (pad.scatter_index % pad.width).unsqueeze(1)
    return gather_index, ((row * heads + head) * pad.width + place).flatten()


def _grouped_query_mask(mask_B1CT: Tensor, rows: int, kv_heads: int, sharing: int) -> Tensor:
    full = mask_B1CT.unsqueeze(1).expand(rows, kv_heads, sharing, -1, -1)
    return full.reshape(rows * kv_heads, -1, mask_B1CT.shape[-1])


def _causal_mask(query: Tensor, key: Tensor, window: int | None) -> Tensor:
    """Whether a query's position sees a key's: not the future, and not what lies `window` or more behind."""
    return (key <= query) if window is None else (key <= query) & (key > query - window)


def _additive_mask(sees: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, -torch.inf)


def _length_buckets(order: list[int], inputs: list[int]) -> list[list[int]]:
    """Rows of `order`, which is by falling length, in runs of similar length."""
    runs: list[list[int]] = []
    for row in order:
        if runs and inputs[row] >= _BUCKET_SHARE * inputs[runs[-1][0]]:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def _make_bucket(rows: list[int], batch: MicroBatch, inputs: list[int], lengths: list[int]) -> Bucket:
    pad = _make_pad([inputs[row] for row in rows])
    before_B = torch.tensor([lengths[batch.prompt_index[row]] for row in rows])
    return Bucket(
        pad=pad,
        prompt_B=torch.tensor([batch.prompt_index[row] for row in rows]),
        positions_BC=before_B.unsqueeze(1) + torch.arange(pad.width),
    )


def _make_pad(lengths: list[int]) -> Pad:
    """Rows that follow each other, as a block of their longest length."""
    start_B1 = torch.tensor([0, *accumulate(lengths)][:-1]).unsqueeze(1)
    place_BC = torch.arange(max(lengths)).expand(len(lengths), -1)
    real_BC = place_BC < torch.tensor(lengths).unsqueeze(1)
    return Pad(
        gather_index=torch.where(real_BC, start_B1 + place_BC, start_B1).flatten(),
        scatter_index=real_BC.flatten().nonzero().squeeze(1),
        rows=len(lengths),
        width=max(lengths),
    )
