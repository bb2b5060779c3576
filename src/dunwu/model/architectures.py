"""Which architectures Dunwu reads by itself, and why another one is not.

What it is: the answer to one question, asked by the fast engine (which has a forward of its own) and by the packed
forward (which puts its own attention into transformers' forward): is this the plain decoder they know?
What it is not: the forward. A model that is not known here still runs: padded, and with the engine `generate`.
"""

from __future__ import annotations

from typing import Any, Final

from torch import nn

__all__ = ["FAMILIES", "unwrap_model", "why_not_known"]

FAMILIES: Final = ("llama", "mistral", "qwen2", "qwen3")
"""`model_type` of what is known: RMSNorm, rotary positions, grouped-query attention, gated MLP, one linear head."""

_ROPE: Final = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary positions whose angles depend on the position alone, not on how long the longest row is."""


def unwrap_model(model: Any) -> Any:
    """The transformers model inside wrappers of DDP, FSDP, DeepSpeed and PEFT."""
    while isinstance(getattr(model, "module", None), nn.Module):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def why_not_known(model: Any) -> str | None:
    """Why a model is not one of `FAMILIES` as they are known here; None where it is."""
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
        return f"its rotary positions are of the type {rope!r}, which change with the length of the row"
    if _adapts_by_prompt(model):
        return "its adapter puts virtual tokens before the prompt"
    return None


def _adapts_by_prompt(model: Any) -> bool:
    while isinstance(getattr(model, "module", None), nn.Module):
        model = model.module
    configs = getattr(model, "peft_config", None) or {}
    return any(getattr(config, "is_prompt_learning", False) for config in configs.values())
