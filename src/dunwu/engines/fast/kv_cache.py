"""Keys and values of every row, in one block that is allocated once.

What it is: a slot for each row, so long as its prompt and completion together may become; live rows stand in the
first slots, without gaps, so that attention reads one plain view. Rows are moved, never gathered.
What it is not: paged. A slot is reserved whole; how many fit is asked before (`slots_that_fit`).

Shapes: S slots, K key heads, T positions, D a head's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Cache", "head_width", "slot_bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """One block for all layers.

    Example: `Cache.make(inner, slots=128, length=152, dtype=torch.float32, device=device)`
    """

    block: Tensor
    """(layers, 2, S, K, T, D): keys, then values."""

    @classmethod
    def make(cls, config: Any, *, slots: int, length: int, dtype: torch.dtype, device: torch.device) -> Cache:
        """An empty cache. Zeros, not what was there: a masked place still enters a product, and 0 · NaN is NaN."""
        shape = (config.num_hidden_layers, 2, slots, config.num_key_value_heads, length, head_width(config))
        return cls(block=torch.zeros(shape, dtype=dtype, device=device))

    @property
    def slots(self) -> int:
        """S."""
        return self.block.shape[2]

    @property
    def length(self) -> int:
        """T."""
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

    def view(self, rows: int, span: int) -> list[tuple[Tensor, Tensor]]:
        """Each layer's keys and values in the first slots and positions, (rows · K, span, D); no copy."""
        return [(keys, values) for keys, values in self.block[:, :, :rows, :, :span].flatten(2, 3).unbind()]

    def clear(self) -> None:
        """Zeros again: what an earlier call left may not be finite."""
        self.block.zero_()

    def move(self, source: Tensor, target: Tensor, span: int) -> None:
        """Copy slots onto others, up to `span` positions."""
        self.block[:, :, target, :, :span] = self.block[:, :, source, :, :span]


def slot_bytes(config: Any, length: int, dtype: torch.dtype) -> int:
    """Memory of one row."""
    return (
        int(2 * config.num_hidden_layers * config.num_key_value_heads * head_width(config) * length) * dtype.itemsize
    )


def head_width(config: Any) -> int:
    """D."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
