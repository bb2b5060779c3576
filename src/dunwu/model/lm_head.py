"""From hidden states to log-probabilities and entropies, without ever storing all logits.

The language model's head and the softmax over its vocabulary in one differentiable function that goes through the
tokens in chunks, forward and backward. Its memory does not depend on vocabulary × length.

With a vocabulary of 151,936, the float32 logits of 16 × 512 tokens are 5 GB, and a plain softmax with its gradient
stores several such tensors. A chunk is 64 MB (256 MB on a GPU, where small products waste the machine). Up to that
size the probabilities are stored; beyond it, the backward pass computes a chunk's logits again: a fourth product
beside three.

Shapes: M tokens whose log-probability is asked for, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Final, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dunwu.core.algorithm import token_entropy, token_logps
from dunwu.errors import ConfigError

__all__ = ["chunk_rows", "head_logps", "linear_logps", "logits_of"]

_CHUNK_LOGITS: Final = {"cuda": 1 << 26}
_CHUNK_LOGITS_ELSEWHERE: Final = 1 << 24


def head_logps(head: nn.Module, hidden_MH: Tensor, targets_M: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log p(target) under softmax(head(hidden) / temperature), and the distribution's entropy (no gradient).

    Returns:
        (M,), (M,) nats, float32 (float64 stays).
    """
    if type(head) is nn.Linear:
        return linear_logps(hidden_MH, head.weight, head.bias, targets_M, temperature)
    return _any_head(head, hidden_MH, targets_M, temperature)


def linear_logps(
    hidden_MH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_M: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """`head_logps` for a plain linear head, with its own backward pass.

    Raises:
        ConfigError: for a temperature of 0 or less.
    """
    if temperature <= 0:
        raise ConfigError(f"temperature must be above 0 for log-probabilities, got {temperature}; use 1.0")
    logps_M, entropy_M = _LinearLogps.apply(hidden_MH, weight_VH, bias_V, targets_M, temperature)  # type: ignore[no-untyped-call]
    return logps_M, entropy_M


def chunk_rows(vocabulary: int, device: torch.device) -> int:
    """Tokens whose logits exist at a time."""
    return max(1, _CHUNK_LOGITS.get(device.type, _CHUNK_LOGITS_ELSEWHERE) // vocabulary)


class _LinearContext(Protocol):
    """What the forward pass leaves for the backward pass."""

    temperature: float
    dtype: torch.dtype
    rows: int
    saved_tensors: tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...


class _LinearLogps(torch.autograd.Function):
    """∂ log p(target) / ∂ logits = (onehot(target) − p) / temperature; everything else is the chain rule."""

    @staticmethod
    def forward(
        ctx: _LinearContext,
        hidden_MH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        targets_M: Tensor,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        kind = hidden_MH.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_MH.dtype
        rows = chunk_rows(weight_VH.shape[0], hidden_MH.device)
        stored: Tensor | None = None
        logps, entropies = [], []
        with torch.autocast(kind, enabled=False):
            cast_VH = weight_VH.to(dtype)
            for hidden, targets in zip(hidden_MH.split(rows), targets_M.split(rows), strict=True):
                logits = _logits(hidden.to(dtype), cast_VH, bias_V, temperature)
                all_logps = logits.log_softmax(dim=-1)
                logps.append(all_logps.gather(-1, targets.unsqueeze(-1)).squeeze(-1))
                probs = all_logps.exp()
                entropies.append(-torch.linalg.vecdot(probs, all_logps))
                stored = probs if len(hidden_MH) <= rows else None
        ctx.save_for_backward(hidden_MH, weight_VH, bias_V, targets_M, stored)
        ctx.temperature, ctx.dtype, ctx.rows = temperature, dtype, rows
        entropy_M = _concatenate(entropies, hidden_MH)
        ctx.mark_non_differentiable(entropy_M)
        return _concatenate(logps, hidden_MH), entropy_M

    @staticmethod
    def backward(ctx: _LinearContext, grad_M: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_MH, weight_VH, bias_V, targets_M, stored = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden_MH) if wants_hidden else None
        # Summed over chunks in float32 at least, whatever the dtype of the weight.
        exact = torch.promote_types(weight_VH.dtype, torch.float32)
        grad_weight = torch.zeros_like(weight_VH, dtype=exact) if wants_weight else None
        grad_bias = torch.zeros_like(bias_V) if bias_V is not None and wants_bias else None
        cast_VH = weight_VH.to(ctx.dtype)
        for start in range(0, len(hidden_MH), ctx.rows):
            part = slice(start, start + ctx.rows)
            hidden, targets = hidden_MH[part].to(ctx.dtype), targets_M[part].unsqueeze(-1)
            scale = (grad_M[part] / ctx.temperature).unsqueeze(-1)
            if stored is None:
                probs = _logits(hidden, cast_VH, bias_V, ctx.temperature).softmax(dim=-1).mul_(-scale)
            else:
                probs = stored * -scale
            error = probs.scatter_add_(-1, targets, scale)
            if grad_bias is not None:
                grad_bias += error.sum(dim=0)
            error = error.to(ctx.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = error @ cast_VH
            if grad_weight is not None:
                _add_product(grad_weight, error, hidden)
        grad_weight = grad_weight.to(weight_VH.dtype) if grad_weight is not None else None
        return grad_hidden, grad_weight, grad_bias, None, None


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


def _concatenate(parts: list[Tensor], like: Tensor) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts) if parts else like.new_zeros(0)


def _any_head(head: nn.Module, hidden_MH: Tensor, targets_M: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """A head of whatever kind (an adapter on it, a quantised one), in chunks whose logits autograd computes again."""

    def chunk(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(hidden)
        with torch.no_grad():
            entropy = token_entropy(logits, temperature)
        return token_logps(logits, targets, temperature), entropy

    vocabulary = int(getattr(head, "out_features", 0)) or int(cast(Tensor, head.weight).shape[0])
    rows = chunk_rows(vocabulary, hidden_MH.device)
    parts = [
        checkpoint(chunk, hidden, targets, use_reentrant=False)
        for hidden, targets in zip(hidden_MH.split(rows), targets_M.split(rows), strict=True)
    ]
    return torch.cat([logps for logps, _ in parts]), torch.cat([entropy for _, entropy in parts])
