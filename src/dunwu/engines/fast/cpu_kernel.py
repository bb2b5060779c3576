"""Decoding steps of small models on a CPU, compiled: `cpu_kernel.c` through ctypes.

What it is: the same interface as `Decoder` and `Cache` for float32 models whose weights fit a CPU's caches, like the
embedded one. The C file is compiled once a machine with its C compiler, in two seconds, and kept in the user's cache
folder. Without a compiler, or with DUNWU_NATIVE=0, `Decoder` does the work: same numbers, more time.
What it is not: needed. Nor for large models: their products are large, and torch's are the best there are.

Shapes: P prompts, L longest prompt, N completions of a prompt, B rows, S slots, K key heads, T positions, D a head's
width, V vocabulary.
"""

from __future__ import annotations

import ctypes
import functools
import getpass
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from dunwu._utils.logging import get_logger
from dunwu.engines.fast.kv_cache import head_width
from dunwu.engines.fast.weights import (
    effective_bias,
    effective_weight,
    fused_bytes,
    head_norms,
    mergeable,
    windows_of,
)
from dunwu.model.architectures import unwrap_model

__all__ = ["AT_MOST", "NativeCache", "NativeDecoder", "why_not_native"]

AT_MOST: Final = 16 << 20
"""Bytes of a model's layers: what a CPU's caches hold."""
_PAD: Final = 64
"""Floats that every output is padded to; as in cpu_kernel.c."""
_SOURCE: Final = Path(__file__).with_name("cpu_kernel.c")
_FLAGS: Final = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")


def why_not_native(model: Any, compute: torch.dtype) -> str | None:
    """Why a model is not decoded by compiled steps; None where it is."""
    inner = unwrap_model(model)
    embedding = inner.model.embed_tokens.weight
    if embedding.device.type != "cpu" or compute != torch.float32 or embedding.dtype != torch.float32:
        return "it is not in float32 on a CPU"
    if not mergeable(inner) or type(inner.lm_head) is not nn.Linear or not embedding.is_contiguous():
        return "its layers are not plain linear ones"
    if fused_bytes(inner, compute) > AT_MOST:
        return "its weights do not fit a CPU's caches"
    return None if _library() is not None else "there is no C compiler, or DUNWU_NATIVE is 0"


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
        *((name, ctypes.c_int64) for name in ("depth", "hidden", "hidden_padded", "heads", "key_heads", "width")),
        *((name, ctypes.c_int64) for name in ("qkv_padded", "inner", "inner_padded", "vocabulary")),
        *((name, ctypes.c_int64) for name in ("vocabulary_padded", "length")),
        ("eps", ctypes.c_float),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeCache:
    """Keys and values in the order in which the compiled step reads them.

    Example: `NativeCache(keys=torch.zeros(4, 128, 2, 16, 160), values=torch.zeros(4, 128, 2, 160, 16))`
    """

    keys: Tensor
    """(layers, S, K, D, T)."""
    values: Tensor
    """(layers, S, K, T, D)."""

    @property
    def slots(self) -> int:
        """S."""
        return self.keys.shape[1]

    @property
    def length(self) -> int:
        """T."""
        return self.keys.shape[4]

    @property
    def bytes(self) -> int:
        """Size of both."""
        return 2 * self.keys.numel() * self.keys.element_size()

    def clear(self) -> None:
        """Nothing to do: the compiled step reads no position that was not written."""

    def move(self, source: Tensor, target: Tensor, span: int) -> None:
        """Copy slots onto others, up to `span` positions."""
        self.keys[:, target, :, :, :span] = self.keys[:, source, :, :, :span]
        self.values[:, target, :, :span] = self.values[:, source, :, :span]


class NativeDecoder:
    """A small model's forward over a `NativeCache`.

    Args:
        model: a model for which `why_not_native` has no reason.
    """

    compute = torch.float32

    def __init__(self, model: Any) -> None:
        library = _library()
        assert library is not None, "why_not_native comes first"
        self.library = library
        self.inner = unwrap_model(model)
        config = self.inner.config
        self.width = head_width(config)
        self.outputs = (config.num_attention_heads + 2 * config.num_key_value_heads) * self.width
        self.parts = [_layer_tensors(layer) for layer in self.inner.model.layers[: config.num_hidden_layers]]
        self.head = torch.zeros(config.hidden_size, _padded(config.vocab_size))
        self.head_bias = None if self.inner.lm_head.bias is None else torch.zeros(_padded(config.vocab_size))
        self.copied_bytes = sum(t.numel() * 4 for part in self.parts for t in part.values()) + self.head.numel() * 4
        self._angles: tuple[Tensor, Tensor] | None = None
        self._bound: tuple[Any, NativeCache, Any, Tensor, Tensor] | None = None
        self.refresh()

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def refresh(self) -> bool:
        """Take the trainer's current weights, transposed and padded; False: no captured graph reads them."""
        self._bound = None  # the trainer's own tensors may lie elsewhere by now
        for layer, part in zip(self.inner.model.layers, self.parts, strict=False):
            _fill(layer, part)
        vocabulary = self.inner.config.vocab_size
        self.head[:, :vocabulary] = self.inner.lm_head.weight.detach().t()
        if self.head_bias is not None:
            self.head_bias[:vocabulary] = self.inner.lm_head.bias.detach()
        return False

    def grow(self, length: int) -> None:
        """Make tables for positions below `length`."""
        if self._angles is not None and len(self._angles[0]) >= length:
            return
        position = torch.arange(length).unsqueeze(0)
        cos, sin = self.inner.model.rotary_emb(torch.zeros(1), position)
        half = self.width // 2
        self._angles = (cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous())
        self._bound = None

    def make_cache(self, slots: int, length: int) -> NativeCache:
        """An empty cache; its length is a multiple of a vector's."""
        config, length = self.inner.config, -(-length // 16) * 16
        shape = (config.num_hidden_layers, slots, config.num_key_value_heads)
        return NativeCache(
            keys=torch.zeros(*shape, self.width, length), values=torch.zeros(*shape, length, self.width)
        )

    def prefill(self, ids_PL: Tensor, length_P: Tensor, slots_PN: Tensor, cache: NativeCache) -> Tensor:
        """Run prompts, padded on the right, once each; copy their keys into all slots of their completions.

        Returns:
            Logits of the first completion token, (P, V).
        """
        last_P, first_P = length_P - 1, slots_PN[:, 0]
        for position in range(int(last_P.max())):
            rows = (last_P > position).nonzero().squeeze(1)
            self._run(ids_PL[rows, position], torch.full_like(rows, position), first_P[rows], cache, None)
        logits_PV = torch.empty(len(ids_PL), self.head.shape[1])
        last_ids_P = ids_PL.gather(1, last_P.unsqueeze(1)).squeeze(1)
        self._run(last_ids_P, last_P, first_P, cache, logits_PV)
        if slots_PN.shape[1] > 1:
            source = first_P.unsqueeze(1).expand(-1, slots_PN.shape[1] - 1).flatten()
            cache.move(source, slots_PN[:, 1:].flatten(), int(length_P.max()))
        return logits_PV[:, : self.inner.config.vocab_size]

    def step(self, ids_B: Tensor, position_B: Tensor, span: int, cache: NativeCache) -> Tensor:
        """One token for each of the rows in slots 0 … B − 1.

        Returns:
            Logits of the next token, (B, V).
        """
        logits_BV = torch.empty(len(ids_B), self.head.shape[1])
        self._run(ids_B, position_B, torch.arange(len(ids_B)), cache, logits_BV)
        return logits_BV[:, : self.inner.config.vocab_size]

    def _run(self, ids: Tensor, positions: Tensor, slots: Tensor, cache: NativeCache, logits: Tensor | None) -> None:
        threads = torch.get_num_threads()
        if self._bound is None or self._bound[1] is not cache or len(self._bound[3]) < threads:
            self._bound = self._bind(cache, threads)
        model, _, _, work, _ = self._bound
        ids, positions, slots = ids.contiguous(), positions.contiguous(), slots.contiguous()
        self.library.dunwu_step(
            ctypes.byref(model),
            len(ids),
            ids.data_ptr(),
            positions.data_ptr(),
            slots.data_ptr(),
            None if logits is None else logits.data_ptr(),
            work.data_ptr(),
            threads,
        )

    def _bind(self, cache: NativeCache, threads: int) -> tuple[Any, NativeCache, Any, Tensor, Tensor]:
        """The C view of the model and a cache; the tensors are held by this object and the tuple."""
        assert self._angles is not None, "grow comes first"
        config, norm = self.inner.config, self.inner.model.norm.weight.detach()
        layers = (_Layer * len(self.parts))()
        for i, (layer, part, window) in enumerate(zip(layers, self.parts, windows_of(config), strict=True)):
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
        return model, cache, layers, work, norm

    def _sizes(self) -> dict[str, int]:
        config = self.inner.config
        return {
            "depth": len(self.parts),
            "hidden": config.hidden_size,
            "hidden_padded": _padded(config.hidden_size),
            "heads": config.num_attention_heads,
            "key_heads": config.num_key_value_heads,
            "width": self.width,
            "qkv_padded": _padded(self.outputs),
            "inner": config.intermediate_size,
            "inner_padded": _padded(config.intermediate_size),
            "vocabulary": config.vocab_size,
            "vocabulary_padded": self.head.shape[1],
        }


def _layer_tensors(layer: Any) -> dict[str, Tensor]:
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
    room = {}
    for name, (rows, columns, module) in sizes.items():
        room[name] = torch.zeros(rows, columns)
        if effective_bias(module) is not None:
            room[f"{name}_bias"] = torch.zeros(columns)
    return room


def _fill(layer: Any, part: dict[str, Tensor]) -> None:
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
            part[name][:, columns] = effective_weight(module).t()
            bias = effective_bias(module)
            if bias is not None:
                part[f"{name}_bias"][columns] = bias
    part["qkv"] *= (first * scale).unsqueeze(1)
    part["gate_up"] *= (second * scale).unsqueeze(1)


def _padded(size: int) -> int:
    return -(-size // _PAD) * _PAD


@functools.cache
def _library() -> Any:
    """The compiled steps; None without a compiler, or where DUNWU_NATIVE=0."""
    compilers = [found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))]
    if os.environ.get("DUNWU_NATIVE") == "0" or not compilers:
        return None
    library, reasons = None, []
    for compiler in compilers:
        try:
            library = ctypes.CDLL(str(_compiled(compiler)))
            break
        except (OSError, subprocess.SubprocessError) as error:
            reasons.append(str(error).splitlines()[0])
    if library is None:
        get_logger().info(f"compiled decoding steps are off ({'; '.join(reasons)}): rollouts take longer")
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.dunwu_step.argtypes = [pointer, number, pointer, pointer, pointer, pointer, pointer, number]
    library.dunwu_step.restype = None
    library.dunwu_work.argtypes = [pointer]
    library.dunwu_work.restype = number
    return library


def _compiled(compiler: str) -> Path:
    """The shared library for this source, compiler and processor, made if it is not there."""
    name = hashlib.sha256("\n".join([_SOURCE.read_text(), compiler, *_FLAGS, _processor()]).encode()).hexdigest()[:16]
    for folder in (_cache_folder(), Path(tempfile.gettempdir()) / f"dunwu-{getpass.getuser()}"):
        target = folder / f"native-{name}.so"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
                continue  # in a folder for everyone, another user's file is not loaded
            if target.exists():
                return target
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                made = Path(scratch) / target.name
                _compile(compiler, made)
                os.replace(made, target)  # whole or not at all: other processes may be looking
            return target
        except OSError:
            continue
    raise OSError("no folder to keep it in")


def _compile(compiler: str, target: Path) -> None:
    command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(target), "-lm"]
    for threads in (["-fopenmp"], []):  # Apple's compiler has no OpenMP: one thread then
        done = subprocess.run([*command, *threads], capture_output=True, text=True, check=False, timeout=120)
        if done.returncode == 0:
            return
    raise subprocess.SubprocessError(f"{compiler} failed: {done.stderr.strip()[:200]}")


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dunwu"


def _processor() -> str:
    """What `-march=native` depends on: a home folder may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    telling = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(telling)}))
