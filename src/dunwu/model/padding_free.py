"""A batch without padding: one row of tokens, every prompt once, and the attention that keeps its rows apart.

What it is: where each token of a `MicroBatch` lies in one long row (`Layout`), and an attention function that
transformers' own forward calls in place of its own. Each prompt goes through the network once; its completions attend
to its keys. Projections, norms and MLPs, nearly all of the work, compute no padding and no prompt twice.
What it is not: a forward pass. Weights, adapters, checkpointing and wrappers stay with transformers' modules.

A completion's last token predicts nothing that is trained on, so it is no input: c tokens need c − 1 positions.

Shapes: N tokens of the row, M completion tokens, P prompts, L longest prompt, R rows of a bucket, Q positions of it,
K = L + Q keys, H heads, D a head's width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from dunwu.core.records import MicroBatch
from dunwu.model.architectures import unwrap_model

__all__ = ["Layout", "layout_of", "packed_attention"]

_NAME: Final = "dunwu_packed"
_BUCKET_SHARE: Final = 0.6
"""A row joins a bucket if it is at least this share of the bucket's longest: only attention pads."""
_SCORES_HELD: Final = 1 << 22
"""Up to so many scores, three plain products are faster on a CPU than the fused kernel, and hold little."""


_layouts: Any = WeakIdKeyDictionary()


class _Table:
    """Tensors of a dataclass, moved together."""

    def to(self, device: torch.device) -> Any:
        """The same on another device."""
        moved: dict[str, Any] = {}
        for one in fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            if isinstance(value, (Tensor, _Table)):
                moved[one.name] = value.to(device)
            elif isinstance(value, tuple):
                moved[one.name] = tuple(part.to(device) for part in value)
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True, kw_only=True)
class Pad(_Table):
    """How a run of tokens becomes a padded block, and back."""

    into: Tensor
    """(R·Q,) which of the run's tokens stands at each place of the block; padding holds a copy of a row's first."""
    back: Tensor
    """(tokens,) place of each token in the block."""
    rows: int
    """R."""
    width: int
    """Q."""


@dataclass(frozen=True, kw_only=True)
class Bucket(_Table):
    """Completions of similar length, for attention."""

    pad: Pad
    """Their tokens."""
    prompt_R: Tensor
    """Which prompt each row belongs to."""
    positions_RQ: Tensor
    """Position of each query in its own row, padding included."""


@dataclass(frozen=True, kw_only=True)
class Layout(_Table):
    """Where everything lies. Prompts come first, then completions, long ones before short ones."""

    ids_N: Tensor
    """Token ids."""
    positions_N: Tensor
    """Position of each token in its own row, prompt included."""
    source_M: Tensor
    """For each completion token, the place in N that predicts it: the token before it."""
    target_M: Tensor
    """Its id."""
    place_M: Tensor
    """Its place in the (B, C) tensors of the batch, flattened."""
    prompts: Pad
    """The prompts' tokens."""
    lengths_P: Tensor
    """Tokens of each prompt."""
    buckets: tuple[Bucket, ...]
    """The completions' tokens, in the order in which they lie."""
    tables: dict[Any, Tensor] = field(default_factory=dict)
    """Masks and places, made when first needed and shared by all layers."""

    def kept(self, name: Any, make: Callable[[], Tensor]) -> Tensor:
        """The table of a name, made once."""
        if name not in self.tables:
            self.tables[name] = make()
        return self.tables[name]


def layout_of(batch: MicroBatch) -> Layout:
    """The layout of a batch, on the device of its tensors.

    Made once for a tensor of completions: on a CPU the reference, the policy and later updates of the same rollouts
    share it; a batch that is moved to a GPU for each pass is laid out for each.
    """
    key = batch.completion_ids_BC
    if key not in _layouts:
        _layouts[key] = _laid_out(batch)
    layout: Layout = _layouts[key]
    return layout


@contextlib.contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    """Within it, the model's attention is ours; it then needs a `layout` in every forward call.

    It must span the backward pass too: gradient checkpointing runs parts of the forward there.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _attend)
    config = unwrap_model(model).config
    usual = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = usual


def _laid_out(batch: MicroBatch) -> Layout:
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
        prompts=_pad(lengths),
        lengths_P=torch.tensor(lengths),
        buckets=tuple(_bucket(rows, batch, inputs, lengths) for rows in _alike(order, inputs)),
    )
    moved: Layout = layout.to(batch.completion_ids_BC.device)
    return moved


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (1, H, N, D) each in, (1, N, H, D) out."""
    pads = (layout.prompts, *(bucket.pad for bucket in layout.buckets))
    blocks = zip(*(_blocks(x, pads, layout) for x in (query, key, value)), strict=True)
    query_P, key_P, value_P = next(blocks)
    mask = layout.kept(("prompts", sliding_window, query.dtype), lambda: _prompt_mask(layout, query, sliding_window))
    mixed = _core(layout, query_P, key_P, value_P, mask, scaling, dropout)
    outputs = [_Unpadded.apply(mixed, *_places(layout.prompts, query.shape[1], layout))]  # type: ignore[no-untyped-call]
    for bucket, (query_R, own_key, own_value) in zip(layout.buckets, blocks, strict=True):
        keys = torch.cat([key_P.index_select(0, bucket.prompt_R), own_key], dim=2)
        values = torch.cat([value_P.index_select(0, bucket.prompt_R), own_value], dim=2)
        mask = layout.kept(
            (id(bucket), sliding_window, query.dtype),
            lambda bucket=bucket: _bucket_mask(layout, bucket, query, sliding_window),  # type: ignore[misc]
        )
        mixed = _core(layout, query_R, keys, values, mask, scaling, dropout)
        outputs.append(_Unpadded.apply(mixed, *_places(bucket.pad, query.shape[1], layout)))  # type: ignore[no-untyped-call]
    return torch.cat(outputs).unsqueeze(0), None


def _blocks(x: Tensor, pads: Sequence[Pad], layout: Layout) -> list[Tensor]:
    """(1, H, N, D) → a block (R, H, Q, D) for each run of tokens."""
    runs = x[0].transpose(0, 1).split([len(pad.back) for pad in pads])
    return [
        _Padded.apply(run, *_places(pad, x.shape[1], layout)).view(pad.rows, x.shape[1], pad.width, -1)  # type: ignore[no-untyped-call]
        for run, pad in zip(runs, pads, strict=True)
    ]


def _core(
    layout: Layout, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, dropout: float
) -> Tensor:
    """Attention of a padded block: (R, H, Q, D), (R, H', K, D) twice, mask (R, 1, Q, K) to add → (R, H, Q, D)."""
    (rows, heads, width, _), (_, key_heads, span, _) = query.shape, key.shape
    shared = heads // key_heads
    if query.device.type == "cpu" and rows * heads * width * span <= _SCORES_HELD:
        # Heads that share keys are stacked as further queries: nothing is repeated. The mask enters with the product.
        stacked = query.view(rows * key_heads, shared * width, -1)
        added = layout.kept(("stacked", id(mask), key_heads), lambda: _stacked(mask, rows, key_heads, shared))
        scores = torch.baddbmm(added, stacked, key.flatten(0, 1).transpose(1, 2), alpha=scaling)
        probs = F.dropout(scores.softmax(dim=-1), dropout) if dropout else scores.softmax(dim=-1)
        return torch.bmm(probs, value.flatten(0, 1)).view(query.shape)
    key, value = (x.repeat_interleave(shared, dim=1) for x in (key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)


class _Padded(torch.autograd.Function):
    """(tokens, H, D) → (R·H·Q, D). A token lies in one place, so the way back is a selection, not a sum."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, into: Tensor, back: Tensor) -> Tensor:
        ctx.back, ctx.heads = back, tokens.shape[1]
        return tokens.reshape(-1, tokens.shape[2]).index_select(0, into)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.back).view(-1, ctx.heads, grad.shape[1]), None, None


class _Unpadded(torch.autograd.Function):
    """(R, H, Q, D) → (tokens, H, D)."""

    @staticmethod
    def forward(ctx: Any, block: Tensor, into: Tensor, back: Tensor) -> Tensor:
        ctx.back, ctx.shape = back, block.shape
        return block.reshape(-1, block.shape[3]).index_select(0, back).view(-1, block.shape[1], block.shape[3])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        places = grad.new_zeros(ctx.shape).view(-1, grad.shape[2])
        return places.index_copy_(0, ctx.back, grad.reshape(-1, grad.shape[2])).view(ctx.shape), None, None


def _places(pad: Pad, heads: int, layout: Layout) -> tuple[Tensor, Tensor]:
    """`into` and `back` of a pad for tokens that consist of heads: (R·H·Q,) and (tokens·H,)."""

    def into() -> Tensor:
        head = torch.arange(heads, device=pad.into.device).view(1, -1, 1)
        return (pad.into.view(pad.rows, 1, pad.width) * heads + head).flatten()

    def back() -> Tensor:
        head = torch.arange(heads, device=pad.back.device)
        row, place = (pad.back // pad.width).unsqueeze(1), (pad.back % pad.width).unsqueeze(1)
        return ((row * heads + head) * pad.width + place).flatten()

    return layout.kept(("into", id(pad), heads), into), layout.kept(("back", id(pad), heads), back)


def _prompt_mask(layout: Layout, like: Tensor, window: int | None) -> Tensor:
    place_L = torch.arange(layout.prompts.width, device=like.device)
    return _added(_sees(place_L[:, None], place_L[None, :], window)[None, None], like.dtype)


def _bucket_mask(layout: Layout, bucket: Bucket, like: Tensor, window: int | None) -> Tensor:
    """(R, 1, Q, K): a completion sees its prompt without padding, and itself up to each position."""
    place_L = torch.arange(layout.prompts.width, device=like.device)
    real_RL = place_L < layout.lengths_P[bucket.prompt_R].unsqueeze(1)
    query_RQ1 = bucket.positions_RQ.unsqueeze(2)
    prompt_RQL = _sees(query_RQ1, place_L[None, None, :], window) & real_RL.unsqueeze(1)
    own_RQQ = _sees(query_RQ1, bucket.positions_RQ.unsqueeze(1), window)
    return _added(torch.cat([prompt_RQL, own_RQQ], dim=2).unsqueeze(1), like.dtype)


def _stacked(mask: Tensor, rows: int, key_heads: int, shared: int) -> Tensor:
    """(R, 1, Q, K) → (R·H', shared·Q, K)."""
    full = mask.unsqueeze(1).expand(rows, key_heads, shared, -1, -1)
    return full.reshape(rows * key_heads, -1, mask.shape[-1])


def _sees(query: Tensor, key: Tensor, window: int | None) -> Tensor:
    """Whether a query's position sees a key's: not the future, and not what lies `window` or more behind."""
    return (key <= query) if window is None else (key <= query) & (key > query - window)


def _added(sees: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, -torch.inf)


def _alike(order: list[int], inputs: list[int]) -> list[list[int]]:
    """Rows of `order`, which is by falling length, in runs of like length."""
    runs: list[list[int]] = []
    for row in order:
        if runs and inputs[row] >= _BUCKET_SHARE * inputs[runs[-1][0]]:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def _bucket(rows: list[int], batch: MicroBatch, inputs: list[int], lengths: list[int]) -> Bucket:
    pad = _pad([inputs[row] for row in rows])
    before_R = torch.tensor([lengths[batch.prompt_index[row]] for row in rows])
    return Bucket(
        pad=pad,
        prompt_R=torch.tensor([batch.prompt_index[row] for row in rows]),
        positions_RQ=before_R.unsqueeze(1) + torch.arange(pad.width),
    )


def _pad(lengths: list[int]) -> Pad:
    """Rows that follow each other, as a block of their longest length."""
    start_R1 = torch.tensor([0, *accumulate(lengths)][:-1]).unsqueeze(1)
    place_RQ = torch.arange(max(lengths)).expand(len(lengths), -1)
    real_RQ = place_RQ < torch.tensor(lengths).unsqueeze(1)
    return Pad(
        into=torch.where(real_RQ, start_R1 + place_RQ, start_R1).flatten(),
        back=real_RQ.flatten().nonzero().squeeze(1),
        rows=len(lengths),
        width=max(lengths),
    )
