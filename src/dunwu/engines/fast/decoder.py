"""The forward of a known model for inference: prompts once, then one token a slot and step.

RMSNorm, rotary positions, grouped-query attention with an optional window, gated MLP, head: the same numbers as
transformers' modules up to rounding, in few and large operations, and nothing in a step that waits for the device.
Norms and the head use the policy's tensors; linear layers come from `weights`.

Shapes: P prompts, L longest prompt, G completions of a prompt, B live slots, N tokens of a call, T positions, H
hidden size, Q query heads, K kv heads, D head dimension, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dunwu.engines.fast.kv_cache import KVCache, head_dim
from dunwu.engines.fast.model_parts import known_model
from dunwu.engines.fast.weights import (
    MAX_FUSED_BYTES,
    Layer,
    can_merge_adapters,
    fused_bytes,
    head_norms,
    layer_windows,
    make_layers,
)
from dunwu.model.lm_head import logits_of

__all__ = ["Decoder"]


class Decoder:
    """A model's forward over a `KVCache`.

    Args:
        model: a model of a known family (`model.architectures`), wrapped or not.
        autocast: dtype the trainer computes in over float32 weights; None: the weights' own.
    """

    def __init__(self, model: nn.Module, autocast: torch.dtype | None = None) -> None:
        self.inner = known_model(model)
        config = self.inner.config
        self.stream: torch.dtype = self.inner.model.embed_tokens.weight.dtype
        self.compute = autocast if autocast is not None and self.stream == torch.float32 else self.stream
        self.is_fused = can_merge_adapters(self.inner) and (
            self.compute != self.stream or fused_bytes(self.inner, self.compute) <= MAX_FUSED_BYTES
        )
        self.layers: list[Layer] = make_layers(self.inner, self.compute if self.is_fused else None)
        self.heads: int = config.num_attention_heads
        self.num_kv_heads: int = config.num_key_value_heads
        self.head_dim = head_dim(config)
        self.eps: float = config.rms_norm_eps
        self.windows = layer_windows(config)
        self.head_VH = self._head_copy()
        self._read = self._addresses()
        self._angles: tuple[Tensor, Tensor] | None = None

    @property
    def copied_bytes(self) -> int:
        """Memory of what is stored in another dtype or layout than the policy's: layers and head."""
        head = self.head_VH.numel() * self.head_VH.element_size() if self._copies_head() else 0
        return head + (fused_bytes(self.inner, self.compute) if self.is_fused else 0)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.inner.model.embed_tokens.weight.device

    def refresh(self) -> bool:
        """Take the policy's current weights; True where tensors that are read in place have been replaced."""
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
        """Data pointers of tensors that a captured step reads in place."""
        model = self.inner.model
        norms = [norm for layer in model.layers for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
        read = [model.embed_tokens.weight, model.norm.weight, self.head_VH, *(norm.weight for norm in norms)]
        read += [weight for layer in model.layers for weight in head_norms(layer) or ()]
        return [tensor.data_ptr() for tensor in read]

    def make_cache(self, slots: int, length: int) -> KVCache:
        """An empty cache for this model."""
        return KVCache.make(self.inner.config, slots=slots, length=length, dtype=self.compute, device=self.device)

    def prefill(self, ids_PL: Tensor, length_P: Tensor, slots_PG: Tensor, cache: KVCache) -> Tensor:
        """Run prompts, padded on the right, once each; write their keys into all slots of their completions.

        Returns:
            Logits of the first completion token, (P, V).
        """
        (prompts, length), copies = ids_PL.shape, slots_PG.shape[1]
        position_L1 = torch.arange(length, device=ids_PL.device).unsqueeze(1)
        places = (cache.offsets()[slots_PG].unsqueeze(2) + position_L1).flatten()
        flat = cache.flat()

        def attend(index: int, query: Tensor, key_value: Tensor) -> Tensor:
            block = key_value.unflatten(0, (prompts, 1, length)).expand(-1, copies, -1, -1, -1)
            flat[index].index_copy_(0, places, block.flatten(0, 3))
            return self._attend_prompts(query, key_value, prompts, self.windows[index])

        position_N = torch.arange(length, device=ids_PL.device).repeat(prompts)
        hidden_NH = self._layers(ids_PL.flatten(), position_N, attend)
        last_P = torch.arange(prompts, device=ids_PL.device) * length + length_P - 1
        return self._logits(hidden_NH.index_select(0, last_P))

    def step(self, ids_B: Tensor, position_B: Tensor, kv_length: int, cache: KVCache) -> Tensor:
        """One token for each of the slots 0 … B − 1; `kv_length` is more than every position.

        Returns:
            Logits of the next token, (B, V).
        """
        live, position_B1 = len(ids_B), position_B.unsqueeze(1)
        places = (cache.offsets()[:live] + position_B1).flatten()
        masks = {window: self._mask(position_B1, kv_length, window) for window in set(self.windows)}
        flat, view = cache.flat(), cache.view(live, kv_length)

        def attend(index: int, query: Tensor, key_value: Tensor) -> Tensor:
            flat[index].index_copy_(0, places, key_value.reshape(-1, self.head_dim))
            return self._attend_cache(query, *view[index], masks[self.windows[index]])

        return self._logits(self._layers(ids_B, position_B, attend))

    def _layers(self, ids_N: Tensor, position_N: Tensor, attend: Callable[[int, Tensor, Tensor], Tensor]) -> Tensor:
        cos_N1D, sin_N1D = (table.index_select(0, position_N).unsqueeze(1) for table in self._rope_table())
        x_NH = F.embedding(ids_N, self.inner.model.embed_tokens.weight)
        turned = self.heads + self.num_kv_heads
        for index, layer in enumerate(self.layers):
            qkv = layer.query_key_value(x_NH).unflatten(-1, (-1, self.head_dim))
            moving = qkv[:, :turned]
            norms = head_norms(layer.layer)
            if norms is not None:
                query, key = moving.split([self.heads, self.num_kv_heads], dim=1)
                moving = torch.cat([self._norm(query, norms[0]), self._norm(key, norms[1])], dim=1)
            # x · cos + rotate_half(x) · sin, with the sign of rotate_half in the table.
            half = moving.roll(self.head_dim // 2, dims=-1)
            qkv[:, :turned] = torch.addcmul(moving * cos_N1D, half, sin_N1D)
            x_NH = layer.output(x_NH, attend(index, qkv[:, : self.heads], qkv[:, self.heads :]))
            x_NH = layer.mlp(x_NH)
        return self._norm(x_NH, self.inner.model.norm.weight)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight.to(x.dtype), self.eps)

    def _attend_prompts(self, query: Tensor, key_value: Tensor, prompts: int, window: int | None) -> Tensor:
        """Causal attention within each prompt; padding is on the right, so nothing before it reads it."""
        parts = (query, *key_value.chunk(2, dim=1))
        block = [x.unflatten(0, (prompts, -1)).transpose(1, 2) for x in parts]
        shared = self.heads // self.num_kv_heads
        keys, values = (x.repeat_interleave(shared, dim=1) for x in block[1:])
        length = keys.shape[2]
        if window is None or window >= length:
            mixed = F.scaled_dot_product_attention(block[0], keys, values, is_causal=True)
        else:
            position_L = torch.arange(length, device=query.device)
            sees_LL = (position_L <= position_L[:, None]) & (position_L > position_L[:, None] - window)
            mixed = F.scaled_dot_product_attention(block[0], keys, values, attn_mask=sees_LL)
        return mixed.transpose(1, 2).flatten(0, 1).flatten(1)

    def _attend_cache(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """One query a slot over its keys. Heads that share keys are stacked as queries: nothing is repeated."""
        live, shared = len(query), self.heads // self.num_kv_heads
        stacked = query.reshape(live * self.num_kv_heads, shared, self.head_dim)
        if query.device.type == "cpu":
            # Two plain products: four times faster than the fused kernel, which is made for many queries.
            scores = torch.baddbmm(mask, stacked, key.transpose(1, 2), alpha=self.head_dim**-0.5)
            return torch.bmm(scores.softmax(dim=-1), value).view(live, -1)
        mixed = F.scaled_dot_product_attention(
            stacked.unflatten(0, (live, -1)),
            key.unflatten(0, (live, -1)),
            value.unflatten(0, (live, -1)),
            attn_mask=mask.unflatten(0, (live, -1)).to(query.dtype),
        )
        return mixed.reshape(live, -1)

    def _mask(self, position_B1: Tensor, kv_length: int, window: int | None) -> Tensor:
        """(B · K, 1, T) to add to scores: a token sees itself and what is before it, at most `window` positions."""
        position_T = torch.arange(kv_length, device=position_B1.device)
        unseen_BT = position_T > position_B1
        if window is not None:
            unseen_BT |= position_T <= position_B1 - window
        mask_BT = torch.where(unseen_BT, -torch.inf, 0.0).to(self.compute)
        return mask_BT.repeat_interleave(self.num_kv_heads, dim=0).unsqueeze(1)

    def _logits(self, hidden_NH: Tensor) -> Tensor:
        return logits_of(hidden_NH.to(self.compute), self.head_VH, self.inner.lm_head.bias)

    def _copies_head(self) -> bool:
        return self.inner.lm_head.weight.dtype != self.compute

    def _head_copy(self) -> Tensor:
        weight = self.inner.lm_head.weight
        return weight.detach().to(self.compute) if self._copies_head() else weight

    def extend_rope(self, length: int) -> None:
        """Make tables of angles for positions below `length`."""
        if self._angles is not None and len(self._angles[0]) >= length:
            return
        position = torch.arange(length, device=self.device).unsqueeze(0)
        # transformers rounds cosine and sine to the dtype of the residual stream; so do the tables.
        like = torch.zeros(1, dtype=self.stream, device=self.device)
        cos, sin = (table[0] for table in self.inner.model.rotary_emb(like, position))
        half = self.head_dim // 2
        signed = torch.cat([-sin[:, :half], sin[:, half:]], dim=-1)
        dtype = torch.float64 if self.stream == torch.float64 else torch.float32
        self._angles = (cos.to(dtype), signed.to(dtype))

    def _rope_table(self) -> tuple[Tensor, Tensor]:
        assert self._angles is not None, "extend_rope comes first"
        return self._angles
