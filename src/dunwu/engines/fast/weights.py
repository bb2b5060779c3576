"""The weights of a known model in the layout the fast engine uses: four products a layer.

Queries, keys and values are one product; output; gate and up; down. Either the policy's own modules are called, so
that nothing is copied, or a fused copy is made: fewer and larger products, in the dtype that the trainer computes in,
with adapters added in. The policy's weights are never changed.

Shapes: N tokens, H hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dunwu.engines.fast.model_parts import DecoderLayer, KnownModel
from dunwu.model.weights import base_layer, merged_bias, merged_weight

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = [
    "MAX_FUSED_BYTES",
    "Layer",
    "can_merge_adapters",
    "fused_bytes",
    "head_norms",
    "layer_windows",
    "make_layers",
    "unreadable_reason",
]

MAX_FUSED_BYTES: Final = 256 << 20
"""Bytes up to which a fused copy in the same dtype is made for its speed alone; see `fused_bytes`."""


class Layer(Protocol):
    """One decoder layer but for its attention, on the residual stream (N, H)."""

    layer: DecoderLayer
    """transformers' module."""

    def query_key_value(self, x: Tensor) -> Tensor:
        """Of the normalised stream: (N, (Q + 2 · K) · D)."""
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


def make_layers(inner: KnownModel, dtype: torch.dtype | None) -> list[Layer]:
    """The layers of a model: fused copies in `dtype`, or its own modules where that is None."""
    found: list[Layer] = [
        ModuleLayer(layer) if dtype is None else FusedLayer(layer, dtype, inner.config.rms_norm_eps)
        for layer in inner.model.layers[: inner.config.num_hidden_layers]
    ]
    return found


def fused_bytes(inner: KnownModel, dtype: torch.dtype) -> int:
    """Size of a fused copy: all linear layers but the head."""
    modules = [module for layer in inner.model.layers for module in _projections(layer)]
    return sum(_base(module).weight.numel() for module in modules) * dtype.itemsize


def unreadable_reason(inner: KnownModel) -> str | None:
    """Why the weights of a model of a known family cannot be read one by one; None where they can."""
    for name, module in (("embedding", inner.model.embed_tokens), ("head", inner.lm_head)):
        if _has_adapter(module):
            return f"an adapter is on its {name}"
    for layer in inner.model.layers:
        if not all(hasattr(layer.self_attn, name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")):
            return f"an adapter ({type(layer.self_attn).__name__}) is in the place of its attention"
        norms = (layer.input_layernorm, layer.post_attention_layernorm, *_head_norm_modules(layer))
        if any(_has_adapter(norm) for norm in norms):
            return "an adapter is on its norms"
    if _has_adapter(inner.model.norm):
        return "an adapter is on its norms"
    kinds = getattr(inner.config, "layer_types", None)
    if kinds is not None and len(kinds) < len(inner.model.layers):
        return f"it has {len(inner.model.layers)} layers, and its config describes {len(kinds)} (layer_types)"
    return None


def can_merge_adapters(inner: KnownModel) -> bool:
    """Whether every linear layer is plain, or plain with adapters that are a matrix to add (LoRA, not DoRA)."""
    return all(_can_merge(module) for layer in inner.model.layers for module in _projections(layer))


class ModuleLayer:
    """Calls the policy's modules: adapters, quantised weights and hooks work as in training."""

    def __init__(self, layer: DecoderLayer) -> None:
        self.layer = layer

    def query_key_value(self, x: Tensor) -> Tensor:
        normal, attention = self.layer.input_layernorm(x), self.layer.self_attn
        return torch.cat([attention.q_proj(normal), attention.k_proj(normal), attention.v_proj(normal)], dim=-1)

    def output(self, x: Tensor, mixed: Tensor) -> Tensor:
        summed: Tensor = x + self.layer.self_attn.o_proj(mixed)
        return summed

    def mlp(self, x: Tensor) -> Tensor:
        return x + self.layer.mlp(self.layer.post_attention_layernorm(x))

    def refresh(self) -> None:
        """They are the policy's own."""


class FusedLayer:
    """Copies, written again in place when the weights have moved, so that a captured graph stays right.

    In float32 the norms' weights are multiplied into the products that follow them: W (w · x) = (W · diag w) x.
    """

    def __init__(self, layer: DecoderLayer, dtype: torch.dtype, eps: float) -> None:
        self.layer, self.eps = layer, eps
        self.norms = (layer.input_layernorm, layer.post_attention_layernorm)
        self.folds = dtype in (torch.float32, torch.float64)
        self.weights = [_empty(modules, dtype) for modules in self._sources()]
        self.biases = [_empty_bias(modules, dtype) for modules in self._sources()]
        hidden = self.weights[0].shape[1]
        self.on_cpu = self.weights[0].device.type == "cpu"
        self.floor = torch.tensor((hidden * eps) ** 0.5, dtype=dtype, device=self.weights[0].device)
        self.refresh()

    def query_key_value(self, x: Tensor) -> Tensor:
        return F.linear(self._normal(x, 0), self.weights[0], self.biases[0])

    def output(self, x: Tensor, mixed: Tensor) -> Tensor:
        return _add_product(x, mixed, self.weights[1], self.biases[1])

    def mlp(self, x: Tensor) -> Tensor:
        gate, up = F.linear(self._normal(x, 1), self.weights[2], self.biases[2]).chunk(2, dim=-1)
        return _add_product(x, F.silu(gate) * up, self.weights[3], self.biases[3])

    def refresh(self) -> None:
        for part, (modules, weight, bias) in enumerate(zip(self._sources(), self.weights, self.biases, strict=True)):
            start = 0
            for module in modules:
                end = start + module.out_features
                weight[start:end].copy_(merged_weight(module))
                if bias is not None:
                    own = merged_bias(module)
                    bias[start:end] = 0.0 if own is None else own
                start = end
            if self.folds and part in (0, 2):
                weight *= self.norms[part // 2].weight
                if self.on_cpu:
                    weight *= weight.shape[1] ** 0.5

    def _sources(self) -> tuple[list[nn.Linear], ...]:
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


def head_norms(layer: DecoderLayer) -> tuple[Tensor, Tensor] | None:
    """Weights of the norms on queries and keys, where the family has them."""
    norms = _head_norm_modules(layer)
    return (norms[0].weight, norms[1].weight) if norms else None


def layer_windows(config: PretrainedConfig) -> tuple[int | None, ...]:
    """Each layer's attention window; None: it sees everything."""
    window = getattr(config, "sliding_window", None)
    if config.model_type in ("qwen2", "qwen3"):
        kinds = config.layer_types[: config.num_hidden_layers]
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    return tuple(window if config.model_type == "mistral" else None for _ in range(config.num_hidden_layers))


def _head_norm_modules(layer: DecoderLayer) -> list[nn.RMSNorm]:
    return [getattr(layer.self_attn, name) for name in ("q_norm", "k_norm") if hasattr(layer.self_attn, name)]


def _projections(layer: DecoderLayer) -> list[nn.Linear]:
    attention, mlp = layer.self_attn, layer.mlp
    return [
        *(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
        *(mlp.gate_proj, mlp.up_proj, mlp.down_proj),
    ]


def _base(module: nn.Module) -> nn.Linear:
    found = base_layer(module)
    return found  # type: ignore[return-value]


def _has_adapter(module: object) -> bool:
    """Whether what the module multiplies with is not its `weight` alone."""
    return hasattr(module, "base_layer") or hasattr(module, "token_adapter")


def _can_merge(module: nn.Module) -> bool:
    base = base_layer(module)
    if type(base) is not nn.Linear or "forward" in vars(module):  # X-LoRA puts a forward of its own onto LoRA layers
        return False
    if module is base:
        return True
    variants = getattr(module, "lora_variant", {}) or {}
    biased = any(getattr(part, "bias", None) is not None for part in getattr(module, "lora_B", {}).values())
    return hasattr(module, "lora_A") and hasattr(module, "get_delta_weight") and not variants and not biased


def _add_product(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None and residual.dtype == weight.dtype:
        return torch.addmm(residual, x, weight.t())  # one operation for product and sum
    return residual + F.linear(x.to(weight.dtype), weight, bias)


def _empty(modules: list[nn.Linear], dtype: torch.dtype) -> Tensor:
    first = _base(modules[0]).weight
    outputs = sum(module.out_features for module in modules)
    return torch.empty(outputs, first.shape[1], dtype=dtype, device=first.device)


def _empty_bias(modules: list[nn.Linear], dtype: torch.dtype) -> Tensor | None:
    if all(_base(module).bias is None for module in modules):
        return None
    return torch.empty(_empty(modules, dtype).shape[0], dtype=dtype, device=_base(modules[0]).weight.device)
