"""Decoding steps of small models on a CPU, compiled: `cpu_kernel.c` through ctypes.

The interface of `Decoder` and `KVCache`, for float32 models whose weights fit a CPU's caches, like the embedded one.
Larger models stay with torch, whose large products are the best there are. Without a C compiler, or with
DUNWU_NATIVE=0, `Decoder` does the work: the same numbers in more time.

Shapes: P prompts, L longest prompt, G completions of a prompt, B live slots, S slots, K kv heads, T positions, D head
dimension, V vocabulary.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from dunwu.engines.fast.cpu_kernel_build import load_library
from dunwu.engines.fast.kv_cache import head_dim
from dunwu.engines.fast.model_parts import DecoderLayer, known_model
from dunwu.engines.fast.weights import can_merge_adapters, fused_bytes, head_norms, layer_windows
from dunwu.model.weights import merged_bias, merged_weight

__all__ = ["MAX_LAYER_BYTES", "CpuKernelCache", "CpuKernelDecoder", "unsupported_reason"]

MAX_LAYER_BYTES: Final = 16 << 20
"""Bytes of a model's layers: what fits a CPU's caches."""
_PAD: Final = 64
"""Floats that every output is padded to; as in cpu_kernel.c."""


def unsupported_reason(model: nn.Module, compute: torch.dtype) -> str | None:
    """Why a model of a known family is not decoded by compiled steps; None where it is."""
    inner = known_model(model)
    embedding = inner.model.embed_tokens.weight
    if embedding.device.type != "cpu" or compute != torch.float32 or embedding.dtype != torch.float32:
        return "it is not in float32 on a CPU"
    if not can_merge_adapters(inner) or type(inner.lm_head) is not nn.Linear or not embedding.is_contiguous():
        return "its layers are not plain linear ones"
    if fused_bytes(inner, compute) > MAX_LAYER_BYTES:
        return "its weights do not fit a CPU's caches"
    return None if load_library() is not None else "there is no C compiler that works, or DUNWU_NATIVE is 0"


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("qkv", "qkv_bias", "out", "out_bias", "gate_up", "gate_up_bias")),
        *((name, ctypes.c_void_p) for name in ("down", "down_bias", "query_norm", "key_norm", "keys", "values")),
        ("window", ctypes.c_int64),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        *((name, ctypes.c_void_p) for name in ("embedding", "norm", "head", "head_bias", "cosine", "sine")),
        *((name, ctypes.c_int64) for name in ("depth", "hidden", "hidden_padded", "heads", "kv_heads", "head_dim")),
        *((name, ctypes.c_int64) for name in ("qkv_padded", "inner", "inner_padded", "vocabulary")),
        *((name, ctypes.c_int64) for name in ("vocabulary_padded", "length")),
        ("eps", ctypes.c_float),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuKernelCache:
    """Keys and values in the order in which the compiled step reads them.

    Example: `CpuKernelCache(keys=torch.zeros(4, 8, 2, 16, 24), values=torch.zeros(4, 8, 2, 24, 16))`
    """

    keys: Tensor
    """(layers, S, K, D, T)."""
    values: Tensor
    """(layers, S, K, T, D)."""

    @property
    def slots(self) -> int:
        """Number of slots (S)."""
        return self.keys.shape[1]

    @property
    def length(self) -> int:
        """Positions of a slot (T)."""
        return self.keys.shape[4]

    @property
    def bytes(self) -> int:
        """Size of both."""
        return 2 * self.keys.numel() * self.keys.element_size()

    def clear(self) -> None:
        """Nothing to do: the compiled step reads no position that was not written."""

    def move(self, source: Tensor, target: Tensor, kv_length: int) -> None:
        """Copy slots onto others, up to `kv_length` positions."""
        self.keys[:, target, :, :, :kv_length] = self.keys[:, source, :, :, :kv_length]
        self.values[:, target, :, :kv_length] = self.values[:, source, :, :kv_length]


@dataclass(frozen=True, slots=True)
class _Bound:
    """The C view of a model and a cache, with the objects that its pointers lead to."""

    model: _Model
    cache: CpuKernelCache
    work: Tensor
    """Scratch memory, one line a thread."""
    kept: tuple[object, ...]


class CpuKernelDecoder:
    """A small model's forward over a `CpuKernelCache`.

    Args:
        model: a model for which `unsupported_reason` has none.
    """

    compute = torch.float32
    is_fused = True

    def __init__(self, model: nn.Module) -> None:
        library = load_library()
        assert library is not None, "unsupported_reason comes first"
        self.library = library
        self.inner = known_model(model)
        config = self.inner.config
        self.head_dim = head_dim(config)
        self.outputs: int = (config.num_attention_heads + 2 * config.num_key_value_heads) * self.head_dim
        self.parts = [_layer_tensors(layer) for layer in self.inner.model.layers[: config.num_hidden_layers]]
        self.head = torch.zeros(config.hidden_size, _padded(config.vocab_size))
        self.head_bias = None if self.inner.lm_head.bias is None else torch.zeros(_padded(config.vocab_size))
        self.copied_bytes = sum(t.numel() * 4 for part in self.parts for t in part.values()) + self.head.numel() * 4
        self._angles: tuple[Tensor, Tensor] | None = None
        self._bound: _Bound | None = None
        self.refresh()

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def refresh(self) -> bool:
        """Take the policy's current weights, transposed and padded; False: no captured graph reads them."""
        self._bound = None  # the policy's own tensors may have been replaced
        for layer, part in zip(self.inner.model.layers, self.parts, strict=False):
            _fill(layer, part)
        vocabulary = self.inner.config.vocab_size
        self.head[:, :vocabulary] = self.inner.lm_head.weight.detach().t()
        if self.head_bias is not None:
            self.head_bias[:vocabulary] = self.inner.lm_head.bias.detach()
        return False

    def extend_rope(self, length: int) -> None:
        """Make tables of angles for positions below `length`."""
        if self._angles is not None and len(self._angles[0]) >= length:
            return
        position = torch.arange(length).unsqueeze(0)
        cos, sin = self.inner.model.rotary_emb(torch.zeros(1), position)
        half = self.head_dim // 2
        self._angles = (cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous())
        self._bound = None

    def make_cache(self, slots: int, length: int) -> CpuKernelCache:
        """An empty cache; its length is a multiple of a vector's."""
        config, length = self.inner.config, -(-length // 16) * 16
        shape = (config.num_hidden_layers, slots, config.num_key_value_heads)
        return CpuKernelCache(
            keys=torch.zeros(*shape, self.head_dim, length), values=torch.zeros(*shape, length, self.head_dim)
        )

    def prefill(self, ids_PL: Tensor, length_P: Tensor, slots_PG: Tensor, cache: CpuKernelCache) -> Tensor:
        """Run prompts, padded on the right, once each; copy their keys into all slots of their completions.

        Returns:
            Logits of the first completion token, (P, V).
        """
        last_P, first_P = length_P - 1, slots_PG[:, 0]
        for position in range(int(last_P.max())):
            rows = (last_P > position).nonzero().squeeze(1)
            self._run(ids_PL[rows, position], torch.full_like(rows, position), first_P[rows], cache, None)
        logits_PV = torch.empty(len(ids_PL), self.head.shape[1])
        last_ids_P = ids_PL.gather(1, last_P.unsqueeze(1)).squeeze(1)
        self._run(last_ids_P, last_P, first_P, cache, logits_PV)
        if slots_PG.shape[1] > 1:
            source = first_P.unsqueeze(1).expand(-1, slots_PG.shape[1] - 1).flatten()
            cache.move(source, slots_PG[:, 1:].flatten(), int(length_P.max()))
        return logits_PV[:, : self.inner.config.vocab_size]

    def step(self, ids_B: Tensor, position_B: Tensor, kv_length: int, cache: CpuKernelCache) -> Tensor:
        """One token for each of the slots 0 … B − 1.

        Returns:
            Logits of the next token, (B, V).
        """
        logits_BV = torch.empty(len(ids_B), self.head.shape[1])
        self._run(ids_B, position_B, torch.arange(len(ids_B)), cache, logits_BV)
        return logits_BV[:, : self.inner.config.vocab_size]

    def _run(
        self, ids: Tensor, positions: Tensor, slots: Tensor, cache: CpuKernelCache, logits: Tensor | None
    ) -> None:
        threads = torch.get_num_threads()
        if self._bound is None or self._bound.cache is not cache or len(self._bound.work) < threads:
            self._bound = self._bind(cache, threads)
        ids, positions, slots = ids.contiguous(), positions.contiguous(), slots.contiguous()
        self.library.dunwu_step(
            ctypes.byref(self._bound.model),
            len(ids),
            ids.data_ptr(),
            positions.data_ptr(),
            slots.data_ptr(),
            None if logits is None else logits.data_ptr(),
            self._bound.work.data_ptr(),
            threads,
        )

    def _bind(self, cache: CpuKernelCache, threads: int) -> _Bound:
        """The C view of the model and a cache."""
        assert self._angles is not None, "extend_rope comes first"
        config, norm = self.inner.config, self.inner.model.norm.weight.detach()
        layers = (_Layer * len(self.parts))()
        for i, (layer, part, window) in enumerate(zip(layers, self.parts, layer_windows(config), strict=True)):
            for name, tensor in part.items():
                setattr(layer, name, tensor.data_ptr())
            norms = head_norms(self.inner.model.layers[i])
            if norms is not None:
                layer.query_norm, layer.key_norm = (weight.data_ptr() for weight in norms)
            layer.keys, layer.values, layer.window = cache.keys[i].data_ptr(), cache.values[i].data_ptr(), window or 0
        pointers = {
            "embedding": self.inner.model.embed_tokens.weight,
            "norm": norm,
            "head": self.head,
            "head_bias": self.head_bias,
            "cosine": self._angles[0],
            "sine": self._angles[1],
        }
        model = _Model(
            layers=layers,
            **{name: None if tensor is None else tensor.data_ptr() for name, tensor in pointers.items()},
            **self._sizes(),
            length=cache.length,
            eps=config.rms_norm_eps,
        )
        work = torch.empty(threads, self.library.dunwu_work(ctypes.byref(model)))
        return _Bound(model, cache, work, (layers, norm))

    def _sizes(self) -> dict[str, int]:
        config = self.inner.config
        return {
            "depth": len(self.parts),
            "hidden": config.hidden_size,
            "hidden_padded": _padded(config.hidden_size),
            "heads": config.num_attention_heads,
            "kv_heads": config.num_key_value_heads,
            "head_dim": self.head_dim,
            "qkv_padded": _padded(self.outputs),
            "inner": config.intermediate_size,
            "inner_padded": _padded(config.intermediate_size),
            "vocabulary": config.vocab_size,
            "vocabulary_padded": self.head.shape[1],
        }


def _layer_tensors(layer: DecoderLayer) -> dict[str, Tensor]:
    """Room for a layer's transposed and padded weights, and for biases where it has them."""
    attention, mlp = layer.self_attn, layer.mlp
    hidden, inner = attention.q_proj.in_features, mlp.gate_proj.out_features
    mixed = attention.o_proj.in_features
    qkv = attention.q_proj.out_features + attention.k_proj.out_features + attention.v_proj.out_features
    sizes = {
        "qkv": (hidden, _padded(qkv), attention.q_proj),
        "out": (mixed, _padded(hidden), attention.o_proj),
        "gate_up": (hidden, 2 * _padded(inner), mlp.gate_proj),
        "down": (inner, _padded(hidden), mlp.down_proj),
    }
    scratch = {}
    for name, (rows, columns, module) in sizes.items():
        scratch[name] = torch.zeros(rows, columns)
        if merged_bias(module) is not None:
            scratch[f"{name}_bias"] = torch.zeros(columns)
    return scratch


def _fill(layer: DecoderLayer, part: dict[str, Tensor]) -> None:
    attention, mlp = layer.self_attn, layer.mlp
    inner = mlp.gate_proj.out_features
    first, second = (norm.weight.detach() for norm in (layer.input_layernorm, layer.post_attention_layernorm))
    scale = len(first) ** 0.5
    queries, keys = attention.q_proj.out_features, attention.k_proj.out_features
    places = {
        "qkv": ((attention.q_proj, 0), (attention.k_proj, queries), (attention.v_proj, queries + keys)),
        "out": ((attention.o_proj, 0),),
        "gate_up": ((mlp.gate_proj, 0), (mlp.up_proj, _padded(inner))),
        "down": ((mlp.down_proj, 0),),
    }
    for name, modules in places.items():
        for module, start in modules:
            columns = slice(start, start + module.out_features)
            part[name][:, columns] = merged_weight(module).t()
            bias = merged_bias(module)
            if bias is not None:
                part[f"{name}_bias"][columns] = bias
    part["qkv"] *= (first * scale).unsqueeze(1)
    part["gate_up"] *= (second * scale).unsqueeze(1)


def _padded(size: int) -> int:
    return -(-size // _PAD) * _PAD
