"""Dropout off, whatever form it has, and the check that nothing else is random in training mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dunwu.errors import ModelError
from dunwu.model.architectures import unwrap_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["check_deterministic", "disable_dropout"]

_PROBE_TOKENS = 8
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}
_TOLERANCE_OF_HALF = 1e-2
"""Of the largest output. A dropped value differs by its own size; sums in another order, on a GPU, by rounding."""


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout probability to 0, so that the policy that is trained is the one that sampled.

    Dropout is a module (`nn.Dropout`, adapters' and libraries' own), a float that `F.dropout` gets (OPT, XGLM,
    Seed-OSS), or an entry of the config that is read in the forward pass (Falcon, GPT-J).
    """
    for module in model.modules():
        if "drop" in type(module).__name__.lower() and isinstance(getattr(module, "p", None), float):
            module.p = 0.0  # type: ignore[assignment]
        _zero_drops(vars(module))
        _zero_config(getattr(module, "config", None))


@torch.no_grad()
def check_deterministic(model: nn.Module) -> None:
    """Run one short row twice in training mode: the outputs must be the same. Random states stay as they were.

    Raises:
        ModelError: where they differ, with the first module that does.
    """
    inner = unwrap_model(model)
    device = next(inner.parameters()).device
    was_training = inner.training
    try:
        inner.train()
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            first, second = _outputs(inner, device), _outputs(inner, device)
    finally:
        inner.train(was_training)
    tolerance = max(_TOLERANCE.get(output.dtype, _TOLERANCE_OF_HALF) for output in first.values())
    for name, output in first.items():
        if name not in second or _differ(output, second[name], tolerance):
            kind = type(inner.get_submodule(name)).__name__
            raise ModelError(
                f"two passes over a row differ in training mode, first after {name or 'the model'!r} ({kind}), "
                "so the policy that is trained would not be the one that sampled. Set this module's dropout or noise "
                "to 0 in the model's config, or pass disable_dropout=False to train with it"
            )


def _differ(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return one.shape != other.shape or float((one - other).abs().max()) > tolerance * float(one.abs().max())


def _zero_drops(values: dict[str, object]) -> None:
    for name, value in values.items():
        if "drop" not in name:
            continue
        if isinstance(value, float):
            values[name] = 0.0
        elif isinstance(value, dict):  # adapters have a value an adapter
            value.update({key: 0.0 for key, each in value.items() if isinstance(each, float)})


def _zero_config(config: object) -> None:
    from transformers import PreTrainedConfig

    if not isinstance(config, PreTrainedConfig):
        return
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _zero_config(value)
        elif "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)


def _outputs(inner: PreTrainedModel, device: torch.device) -> dict[str, Tensor]:
    """Outputs of all modules for one row, in the order in which they finish."""
    outputs: dict[str, Tensor] = {}
    names = {module: name for name, module in inner.named_modules()}

    def record(module: nn.Module, args: object, output: object) -> None:
        tensor = output[0] if isinstance(output, tuple) and output else getattr(output, "logits", output)
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            outputs[names[module]] = tensor.detach().clone()

    hooks = [module.register_forward_hook(record) for module in names]
    ids = torch.arange(_PROBE_TOKENS, device=device).unsqueeze(0) % int(inner.config.vocab_size)
    try:
        inner(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs
