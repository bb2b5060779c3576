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

__all__ = [
    "FUSED_AT_MOST",
    "Layer",
    "effective_bias",
    "effective_weight",
    "fused_bytes",
    "head_norms",
    "layers_of",
    "mergeable",
    "why_not_readable",
    "windows_of",
]

FUSED_AT_MOST: Final = 256 << 20
"""Bytes up to which a fused copy in the same dtype is held for its speed alone; see `fused_bytes`."""


class Layer(Protocol):
    """One decoder layer but for its attention, on the residual stream (T, H)."""

    layer: Any
    """transformers' module."""

    def query_key_value(self, x: Tensor) -> Tensor:
        """Of the normalised stream: (T, (heads + 2 · key heads) · width)."""
        ...

    def output(self, x: Tensor, mixed: Tensor) -> Tensor:
        """x + W_o · mixed."""
        ...

    def mlp(self, x: Tensor) -> Tensor:
        """x + W_down (silu(W_gate x̂) · W_up x̂), x̂ being x normalised."""
        ...

    def refresh(self) -> None:
        """Take the modules' current weights."""
        ...


def layers_of(inner: Any, dtype: torch.dtype | None) -> list[Layer]:
    """The layers of a transformers model: fused copies in `dtype`, or its own modules where that is None."""
    found: list[Layer] = [
        _OwnModules(layer) if dtype is None else _Fused(layer, dtype, inner.config.rms_norm_eps)
        for layer in inner.model.layers[: inner.config.num_hidden_layers]
    ]
    return found


def fused_bytes(inner: Any, dtype: torch.dtype) -> int:
    """Size of a fused copy: all linear layers but the head."""
    weights = sum(m.weight.numel() for layer in inner.model.layers for m in _linears(layer))
    return int(weights) * dtype.itemsize


def why_not_readable(inner: Any) -> str | None:
    """Why a model's embedding or head cannot be read as one matrix; None where it can."""
    for name, module in (("embedding", inner.model.embed_tokens), ("head", inner.lm_head)):
        if hasattr(module, "base_layer") or hasattr(module, "token_adapter"):
            return f"an adapter is on its {name}"
    return None


def mergeable(inner: Any) -> bool:
    """Whether every linear layer is plain, or plain with adapters that are a matrix to add (LoRA, not DoRA)."""
    return all(_is_plain(module) for layer in inner.model.layers for module in _projections(layer))


class _OwnModules:
    """Calls the trainer's modules: adapters, quantised weights and hooks work as in training."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def query_key_value(self, x: Tensor) -> Tensor:
        normal, attention = self.layer.input_layernorm(x), self.layer.self_attn
        return torch.cat([attention.q_proj(normal), attention.k_proj(normal), attention.v_proj(normal)], dim=-1)

    def output(self, x: Tensor, mixed: Tensor) -> Tensor:
        summed: Tensor = x + self.layer.self_attn.o_proj(mixed)
        return summed

    def mlp(self, x: Tensor) -> Tensor:
        summed: Tensor = x + self.layer.mlp(self.layer.post_attention_layernorm(x))
        return summed

    def refresh(self) -> None:
        """They are the trainer's own."""


class _Fused:
    """Copies, written again in place when the weights have moved, so that a captured graph stays right.

    In float32 the norms' weights are multiplied into the products that follow them: W (w · x) = (W · diag w) x.
    """

    def __init__(self, layer: Any, dtype: torch.dtype, eps: float) -> None:
        self.layer, self.eps = layer, eps
        self.norms = (layer.input_layernorm, layer.post_attention_layernorm)
        self.folds = dtype in (torch.float32, torch.float64)
        self.weights = [_empty(modules, dtype) for modules in self._sources()]
        self.biases = [_empty_bias(modules, dtype) for modules in self._sources()]
        width = self.weights[0].shape[1]
        self.on_cpu = self.weights[0].device.type == "cpu"
        self.floor = torch.tensor((width * eps) ** 0.5, dtype=dtype, device=self.weights[0].device)
        self.refresh()

    def query_key_value(self, x: Tensor) -> Tensor:
        return F.linear(self._normal(x, 0), self.weights[0], self.biases[0])

    def output(self, x: Tensor, mixed: Tensor) -> Tensor:
        return _added(x, mixed, self.weights[1], self.biases[1])

    def mlp(self, x: Tensor) -> Tensor:
        gate, up = F.linear(self._normal(x, 1), self.weights[2], self.biases[2]).chunk(2, dim=-1)
        return _added(x, F.silu(gate) * up, self.weights[3], self.biases[3])

    def refresh(self) -> None:
        for part, (modules, weight, bias) in enumerate(zip(self._sources(), self.weights, self.biases, strict=True)):
            start = 0
            for module in modules:
                end = start + module.out_features
                weight[start:end].copy_(effective_weight(module))
                if bias is not None:
                    own = effective_bias(module)
                    bias[start:end] = 0.0 if own is None else own
                start = end
            if self.folds and part in (0, 2):
                weight *= self.norms[part // 2].weight
                if self.on_cpu:
                    weight *= weight.shape[1] ** 0.5

    def _sources(self) -> tuple[list[Any], ...]:
        """The modules as they are now: an adapter may have been put around them."""
        attention, mlp = self.layer.self_attn, self.layer.mlp
        return (
            [attention.q_proj, attention.k_proj, attention.v_proj],
            [attention.o_proj],
            [mlp.gate_proj, mlp.up_proj],
            [mlp.down_proj],
        )

    def _normal(self, x: Tensor, which: int) -> Tensor:
        """The stream normalised, without the norm's weight where that is folded."""
        if self.folds and self.on_cpu:
            # x / √(|x|² + H·ε), √H being folded too: three operations, where a CPU's rms_norm is seven.
            return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.floor)
        weight = None if self.folds else self.norms[which].weight.to(x.dtype)
        return F.rms_norm(x, x.shape[-1:], weight, self.eps).to(self.weights[0].dtype)


def _added(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None and residual.dtype == weight.dtype:
        return torch.addmm(residual, x, weight.t())  # one operation for product and sum
    return residual + F.linear(x.to(weight.dtype), weight, bias)


def head_norms(layer: Any) -> tuple[Tensor, Tensor] | None:
    """Weights of the norms on queries and keys, where the family has them."""
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


def effective_weight(module: Any) -> Tensor:
    """The weight that a module multiplies with: its own, and what active adapters add."""
    base = _base(module)
    weight: Tensor = base.weight.detach()
    if module is base or module.disable_adapters or module.merged:
        return weight
    for adapter in module.active_adapters:
        if adapter in module.lora_A:
            weight = weight + module.get_delta_weight(adapter).detach().to(weight.dtype)
    return weight


def effective_bias(module: Any) -> Tensor | None:
    """A linear module's bias, whatever adapters are on it."""
    bias: Tensor | None = _base(module).bias
    return None if bias is None else bias.detach()


def windows_of(config: Any) -> tuple[int | None, ...]:
    """Each layer's attention window; None: it sees everything."""
    window = getattr(config, "sliding_window", None)
    if config.model_type in ("qwen2", "qwen3"):
        kinds = config.layer_types[: config.num_hidden_layers]
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    return tuple(window if config.model_type == "mistral" else None for _ in range(config.num_hidden_layers))


def _empty(modules: list[Any], dtype: torch.dtype) -> Tensor:
    first = _base(modules[0]).weight
    outputs = sum(module.out_features for module in modules)
    return torch.empty(outputs, first.shape[1], dtype=dtype, device=first.device)


def _empty_bias(modules: list[Any], dtype: torch.dtype) -> Tensor | None:
    if all(_base(module).bias is None for module in modules):
        return None
    return torch.empty(_empty(modules, dtype).shape[0], dtype=dtype, device=_base(modules[0]).weight.device)
