"""The weights of a known decoder, as the fast engine multiplies with them.

What it is: for each layer, four products (queries, keys and values; output; gate and up; down) and its norms. Either
the trainer's own modules are called, so that nothing is copied, or a fused copy is held: fewer, larger products, in
the dtype that the trainer computes in, with adapters added in. The trainer's weights are never touched.
What it is not: attention, positions or a cache (`decoder`).

Shapes: T tokens, H hidden, O outputs.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FUSED_AT_MOST", "Layer", "fused_bytes", "layers_of", "mergeable"]

FUSED_AT_MOST: Final = 256 << 20
"""Bytes up to which a fused copy in the same dtype is held for its speed alone; see `fused_bytes`."""


class Layer(Protocol):
    """One decoder layer's products, on (T, H)."""

    norms: tuple[Tensor, Tensor]
    head_norms: tuple[Tensor, Tensor] | None

    def query_key_value(self, x: Tensor) -> Tensor:
        """(T, (heads + 2 · key heads) · width)."""
        ...

    def output(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual + W_o x."""
        ...

    def gate_up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(T, I) twice."""
        ...

    def down(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual + W_down x."""
        ...

    def refresh(self) -> None:
        """Take the modules' current weights."""
        ...


def layers_of(inner: Any, dtype: torch.dtype | None) -> list[Layer]:
    """The layers of a transformers model: fused copies in `dtype`, or its own modules where that is None."""
    found: list[Layer] = [
        _OwnModules(layer) if dtype is None else _Fused(layer, dtype)
        for layer in inner.model.layers[: inner.config.num_hidden_layers]
    ]
    return found


def fused_bytes(inner: Any, dtype: torch.dtype) -> int:
    """Size of a fused copy: all linear layers but the head."""
    weights = sum(m.weight.numel() for layer in inner.model.layers for m in _linears(layer) if m is not None)
    return int(weights) * dtype.itemsize


def mergeable(inner: Any) -> bool:
    """Whether every linear layer is plain, or plain with adapters that are a matrix to add (LoRA, not DoRA)."""
    return all(_is_plain(module) for layer in inner.model.layers for module in _projections(layer))


class _OwnModules:
    """Calls the trainer's modules: adapters, quantised weights and hooks work as in training."""

    def __init__(self, layer: Any) -> None:
        self.attention, self.mlp = layer.self_attn, layer.mlp
        self.norms = (layer.input_layernorm.weight, layer.post_attention_layernorm.weight)
        self.head_norms = _head_norms(layer)

    def query_key_value(self, x: Tensor) -> Tensor:
        return torch.cat([self.attention.q_proj(x), self.attention.k_proj(x), self.attention.v_proj(x)], dim=-1)

    def output(self, residual: Tensor, x: Tensor) -> Tensor:
        summed: Tensor = residual + self.attention.o_proj(x)
        return summed

    def gate_up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mlp.gate_proj(x), self.mlp.up_proj(x)

    def down(self, residual: Tensor, x: Tensor) -> Tensor:
        summed: Tensor = residual + self.mlp.down_proj(x)
        return summed

    def refresh(self) -> None:
        """They are the trainer's own."""


class _Fused:
    """Copies, written again in place when the weights have moved, so that a captured graph stays right."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.norms = (layer.input_layernorm.weight, layer.post_attention_layernorm.weight)
        self.head_norms = _head_norms(layer)
        self.sources = (
            [attention.q_proj, attention.k_proj, attention.v_proj],
            [attention.o_proj],
            [mlp.gate_proj, mlp.up_proj],
            [mlp.down_proj],
        )
        self.weights = [_empty(modules, dtype) for modules in self.sources]
        self.biases = [_empty_bias(modules, dtype) for modules in self.sources]
        self.refresh()

    def query_key_value(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weights[0].dtype), self.weights[0], self.biases[0])

    def output(self, residual: Tensor, x: Tensor) -> Tensor:
        return _added(residual, x, self.weights[1], self.biases[1])

    def gate_up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = F.linear(x.to(self.weights[2].dtype), self.weights[2], self.biases[2]).chunk(2, dim=-1)
        return gate, up

    def down(self, residual: Tensor, x: Tensor) -> Tensor:
        return _added(residual, x, self.weights[3], self.biases[3])

    def refresh(self) -> None:
        for modules, weight, bias in zip(self.sources, self.weights, self.biases, strict=True):
            start = 0
            for module in modules:
                end = start + module.out_features
                weight[start:end].copy_(_effective(module))
                if bias is not None:
                    bias[start:end].copy_(_bias(module))
                start = end


def _added(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None and residual.dtype == weight.dtype:
        return torch.addmm(residual, x, weight.t())  # one operation for product and sum
    return residual + F.linear(x.to(weight.dtype), weight, bias)


def _head_norms(layer: Any) -> tuple[Tensor, Tensor] | None:
    attention = layer.self_attn
    return (attention.q_norm.weight, attention.k_norm.weight) if hasattr(attention, "q_norm") else None


def _projections(layer: Any) -> list[Any]:
    attention, mlp = layer.self_attn, layer.mlp
    return [
        *(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
        *(mlp.gate_proj, mlp.up_proj, mlp.down_proj),
    ]


def _linears(layer: Any) -> list[Any]:
    return [_base(module) for module in _projections(layer)]


def _base(module: Any) -> Any:
    return module.get_base_layer() if hasattr(module, "get_base_layer") else module


def _is_plain(module: Any) -> bool:
    base = _base(module)
    if type(base) is not nn.Linear:
        return False
    if module is base:
        return True
    variants = getattr(module, "lora_variant", {}) or {}
    biased = any(getattr(part, "bias", None) is not None for part in getattr(module, "lora_B", {}).values())
    return hasattr(module, "get_delta_weight") and not variants and not biased


def _effective(module: Any) -> Tensor:
    """The weight that a module multiplies with: its own, and what active adapters add."""
    base = _base(module)
    weight: Tensor = base.weight.detach()
    if module is base or module.disable_adapters or module.merged:
        return weight
    for adapter in module.active_adapters:
        if adapter in module.lora_A:
            weight = weight + module.get_delta_weight(adapter).detach().to(weight.dtype)
    return weight


def _bias(module: Any) -> Tensor:
    base = _base(module)
    if base.bias is None:
        return torch.zeros((), device=base.weight.device)
    bias: Tensor = base.bias.detach()
    return bias


def _empty(modules: list[Any], dtype: torch.dtype) -> Tensor:
    first = _base(modules[0]).weight
    outputs = sum(module.out_features for module in modules)
    return torch.empty(outputs, first.shape[1], dtype=dtype, device=first.device)


def _empty_bias(modules: list[Any], dtype: torch.dtype) -> Tensor | None:
    if all(_base(module).bias is None for module in modules):
        return None
    return torch.empty(_empty(modules, dtype).shape[0], dtype=dtype, device=_base(modules[0]).weight.device)
