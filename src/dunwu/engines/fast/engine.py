"""The fast engine: rollouts in the trainer's process, on the policy's own weights.

Here is what outlives a call: the model, its decoder, how much memory keys and values may take, and what is given back
while the trainer trains. A call itself is a `Scheduler`. Models of other families run in `TransformersEngine`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from dunwu._utils.logging import get_logger
from dunwu._utils.memory import free_memory
from dunwu.core.records import Completion, Prompt, SamplingParams
from dunwu.engines.completions import make_completions
from dunwu.engines.fast import cpu_kernel as cpu_kernels
from dunwu.engines.fast.cuda_graphs import CudaGraphRunner
from dunwu.engines.fast.decoder import Decoder
from dunwu.engines.fast.kv_cache import kv_bytes_per_slot
from dunwu.engines.fast.model_parts import known_model
from dunwu.engines.fast.scheduler import EngineBuffers, Scheduler
from dunwu.engines.fast.slots import SlotState
from dunwu.engines.fast.weights import unreadable_reason
from dunwu.engines.in_process import InProcessEngine, check_adapter
from dunwu.errors import EngineError, OutOfMemoryError
from dunwu.model import architectures

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

__all__ = ["FastEngine", "unsupported_reason"]

_MAX_ROWS: Final = {"cuda": 512}
_MAX_ROWS_ELSEWHERE: Final = 256
_LENGTH_UNIT: Final = 16
"""The positions of a slot are a multiple of this."""
_CACHE_SHARE: Final = 0.4
"""Of the free memory, where no limit is given."""
_KEEP_SHARE: Final = 1 / 32
"""Of the free memory: more than that is given back while the trainer trains."""


def unsupported_reason(model: nn.Module) -> str | None:
    """Why the fast engine cannot run a model; None where it can."""
    return architectures.unsupported_reason(model) or unreadable_reason(known_model(model))


class FastEngine(InProcessEngine):
    """Completions from a Llama, Mistral, Qwen2 or Qwen3 model, adapters included.

    Args:
        model: the model, wrapped or not; its weights are used as they are at each call.
        tokenizer: decodes completions, and names the end token.
        max_rows: most completions computed at a time; changes memory and speed, not results.
        kv_cache_bytes: most memory for keys and values; None: a share of what is free.
        autocast: dtype the trainer computes in over float32 weights; None: the weights' own.
        cpu_kernel: whether small models on a CPU may be decoded by compiled steps.

    Raises:
        EngineError: for a model that it does not know, or an adapter under which it would sample from another one.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_rows: int | None = None,
        kv_cache_bytes: int | None = None,
        autocast: torch.dtype | None = None,
        cpu_kernel: bool = True,
    ) -> None:
        super().__init__(tokenizer, autocast)
        self.max_rows = max_rows
        self.kv_cache_bytes = kv_cache_bytes
        self.cpu_kernel = cpu_kernel
        self._decoder: Decoder | cpu_kernels.CpuKernelDecoder | None = None
        self._buffers: EngineBuffers | None = None
        self._take(model)

    def sync_weights(self, policy: nn.Module, *, version: int) -> None:
        """Nothing to copy yet: weights are read anew at each call of `generate`.

        Raises:
            EngineError: for another model than before that it does not know.
        """
        if policy is not self.model:
            self._take(policy)

    @property
    def extra_bytes(self) -> int:
        """Memory taken beside the policy's weights: copies in another dtype or layout, keys and values."""
        copies = self._decoder.copied_bytes if self._decoder is not None else 0
        return copies + (self._buffers.cache.bytes if self._buffers is not None else 0)

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt, in order.

        Raises:
            EngineError: where a prompt and its completion do not fit the model's context; with the numbers.
            OutOfMemoryError: where not one completion fits the memory; with the numbers.
        """
        if not prompts:
            return []
        longest = max(len(prompt.ids) for prompt in prompts)
        _check_context(known_model(self.model).config, longest, sampling.max_new_tokens)
        with self.session():
            decoder = self.decoder()
            # A fused copy is in the dtype of the computation already.
            with contextlib.nullcontext() if decoder.is_fused else self._autocast_context():
                length = longest + sampling.max_new_tokens
                buffers, slots = self.acquire_buffers(decoder, len(prompts) * sampling.n, length, sampling)
                stops = self.stops(sampling)
                sampled = Scheduler(decoder, buffers, slots, prompts, sampling, stops).run()
            return make_completions(sampled, self.tokenizer, self.end_ids, sampling.n)

    def decoder(self) -> Decoder | cpu_kernels.CpuKernelDecoder:
        """The forward, with the weights of this moment."""
        if self._decoder is None:
            self._decoder = self._make_decoder()
            if self._decoder.copied_bytes:
                size = self._decoder.copied_bytes / 2**20
                get_logger().debug_once(f"the fast engine keeps a copy of weights while it generates: {size:.0f} MB")
        elif self._decoder.refresh():
            self._buffers = None  # tensors that a captured graph reads have been replaced
        return self._decoder

    def acquire_buffers(
        self, decoder: Decoder | cpu_kernels.CpuKernelDecoder, completions: int, length: int, sampling: SamplingParams
    ) -> tuple[EngineBuffers, int]:
        """Cache and slot tensors for a call, those of the last one where they fit; and how many slots may be live."""
        length = -(-length // _LENGTH_UNIT) * _LENGTH_UNIT
        slots = self._slots(completions, length, decoder.compute)
        decoder.extend_rope(length)
        max_new_tokens, penalised = sampling.max_new_tokens, sampling.repetition_penalty != 1.0
        buffers = self._buffers
        if buffers is None or not buffers.fits(slots, length, completions, max_new_tokens, penalised):
            self._buffers = None  # before the new one is made: both might not fit
            cache = decoder.make_cache(slots, length)
            vocabulary = decoder.inner.config.vocab_size if penalised else 0
            state = SlotState.make(
                slots=slots,
                completions=completions,
                max_new_tokens=max_new_tokens,
                vocabulary=vocabulary,
                device=decoder.device,
            )
            self._buffers = buffers = EngineBuffers(
                cache=cache,
                state=state,
                graphs=CudaGraphRunner(decoder.device, state.tensors()),
                end_ids=torch.tensor(self.end_ids, device=decoder.device),
            )
        else:
            buffers.cache.clear()
        buffers.state.reset()
        return buffers, slots

    def _take(self, model: nn.Module) -> None:
        check_adapter(model)
        reason = unsupported_reason(model)
        if reason is not None:
            raise EngineError(f"the fast engine cannot run this model: {reason}; use the engine 'transformers'")
        self._use_model(model)
        self._decoder = None
        self._buffers = None

    def _make_decoder(self) -> Decoder | cpu_kernels.CpuKernelDecoder:
        if self.cpu_kernel and cpu_kernels.unsupported_reason(self.model, self.autocast or torch.float32) is None:
            return cpu_kernels.CpuKernelDecoder(self.model)
        return Decoder(self.model, self.autocast)

    def _slots(self, completions: int, length: int, dtype: torch.dtype) -> int:
        """Slots that may be live: what was asked for, what is allowed, what fits."""
        wanted = min(completions, self.max_rows or _MAX_ROWS.get(self.device.type, _MAX_ROWS_ELSEWHERE))
        one = kv_bytes_per_slot(known_model(self.model).config, length, dtype)
        own = self._buffers.cache.bytes if self._buffers is not None else 0
        allowed = self.kv_cache_bytes or int((free_memory(self.device) + own) * _CACHE_SHARE)
        fitting = allowed // one
        if fitting < 1:
            raise OutOfMemoryError(
                f"not one completion of {length} tokens fits: its keys and values need {one / 2**20:.1f} MB, and "
                f"{allowed / 2**20:.1f} MB are free for them; lower max_completion_length, or raise kv_cache_gib"
            )
        if fitting < wanted:
            get_logger().once(
                f"{wanted} completions of up to {length} tokens need {wanted * one / 2**30:.2f} GiB of keys and "
                f"values, and {allowed / 2**30:.2f} GiB are free for them: {fitting} are computed at a time, the "
                "others wait"
            )
        return int(min(wanted, fitting))

    def _release_memory(self) -> None:
        if self._buffers is None and self._decoder is None:
            return
        if self.extra_bytes > _KEEP_SHARE * free_memory(self.device):
            self._buffers = self._decoder = None


def _check_context(config: PretrainedConfig, prompt_tokens: int, max_new_tokens: int) -> None:
    context = getattr(config, "max_position_embeddings", None)
    if context is not None and prompt_tokens + max_new_tokens > context:
        raise EngineError(
            f"a prompt of {prompt_tokens} tokens and a completion of up to {max_new_tokens} do not fit the model's "
            f"context of {context} tokens; shorten the prompt, or lower max_new_tokens"
        )
