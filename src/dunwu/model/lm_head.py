"""From hidden states to log-probabilities and entropies, without ever holding all logits.

What it is: the language model's head and the softmax over its vocabulary in one differentiable function that goes
through the tokens in chunks, forward and backward. Its memory does not depend on vocabulary × length.
What it is not: a loss. The advantage of a token is not known here.

At 151,936 words, the float32 logits of 16 × 512 tokens are 5 GB, and a plain softmax with its gradient holds several
such tensors. A chunk is 64 MB (256 MB on a GPU, where small products waste the machine). Up to that size the
probabilities are kept; beyond it, the backward pass computes a chunk's logits again: a fourth product beside three.

Shapes: N tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dunwu.core.algorithm import token_entropy, token_logps

__all__ = ["chunk_rows", "head_logps", "linear_logps", "logits_of"]

_CHUNK_LOGITS: Final = {"cuda": 1 << 26}
_CHUNK_LOGITS_ELSEWHERE: Final = 1 << 24


def head_logps(head: nn.Module, hidden_NH: Tensor, targets_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log p(target) under softmax(head(hidden) / temperature), and the distribution's entropy (no gradient).

    Returns:
        (N,), (N,) nats, float32 (float64 stays).
    """
    if type(head) is nn.Linear:
        return linear_logps(hidden_NH, head.weight, head.bias, targets_N, temperature)
    return _any_head(head, hidden_NH, targets_N, temperature)


def linear_logps(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """`head_logps` for a plain linear head, with its own backward pass.

    Raises:
        ValueError: for a temperature of 0 or less.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0 for log-probabilities, got {temperature}; use 1.0")
    logps_N, entropy_N = _LinearLogps.apply(hidden_NH, weight_VH, bias_V, targets_N, temperature)  # type: ignore[no-untyped-call]
    return logps_N, entropy_N


def chunk_rows(vocabulary: int, device: torch.device) -> int:
    """Tokens whose logits are held at a time."""
    return max(1, _CHUNK_LOGITS.get(device.type, _CHUNK_LOGITS_ELSEWHERE) // vocabulary)


class _LinearLogps(torch.autograd.Function):
    """∂ log p(target) / ∂ logits = (onehot(target) − p) / temperature; everything else is the chain rule."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        kind = hidden_NH.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_NH.dtype
        rows = chunk_rows(weight_VH.shape[0], hidden_NH.device)
        kept: Tensor | None = None
        logps, entropies = [], []
        with torch.autocast(kind, enabled=False):
            cast_VH = weight_VH.to(dtype)
            for hidden, targets in zip(hidden_NH.split(rows), targets_N.split(rows), strict=True):
                logits = _logits(hidden.to(dtype), cast_VH, bias_V, temperature)
                every = logits.log_softmax(dim=-1)
                logps.append(every.gather(-1, targets.unsqueeze(-1)).squeeze(-1))
                probs = every.exp()
                entropies.append(-torch.linalg.vecdot(probs, every))
                kept = probs if len(hidden_NH) <= rows else None
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, targets_N, kept)
        ctx.temperature, ctx.dtype, ctx.rows = temperature, dtype, rows
        entropy_N = _joined(entropies, hidden_NH)
        ctx.mark_non_differentiable(entropy_N)
        return _joined(logps, hidden_NH), entropy_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NH, weight_VH, bias_V, targets_N, kept = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        to_hidden = torch.empty_like(hidden_NH) if wants_hidden else None
        # Summed over chunks in float32 at least, whatever the weight is kept in.
        exact = torch.promote_types(weight_VH.dtype, torch.float32)
        to_weight = torch.zeros_like(weight_VH, dtype=exact) if wants_weight else None
        to_bias = torch.zeros_like(bias_V) if wants_bias else None
        cast_VH = weight_VH.to(ctx.dtype)
        for start in range(0, len(hidden_NH), ctx.rows):
            part = slice(start, start + ctx.rows)
            hidden, targets = hidden_NH[part].to(ctx.dtype), targets_N[part].unsqueeze(-1)
            scale = (grad_N[part] / ctx.temperature).unsqueeze(-1)
            if kept is None:
                probs = _logits(hidden, cast_VH, bias_V, ctx.temperature).softmax(dim=-1).mul_(-scale)
            else:
                probs = kept * -scale
            error = probs.scatter_add_(-1, targets, scale)
            if to_bias is not None:
                to_bias += error.sum(dim=0)
            error = error.to(ctx.dtype)
            if to_hidden is not None:
                to_hidden[part] = error @ cast_VH
            if to_weight is not None:
                _add_product(to_weight, error, hidden)
        to_weight = to_weight.to(weight_VH.dtype) if to_weight is not None else None
        return to_hidden, to_weight, to_bias, None, None


def logits_of(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """hidden · weightᵀ + bias, float32 at least: bfloat16 has 8 bits, and a logit of 20 would be off by 0.06."""
    if hidden.dtype not in (torch.bfloat16, torch.float16):
        logits = hidden @ weight.t()
    elif hidden.is_cuda:
        logits = torch.mm(hidden, weight.t(), out_dtype=torch.float32)
    else:
        logits = hidden.float() @ weight.float().t()  # a CPU multiplies in float32 at least as fast
    return logits if bias is None else logits + bias


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    logits = logits_of(hidden, weight, bias)
    return logits if temperature == 1.0 else logits.div_(temperature)


def _add_product(total_VH: Tensor, error: Tensor, hidden: Tensor) -> None:
    if total_VH.dtype == error.dtype:
        total_VH.addmm_(error.t(), hidden)
    else:
        total_VH += error.t() @ hidden


def _joined(parts: list[Tensor], like: Tensor) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts) if parts else like.new_zeros(0)


def _any_head(head: nn.Module, hidden_NH: Tensor, targets_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Any head (an adapter on it, a quantised one), in chunks whose logits autograd computes again."""

    def chunk(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(hidden)
        with torch.no_grad():
            entropy = token_entropy(logits, temperature)
        return token_logps(logits, targets, temperature), entropy

    vocabulary = int(getattr(head, "out_features", 0)) or int(cast(Tensor, head.weight).shape[0])
    rows = chunk_rows(vocabulary, hidden_NH.device)
    parts = [
        checkpoint(chunk, hidden, targets, use_reentrant=False)
        for hidden, targets in zip(hidden_NH.split(rows), targets_N.split(rows), strict=True)
    ]
    return torch.cat([logps for logps, _ in parts]), torch.cat([entropy for _, entropy in parts])
