"""The modules of a known model that the fast engine reads, by the names that the four families share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from torch import Tensor, nn

from dunwu.model.architectures import unwrap_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["Attention", "DecoderLayer", "KnownModel", "Mlp", "Norm", "known_model"]


class Norm(Protocol):
    """An RMSNorm."""

    weight: Tensor

    def __call__(self, x: Tensor, /) -> Tensor: ...


class Attention(Protocol):
    """The projections of an attention; Qwen3 also has `q_norm` and `k_norm`, norms of each head."""

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    o_proj: nn.Linear


class Mlp(Protocol):
    """A gated MLP."""

    gate_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear

    def __call__(self, x: Tensor, /) -> Tensor: ...


class DecoderLayer(Protocol):
    """One layer."""

    self_attn: Attention
    mlp: Mlp
    input_layernorm: Norm
    post_attention_layernorm: Norm


class Body(Protocol):
    """All but the head."""

    embed_tokens: nn.Embedding
    layers: Sequence[DecoderLayer]
    norm: Norm
    rotary_emb: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class KnownModel(Protocol):
    """A causal language model of a known family."""

    config: PretrainedConfig
    model: Body
    lm_head: nn.Linear


def known_model(model: nn.Module) -> KnownModel:
    """The transformers model inside `model`, which is of a known family (`model.architectures`)."""
    return cast(KnownModel, unwrap_model(model))
