"""Which architectures have a native forward here, and why another one does not.

Asked by the fast engine, which has a forward of its own, and by the padding-free forward, which puts its own
attention into transformers' modules. A model that is not supported natively still trains: padded, and sampled with
`engine="transformers"`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["FAMILIES", "unsupported_reason", "unwrap_model", "unwrap_parallel"]

FAMILIES: Final = ("llama", "mistral", "qwen2", "qwen3")
"""`model_type`s supported: RMSNorm, rotary positions, grouped-query attention, gated MLP, one linear head."""

_ROPE: Final = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary positions whose angles depend on the position alone, not on how long the longest row is."""


def unwrap_parallel(model: nn.Module) -> nn.Module:
    """The model inside wrappers of DDP, FSDP, DeepSpeed and torch.compile; adapters stay on it."""
    while True:
        inner = getattr(model, "_orig_mod", getattr(model, "module", None))
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def unwrap_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside wrappers of DDP, FSDP, DeepSpeed, torch.compile and PEFT."""
    model = unwrap_parallel(model)
    return cast("PreTrainedModel", model.get_base_model() if hasattr(model, "get_base_model") else model)  # type: ignore[operator]


def unsupported_reason(model: nn.Module) -> str | None:
    """Why a model is not one of `FAMILIES` as they are supported here; None where it is."""
    inner = unwrap_model(model)
    config = inner.config
    kind = getattr(config, "model_type", type(inner).__name__)
    if kind not in FAMILIES:
        return f"its architecture {kind!r} is none of {', '.join(FAMILIES)}"
    if not hasattr(inner, "lm_head") or not hasattr(getattr(inner, "model", None), "layers"):
        return f"{type(inner).__name__} is not a causal language model with one linear head"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act!r}, not 'silu'"
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in _ROPE:
        return f"its rotary positions are of the type {rope!r}, which change with the length of the longest row"
    if _has_prompt_adapter(model):
        return "its adapter puts virtual tokens before the prompt"
    return None


def _has_prompt_adapter(model: nn.Module) -> bool:
    configs = getattr(unwrap_parallel(model), "peft_config", None) or {}
    return any(getattr(config, "is_prompt_learning", False) for config in configs.values())
