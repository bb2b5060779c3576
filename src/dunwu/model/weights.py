"""The weights of a policy by the names a plain transformers model gives them, with adapters added in.

Nothing is changed in place: an engine with a copy of the weights reads them here after every update.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from dunwu.errors import EngineError
from dunwu.model.architectures import unwrap_model

__all__ = ["base_layer", "merged_bias", "merged_weight", "named_weights", "virtual_token_adapter"]


def named_weights(
    policy: nn.Module, *, merged: bool = True, dtype: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Each parameter of the transformers model inside `policy`, by its name in the model's own `state_dict()`.

    A tied weight comes under each of its names. Where an adapter is on one of two tied weights they differ, and the
    receiver must not tie them. Layers come one at a time: no second model is ever in memory.

    Args:
        policy: the model, alone or inside of DDP and PEFT.
        merged: add what the active adapters add (every kind that peft can merge: LoRA, DoRA, VeRA, OFT, …) and take
            the trained copies of `modules_to_save`; False: the weights under all adapters.
        dtype: of the tensors; None: as the policy has them.

    Returns:
        (name, tensor) pairs without gradient. A tensor may share its memory with the policy: copy what must not
        change.

    Raises:
        EngineError: for weights that are sharded over processes (FSDP, DeepSpeed ZeRO-3) or quantised, and for an
            adapter that is not part of any weight (prompt tuning, adaption prompts) or that peft cannot merge.
    """
    _check_whole(policy)
    outside = [*_kinds(policy, "is_prompt_learning"), *_kinds(policy, "is_adaption_prompt")]
    if merged and outside:
        raise EngineError(
            f"an adapter of the kind {outside[0]} is not part of any weight, so an engine with weights of its own "
            "would sample from another model; train with LoRA, or all weights"
        )
    return _parameters(unwrap_model(policy), "", merged, dtype)


def virtual_token_adapter(policy: nn.Module) -> str | None:
    """The kind of a prompt-learning adapter on the model, such as `PREFIX_TUNING`; None where there is none."""
    return next(iter(_kinds(policy, "is_prompt_learning")), None)


def base_layer(module: nn.Module) -> nn.Module:
    """The module under its adapters; the module itself where it has none."""
    tuner = _as_tuner(module)
    return module if tuner is None else tuner.get_base_layer()


def merged_weight(module: nn.Module) -> Tensor:
    """The weight that a linear module multiplies with: its own, and what active LoRA adapters add."""
    weight = cast(nn.Linear, base_layer(module)).weight.detach()
    tuner = _as_tuner(module)
    if tuner is None or tuner.disable_adapters or tuner.merged:
        return weight
    for adapter in tuner.active_adapters:
        if adapter in tuner.lora_A:
            weight = weight + tuner.get_delta_weight(adapter).detach().to(weight.dtype)
    return weight


def merged_bias(module: nn.Module) -> Tensor | None:
    """A linear module's bias, whatever LoRA adapters are on it (those with a bias of their own are not merged)."""
    bias: Tensor | None = cast(nn.Linear, base_layer(module)).bias
    return None if bias is None else bias.detach()


class _Tuner(Protocol):
    """A layer with adapters: peft's `BaseTunerLayer`."""

    disable_adapters: bool
    merged: bool
    active_adapters: list[str]
    lora_A: Collection[str]

    def get_base_layer(self) -> nn.Module: ...

    def get_delta_weight(self, adapter: str) -> Tensor: ...

    def merge(self) -> None: ...

    def unmerge(self) -> None: ...


class _ModulesToSave(Protocol):
    """A module with trained copies beside it: peft's `ModulesToSaveWrapper`."""

    disable_adapters: bool
    active_adapters: list[str]
    original_module: nn.Module
    modules_to_save: nn.ModuleDict


def _as_tuner(module: nn.Module) -> _Tuner | None:
    return cast(_Tuner, module) if hasattr(module, "get_base_layer") else None


def _kinds(policy: nn.Module, trait: str) -> list[str]:
    """The kinds of the adapters on the model whose configuration has this trait."""
    while isinstance(inner := getattr(policy, "module", None), nn.Module):
        policy = inner
    configs = getattr(policy, "peft_config", None) or {}
    kinds = [config.peft_type for config in configs.values() if getattr(config, trait, False)]
    return [str(getattr(kind, "value", kind)) for kind in kinds]


def _parameters(
    module: nn.Module, prefix: str, merged: bool, dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    module = _without_adapters(module, prefix, merged)
    for name, parameter in module.named_parameters(recurse=False):
        tensor = parameter.detach()
        yield prefix + name, tensor if dtype is None else tensor.to(dtype)
    for name, child in module.named_children():
        yield from _parameters(child, f"{prefix}{name}.", merged, dtype)


def _without_adapters(module: nn.Module, prefix: str, merged: bool) -> nn.Module:
    """What stands at this place in a plain model: `module` itself where it is no wrapper of peft's."""
    if isinstance(getattr(module, "modules_to_save", None), nn.ModuleDict):
        wrapper = cast(_ModulesToSave, module)
        active = wrapper.active_adapters[:1] if merged and not wrapper.disable_adapters else []
        trained = [wrapper.modules_to_save[name] for name in active if name in wrapper.modules_to_save]
        return trained[0] if trained else wrapper.original_module
    layer: nn.Module = getattr(module, "token_adapter", module)
    return module if _as_tuner(layer) is None else _merged_layer(layer, prefix, merged)


@torch.no_grad()
def _merged_layer(layer: nn.Module, prefix: str, merged: bool) -> nn.Module:
    """The module under a layer of peft's, with its adapters added to a copy."""
    tuner = cast(_Tuner, layer)
    wanted = merged and not tuner.disable_adapters
    if wanted == bool(tuner.merged):
        return base_layer(layer)
    twin = copy.deepcopy(layer)
    part = twin
    try:
        while _as_tuner(part) is not None and hasattr(part, "base_layer"):
            _merge(cast(_Tuner, part), wanted)
            part = cast(nn.Module, part.base_layer)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise EngineError(
            f"the adapter on {prefix.rstrip('.')} ({type(layer).__name__}) cannot be merged into a plain weight: "
            f"{error}; use the engine 'transformers', which runs the policy's own modules"
        ) from error
    return base_layer(twin)


def _merge(tuner: _Tuner, wanted: bool) -> None:
    if wanted:
        tuner.merge()
    else:
        tuner.unmerge()


def _check_whole(policy: nn.Module) -> None:
    inner = unwrap_model(policy)
    if getattr(inner, "is_quantized", False):
        raise EngineError(
            "the weights of a quantised model cannot be exported as plain tensors; use an engine that runs the "
            "policy's own modules: 'fast' or 'transformers'"
        )
    sharded = any(type(module).__name__ == "FullyShardedDataParallel" for module in policy.modules()) or any(
        hasattr(parameter, "ds_id") or hasattr(parameter, "full_tensor") for parameter in inner.parameters()
    )
    if sharded:
        raise EngineError(
            "the policy's weights are sharded over processes (FSDP or DeepSpeed ZeRO-3), so no process has whole "
            "ones to export; train with DDP, or on one process"
        )
