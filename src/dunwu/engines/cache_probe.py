"""Whether a model can be decoded with a cache of keys and values: tried on eight tokens before a run begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import torch
from torch import Tensor, nn

from dunwu.errors import EngineError
from dunwu.model.architectures import unwrap_model

if TYPE_CHECKING:
    from transformers import DynamicCache

__all__ = ["check_cache", "forward_cached"]

_LIMIT_EXACT: Final = 0.02
_LIMIT_ROUNDED: Final = 0.25
"""Most that cached logits may differ from plain ones (root mean square over the vocabulary), as a share of their own
spread: in float32, and in anything coarser. A cache that is not read gives a share near 1."""


def forward_cached(model: nn.Module, ids_BT: Tensor, attention_BT: Tensor, cache: DynamicCache) -> Tensor:
    """Logits of the next token, (B, V); `ids_BT` are the last tokens of the sequences of `attention_BT`."""
    positions_BT = (attention_BT.cumsum(dim=1) - 1).clamp(min=0)
    logits: Tensor = model(
        input_ids=ids_BT,
        attention_mask=attention_BT,
        position_ids=positions_BT[:, -ids_BT.shape[1] :],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits
    return logits[:, -1]


@torch.no_grad()
def check_cache(model: nn.Module, device: torch.device) -> None:
    """Decode two short sequences with a cache and compare with plain forward passes of the same ones.

    Costs four forward passes of at most five tokens a sequence and leaves random states as they are; the caller has
    switched dropout off. A model whose weights are not here (meta device, DeepSpeed ZeRO-3) is not tried.

    Raises:
        EngineError: where the model cannot be decoded so, with the reason.
    """
    if any(parameter.is_meta or parameter.numel() == 0 for parameter in model.parameters()):
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        reason = _difference(model, device)
    if reason is not None:
        raise EngineError(
            f"the engine 'transformers' cannot decode a {type(unwrap_model(model)).__name__}: it needs a cache of "
            f"keys and values that sequences can join and leave ({reason}); train a model with plain attention, or "
            "name an engine that runs this one: engine=package.module:object"
        )


def _difference(model: nn.Module, device: torch.device) -> str | None:
    """What went wrong, or by how much the two ways differ; None where they agree."""
    vocabulary = cast(nn.Embedding, unwrap_model(model).get_input_embeddings()).weight.shape[0]
    ids = [(11 + 7 * i) % vocabulary for i in range(8)]
    first, second = [*ids[:4], ids[6]], [*ids[4:6], ids[7]]
    try:
        plain = torch.stack([_plain_logits(model, ids, device) for ids in (first, second)])
        cached = _cached_logits(model, first, second, device)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    gap, spread = (cached - plain).square().mean(dim=-1).sqrt(), plain.std(dim=-1)
    limit = _LIMIT_EXACT if _is_exact(model, device) else _LIMIT_ROUNDED
    if not bool((gap > limit * spread + 1e-4).any()):
        return None
    return f"with the cache, logits differ from those without it by {float((gap / spread).max()):.0%} of their spread"


def _plain_logits(model: nn.Module, ids: list[int], device: torch.device) -> Tensor:
    """Logits after the last token but one and after the last, (2, V)."""
    logits: Tensor = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits
    return logits[0, -2:].float()


def _cached_logits(model: nn.Module, first: list[int], second: list[int], device: torch.device) -> Tensor:
    """The same for two sequences as the engine gets them: padded, repeated, and one of the four copies dropped."""
    from transformers import DynamicCache

    padding = len(first) - len(second)
    ids_PL = torch.tensor([first[:-1], [0] * padding + second[:-1]], device=device)
    attention_PL = torch.ones_like(ids_PL)
    attention_PL[1, :padding] = 0
    cache = DynamicCache(config=unwrap_model(model).config)
    before_PV = forward_cached(model, ids_PL, attention_PL, cache)
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([1, 2, 3], device=device))  # three: a state that stayed at two is seen
    attention_BT = torch.cat([attention_PL[[0, 1, 1]], attention_PL.new_ones(3, 1)], dim=1)
    last_B1 = torch.tensor([first[-1:], second[-1:], second[-1:]], device=device)
    after_BV = forward_cached(model, last_B1, attention_BT, cache)
    return torch.stack([before_PV, after_BV[[0, 2]]], dim=1).float()


def _is_exact(model: nn.Module, device: torch.device) -> bool:
    """Whether all arithmetic is in float32 at least."""
    dtypes = {parameter.dtype for parameter in model.parameters()}
    return dtypes <= {torch.float32, torch.float64} and not torch.is_autocast_enabled(device.type)
