"""The forward of a known decoder for inference: prompts once, then one token a row and step.

What it is: RMSNorm, rotary positions, grouped-query attention with an optional window, gated MLP, head; the same
numbers as transformers' modules to rounding, in few and large operations, and nothing in a step that waits for the
device. Norms and the head use the trainer's tensors; linear layers come from `weights`.
What it is not: sampling, scheduling (`fast`) or training (`forward`).

Shapes: P prompts, L longest prompt, N completions of a prompt, B rows, T tokens of a call, H hidden, V vocabulary,
D a head's width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dunwu.engines.fast.kv_cache import Cache, head_width
from dunwu.engines.fast.weights import (
    FUSED_AT_MOST,
    Layer,
    fused_bytes,
    head_norms,
    layers_of,
    mergeable,
    windows_of,
)
from dunwu.model.architectures import unwrap_model
from dunwu.model.lm_head import logits_of

__all__ = ["Decoder"]


class Decoder:
    """A model's forward over a `Cache`.

    Args:
        model: a model of a known family (`families.why_not_known`), wrapped or not.
        autocast: dtype the trainer computes in over float32 weights; None: the weights' own.
    """

    def __init__(self, model: Any, autocast: torch.dtype | None = None) -> None:
        self.inner = unwrap_model(model)
        config = self.inner.config
        self.stream: torch.dtype = self.inner.model.embed_tokens.weight.dtype
        self.compute = autocast if autocast is not None and self.stream == torch.float32 else self.stream
        fuse = mergeable(self.inner) and (
            self.compute != self.stream or fused_bytes(self.inner, self.compute) <= FUSED_AT_MOST
        )
        self.layers: list[Layer] = layers_of(self.inner, self.compute if fuse else None)
        self.copied_bytes = fused_bytes(self.inner, self.compute) if fuse else 0
        self.heads, self.key_heads, self.width = (
            config.num_attention_heads,
            config.num_key_value_heads,
            head_width(config),
        )
        self.eps: float = config.rms_norm_eps
        self.windows = windows_of(config)
        self.head_VH = self._head_copy()
        self._read = self._addresses()
        self._angles: tuple[Tensor, Tensor] | None = None

    def refresh(self) -> bool:
        """Take the trainer's current weights; True where tensors that are read in place have been replaced."""
        for layer in self.layers:
            layer.refresh()
        head = self.inner.lm_head.weight
        if head.dtype == self.compute or head.shape != self.head_VH.shape:
            self.head_VH = self._head_copy()
        else:
            self.head_VH.copy_(head)
        before, self._read = self._read, self._addresses()
        return before != self._read

    def _addresses(self) -> list[int]:
        """Of what a step reads where it lies."""
        model = self.inner.model
        norms = [
            weight for layer in model.layers for weight in (layer.input_layernorm, layer.post_attention_layernorm)
        ]
        read = [model.embed_tokens.weight, model.norm.weight, self.head_VH, *(norm.weight for norm in norms)]
        read += [weight for layer in model.layers for weight in head_norms(layer) or ()]
        return [tensor.data_ptr() for tensor in read]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.inner.model.embed_tokens.weight.device
        return device

    def make_cache(self, slots: int, length: int) -> Cache:
        """An empty cache for this model."""
        return Cache.make(self.inner.config, slots=slots, length=length, dtype=self.compute, device=self.device)

    def prefill(self, ids_PL: Tensor, length_P: Tensor, slots_PN: Tensor, cache: Cache) -> Tensor:
        """Run prompts, padded on the right, once each; write their keys into all slots of their completions.

        Returns:
            Logits of the first completion token, (P, V).
        """
        (prompts, width), copies = ids_PL.shape, slots_PN.shape[1]
        position_L1 = torch.arange(width, device=ids_PL.device).unsqueeze(1)
        places = (cache.offsets()[slots_PN].unsqueeze(2) + position_L1).flatten()
        flat = cache.flat()

        def attend(index: int, query: Tensor, key_value: Tensor) -> Tensor:
            block = key_value.unflatten(0, (prompts, 1, width)).expand(-1, copies, -1, -1, -1)
            flat[index].index_copy_(0, places, block.flatten(0, 3))
            return self._attend_prompts(query, key_value, prompts, self.windows[index])

        positions_T = torch.arange(width, device=ids_PL.device).repeat(prompts)
        hidden_TH = self._layers(ids_PL.flatten(), positions_T, attend)
        last_P = torch.arange(prompts, device=ids_PL.device) * width + length_P - 1
        return self._logits(hidden_TH.index_select(0, last_P))

    def step(self, ids_B: Tensor, position_B: Tensor, span: int, cache: Cache) -> Tensor:
        """One token for each of the rows in slots 0 … B − 1; `span` is more than every position.

        Returns:
            Logits of the next token, (B, V).
        """
        rows, position_B1 = len(ids_B), position_B.unsqueeze(1)
        places = (cache.offsets()[:rows] + position_B1).flatten()
        masks = {window: self._mask(position_B1, span, window) for window in set(self.windows)}
        flat, view = cache.flat(), cache.view(rows, span)

        def attend(index: int, query: Tensor, key_value: Tensor) -> Tensor:
            flat[index].index_copy_(0, places, key_value.reshape(-1, self.width))
            return self._attend_cache(query, *view[index], masks[self.windows[index]])

        return self._logits(self._layers(ids_B, position_B, attend))

    def _layers(self, ids_T: Tensor, position_T: Tensor, attend: Callable[[int, Tensor, Tensor], Tensor]) -> Tensor:
        cos_T1D, sin_T1D = (table.index_select(0, position_T).unsqueeze(1) for table in self._table())
        x = F.embedding(ids_T, self.inner.model.embed_tokens.weight)
        turned = self.heads + self.key_heads
        for index, layer in enumerate(self.layers):
            qkv = layer.query_key_value(x).unflatten(-1, (-1, self.width))
            moving = qkv[:, :turned]
            norms = head_norms(layer.layer)
            if norms is not None:
                query, key = moving.split([self.heads, self.key_heads], dim=1)
                moving = torch.cat([self._norm(query, norms[0]), self._norm(key, norms[1])], dim=1)
            # x · cos + rotate_half(x) · sin, with the sign of rotate_half kept in the table.
            half = moving.roll(self.width // 2, dims=-1)
            qkv[:, :turned] = torch.addcmul(moving * cos_T1D, half, sin_T1D)
            x = layer.output(x, attend(index, qkv[:, : self.heads], qkv[:, self.heads :]))
            x = layer.mlp(x)
        return self._norm(x, self.inner.model.norm.weight)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight.to(x.dtype), self.eps)

    def _attend_prompts(self, query: Tensor, key_value: Tensor, prompts: int, window: int | None) -> Tensor:
        """Causal attention within each prompt; padding lies behind, so that nothing real sees it."""
        parts = (query, *key_value.chunk(2, dim=1))
        block = [x.unflatten(0, (prompts, -1)).transpose(1, 2) for x in parts]
        shared = self.heads // self.key_heads
        keys, values = (x.repeat_interleave(shared, dim=1) for x in block[1:])
        width = keys.shape[2]
        if window is None or window >= width:
            mixed = F.scaled_dot_product_attention(block[0], keys, values, is_causal=True)
        else:
            place = torch.arange(width, device=query.device)
            sees = (place <= place[:, None]) & (place > place[:, None] - window)
            mixed = F.scaled_dot_product_attention(block[0], keys, values, attn_mask=sees)
        return mixed.transpose(1, 2).flatten(0, 1).flatten(1)

    def _attend_cache(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """One query a row over its slot. Heads that share keys are stacked as queries: nothing is repeated."""
        rows, shared = len(query), self.heads // self.key_heads
        stacked = query.reshape(rows * self.key_heads, shared, self.width)
        if query.device.type == "cpu":
            # Two plain products: four times faster than the fused kernel, which is made for many queries.
            scores = torch.baddbmm(mask, stacked, key.transpose(1, 2), alpha=self.width**-0.5)
            return torch.bmm(scores.softmax(dim=-1), value).view(rows, -1)
        mixed = F.scaled_dot_product_attention(
            stacked.unflatten(0, (rows, -1)),
            key.unflatten(0, (rows, -1)),
            value.unflatten(0, (rows, -1)),
            attn_mask=mask.unflatten(0, (rows, -1)).to(query.dtype),
        )
        return mixed.reshape(rows, -1)

    def _mask(self, position_B1: Tensor, span: int, window: int | None) -> Tensor:
        """(B · K, 1, span) to add to scores: a row sees itself and what lies before, at most `window` positions."""
        place_S = torch.arange(span, device=position_B1.device)
        unseen = place_S > position_B1
        if window is not None:
            unseen |= place_S <= position_B1 - window
        mask_BS = torch.where(unseen, -torch.inf, 0.0).to(self.compute)
        return mask_BS.repeat_interleave(self.key_heads, dim=0).unsqueeze(1)

    def _logits(self, hidden_TH: Tensor) -> Tensor:
        return logits_of(hidden_TH.to(self.compute), self.head_VH, self.inner.lm_head.bias)

    def _head_copy(self) -> Tensor:
        weight: Tensor = self.inner.lm_head.weight
        return weight if weight.dtype == self.compute else weight.detach().to(self.compute)

    def grow(self, length: int) -> None:
        """Make tables for positions below `length`."""
        if self._angles is not None and len(self._angles[0]) >= length:
            return
        position = torch.arange(length, device=self.device).unsqueeze(0)
        like = torch.zeros(1, dtype=torch.float32, device=self.device)
        cos, sin = (table[0] for table in self.inner.model.rotary_emb(like, position))
        half = self.width // 2
        signed = torch.cat([-sin[:, :half], sin[:, half:]], dim=-1)
        dtype = torch.float64 if self.stream == torch.float64 else torch.float32
        self._angles = (cos.to(dtype), signed.to(dtype))

    def _table(self) -> tuple[Tensor, Tensor]:
        assert self._angles is not None, "grow comes first"
        return self._angles
