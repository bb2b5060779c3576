"""The forward of a micro-batch without padding: the attention that keeps the rows of a `Layout` apart.

`packed_attention` puts it into transformers' own forward. Each prompt goes through the network once, and its
completions attend to its keys. Projections, norms and MLPs, nearly all of the work, compute no padding and no prompt
twice. Weights, adapters, checkpointing and wrappers stay with transformers' modules.

Shapes: N tokens of the row, P prompts, L longest prompt, B completions of a bucket, C input positions of its longest
completion, T = L + C keys, Q query heads, K key-value heads, D dimension of a head.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from dunwu.model.architectures import unwrap_model
from dunwu.model.layout import AttentionMask, Layout, Pad

__all__ = ["packed_attention"]

_NAME: Final = "dunwu_packed"
_FEW_SCORES: Final = 1 << 22
"""Up to so many scores, three plain products are faster on a CPU than the fused kernel, and take little memory."""


@contextlib.contextmanager
def packed_attention(model: nn.Module) -> Iterator[None]:
    """Within it, the model's attention is ours; it then needs a `layout` in every forward call.

    It must span the backward pass too: gradient checkpointing runs parts of the forward there.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _uncompiled_attention())
    config = unwrap_model(model).config
    usual = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = usual


@functools.cache
def _uncompiled_attention() -> Callable[..., tuple[Tensor, None]]:
    """Our attention, which torch.compile leaves as it is: its blocks have other shapes in every micro-batch.

    Called when first needed, because torch's compiler takes seconds to import.
    """
    function: Callable[..., tuple[Tensor, None]] = torch.compiler.disable(_packed_attention)
    return function


def _packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (1, Q or K, N, D) each in, (1, N, Q, D) out."""
    pads = (layout.prompts, *(bucket.pad for bucket in layout.buckets))
    blocks = zip(*(_blocks(x, pads) for x in (query, key, value)), strict=True)
    query_PQLD, key_PKLD, value_PKLD = next(blocks)
    mask = layout.prompt_mask(sliding_window, query.dtype)
    mixed = _attention(query_PQLD, key_PKLD, value_PKLD, mask, scaling, dropout)
    outputs = [_unpad(mixed, layout.prompts)]
    for bucket, (query_BQCD, own_key, own_value) in zip(layout.buckets, blocks, strict=True):
        keys = torch.cat([key_PKLD.index_select(0, bucket.prompt_B), own_key], dim=2)
        values = torch.cat([value_PKLD.index_select(0, bucket.prompt_B), own_value], dim=2)
        mask = layout.bucket_mask(bucket, sliding_window, query.dtype)
        outputs.append(_unpad(_attention(query_BQCD, keys, values, mask, scaling, dropout), bucket.pad))
    return torch.cat(outputs).unsqueeze(0), None


def _attention(
    query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask, scaling: float, dropout: float
) -> Tensor:
    """Attention of a padded block: (B, Q, C, D), (B, K, T, D) twice → (B, Q, C, D)."""
    (rows, heads, width, _), (_, kv_heads, length, _) = query.shape, key.shape
    sharing = heads // kv_heads
    if query.device.type == "cpu" and rows * heads * width * length <= _FEW_SCORES:
        # Heads that share keys are stacked as further queries: nothing is repeated. The mask enters with the product.
        stacked = query.view(rows * kv_heads, sharing * width, -1)
        keys = key.flatten(0, 1).transpose(1, 2)
        scores = torch.baddbmm(mask.grouped(rows, kv_heads, sharing), stacked, keys, alpha=scaling)
        probs = F.dropout(scores.softmax(dim=-1), dropout) if dropout else scores.softmax(dim=-1)
        return torch.bmm(probs, value.flatten(0, 1)).view(query.shape)
    key, value = (x.repeat_interleave(sharing, dim=1) for x in (key, value))
    added = mask.added_B1CT
    return F.scaled_dot_product_attention(query, key, value, attn_mask=added, dropout_p=dropout, scale=scaling)


def _blocks(x: Tensor, pads: Sequence[Pad]) -> list[Tensor]:
    """(1, heads, N, D) → a block (rows, heads, width, D) for each run of tokens."""
    runs = x[0].transpose(0, 1).split([len(pad.scatter_index) for pad in pads])
    return [
        _Padded.apply(run, *pad.head_indices(x.shape[1])).view(pad.rows, x.shape[1], pad.width, -1)  # type: ignore[no-untyped-call]
        for run, pad in zip(runs, pads, strict=True)
    ]


def _unpad(block: Tensor, pad: Pad) -> Tensor:
    """(rows, Q, width, D) → (tokens, Q, D)."""
    tokens: Tensor = _Unpadded.apply(block, *pad.head_indices(block.shape[1]))  # type: ignore[no-untyped-call]
    return tokens


class _PadContext(FunctionCtx):
    """What the forward pass leaves for the backward pass."""

    scatter_index: Tensor
    heads: int
    shape: torch.Size


class _Padded(torch.autograd.Function):
    """(tokens, heads, D) → (rows·heads·width, D). A token has one place: the gradient is a selection, no sum."""

    @staticmethod
    def forward(ctx: _PadContext, tokens: Tensor, gather_index: Tensor, scatter_index: Tensor) -> Tensor:
        ctx.scatter_index, ctx.heads = scatter_index, tokens.shape[1]
        return tokens.reshape(-1, tokens.shape[2]).index_select(0, gather_index)

    @staticmethod
    def backward(ctx: _PadContext, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.scatter_index).view(-1, ctx.heads, grad.shape[1]), None, None


class _Unpadded(torch.autograd.Function):
    """(rows, heads, width, D) → (tokens, heads, D)."""

    @staticmethod
    def forward(ctx: _PadContext, block: Tensor, gather_index: Tensor, scatter_index: Tensor) -> Tensor:
        ctx.scatter_index, ctx.shape = scatter_index, block.shape
        flat = block.reshape(-1, block.shape[3])
        return flat.index_select(0, scatter_index).view(-1, block.shape[1], block.shape[3])

    @staticmethod
    def backward(ctx: _PadContext, grad: Tensor) -> tuple[Tensor, None, None]:
        flat = grad.new_zeros(ctx.shape).view(-1, grad.shape[2])
        return flat.index_copy_(0, ctx.scatter_index, grad.reshape(-1, grad.shape[2])).view(ctx.shape), None, None
