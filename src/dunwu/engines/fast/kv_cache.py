"""Keys and values of every slot, in one block that is allocated once.

A slot takes a whole prompt and completion. Live slots are the first ones, without gaps, so that attention
reads one plain view; slots are moved, never gathered, and nothing is paged. `FastEngine` decides how many slots fit.

Shapes: S slots, B of them live, K kv heads, T positions, D head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["KVCache", "head_dim", "kv_bytes_per_slot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCache:
    """One block for all layers.

    Example: `KVCache.make(config, slots=4, length=24, dtype=torch.float32, device=torch.device("cpu"))`
    """

    block: Tensor
    """(layers, 2, S, K, T, D): keys, then values."""

    @classmethod
    def make(
        cls, config: PretrainedConfig, *, slots: int, length: int, dtype: torch.dtype, device: torch.device
    ) -> KVCache:
        """An empty cache. Zeros, not what was there: a masked position still enters a product, and 0 · NaN is NaN."""
        shape = (config.num_hidden_layers, 2, slots, config.num_key_value_heads, length, head_dim(config))
        return cls(block=torch.zeros(shape, dtype=dtype, device=device))

    @property
    def slots(self) -> int:
        """Number of slots (S)."""
        return self.block.shape[2]

    @property
    def length(self) -> int:
        """Positions of a slot (T)."""
        return self.block.shape[4]

    @property
    def bytes(self) -> int:
        """Size of the block."""
        return self.block.numel() * self.block.element_size()

    def offsets(self) -> Tensor:
        """Where each slot's keys, then its values, begin in `flat`: (S, 2 · K)."""
        device, (_, _, slots, heads, length, _) = self.block.device, self.block.shape
        slot, head = torch.arange(slots, device=device).unsqueeze(1), torch.arange(2 * heads, device=device)
        return ((head // heads * slots + slot) * heads + head % heads) * length

    def flat(self) -> tuple[Tensor, ...]:
        """Each layer's keys and values as one table of positions, (2 · S · K · T, D); no copy."""
        return self.block.flatten(1, 4).unbind()

    def view(self, live: int, kv_length: int) -> list[tuple[Tensor, Tensor]]:
        """Each layer's keys and values in the first slots and positions, (B · K, kv_length, D); no copy."""
        return [(keys, values) for keys, values in self.block[:, :, :live, :, :kv_length].flatten(2, 3).unbind()]

    def clear(self) -> None:
        """Zeros again: what an earlier call left may not be finite."""
        self.block.zero_()

    def move(self, source: Tensor, target: Tensor, kv_length: int) -> None:
        """Copy slots onto others, up to `kv_length` positions."""
        self.block[:, :, target, :, :kv_length] = self.block[:, :, source, :, :kv_length]


def kv_bytes_per_slot(config: PretrainedConfig, length: int, dtype: torch.dtype) -> int:
    """Memory of the keys and values of one slot."""
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * head_dim(config) * length) * dtype.itemsize


def head_dim(config: PretrainedConfig) -> int:
    """Dimension of one attention head (D)."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
