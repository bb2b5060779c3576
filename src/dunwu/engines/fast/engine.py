"""The fast engine: rollouts in the trainer's process, on the trainer's weights.

What it is: what outlives a call. Whose weights are used, how much memory keys and values may take, what is held while
the trainer trains. A call itself is a `Decoding`.
What it is not: for any model. `families` says which; others run in `TransformersEngine`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch

from dunwu._utils.logging import get_logger
from dunwu._utils.memory import free_memory
from dunwu.core.records import Completion, Prompt, SamplingParams
from dunwu.engines.completions import end_token_ids
from dunwu.engines.fast.cpu_kernel import NativeDecoder, why_not_native
from dunwu.engines.fast.cuda_graphs import Replay
from dunwu.engines.fast.decoder import Decoder
from dunwu.engines.fast.kv_cache import slot_bytes
from dunwu.engines.fast.scheduler import Decoding, Held
from dunwu.engines.fast.slots import Rows
from dunwu.engines.fast.weights import why_not_readable
from dunwu.engines.stop_strings import StopStrings
from dunwu.model.architectures import unwrap_model, why_not_known
from dunwu.model.loading import eval_mode

__all__ = ["FastEngine"]

_MAX_ROWS: Final = {"cuda": 512}
_MAX_ROWS_ELSEWHERE: Final = 256
_LENGTHS: Final = 16
"""A slot has room for a multiple of so many positions."""
_CACHE_SHARE: Final = 0.4
"""Of the free memory, where no limit is given."""
_HELD_ASLEEP: Final = 1 / 32
"""Of the free memory: more than that is given back while the trainer trains."""


class FastEngine:
    """Completions from a Llama, Mistral, Qwen2 or Qwen3 model, adapters included.

    Args:
        model: the model, wrapped or not; its weights are used as they are at each call.
        tokenizer: decodes completions, and names the end token.
        max_rows: most completions computed at a time; changes memory and speed, not results.
        cache_bytes: most memory for keys and values; None: a share of what is free.
        autocast: dtype the trainer computes in over float32 weights; None: the weights' own.
        native: whether small models on a CPU may be decoded by compiled steps (`native`).

    Raises:
        ValueError: for a model that it does not know, with the reason.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_rows: int | None = None,
        cache_bytes: int | None = None,
        autocast: torch.dtype | None = None,
        native: bool = True,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_rows = max_rows
        self.cache_bytes = cache_bytes
        self.autocast = autocast
        self.native = native
        self._held: Held | None = None
        self._said: set[str] = set()
        self.sync_weights(model, version=0)

    def sync_weights(self, policy: Any, *, version: int) -> None:
        """Take a model; its weights are read anew at each call of `generate`."""
        if getattr(self, "model", None) is policy:
            return
        reason = why_not_known(policy) or why_not_readable(unwrap_model(policy))
        if reason is not None:
            raise ValueError(f"the fast engine does not know this model: {reason}; use TransformersEngine")
        self.model = policy
        self.end_ids = end_token_ids(unwrap_model(policy), self.tokenizer)
        self._decoder: Decoder | NativeDecoder | None = None
        self._held = None
        self._stops: dict[tuple[str, ...], StopStrings] = {}

    @contextmanager
    def session(self) -> Iterator[None]:
        """Dropout off while it lasts; afterwards, memory that training could miss is given back."""
        try:
            with eval_mode(self.model):
                yield
        finally:
            self._sleep()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def held_bytes(self) -> int:
        """Memory held beside the trainer's weights: copies in another dtype or layout, keys and values."""
        copies = self._decoder.copied_bytes if self._decoder is not None else 0
        return copies + (self._held.cache.bytes if self._held is not None else 0)

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt, in order.

        Raises:
            ValueError: where a prompt and its completion do not fit the model's context, or not one row fits the
                memory; with the numbers.
        """
        if not prompts:
            return []
        decoder = self.decoder()
        with self.session(), self._precision(decoder):
            return Decoding(self, decoder, prompts, sampling).completions()

    def decoder(self) -> Decoder | NativeDecoder:
        """The forward, with the weights of this moment."""
        if self._decoder is None:
            native = self.native and why_not_native(self.model, self.autocast or torch.float32) is None
            self._decoder = NativeDecoder(self.model) if native else Decoder(self.model, self.autocast)
            if self._decoder.copied_bytes:
                size = self._decoder.copied_bytes / 2**20
                self._say(
                    f"the fast engine holds a fused copy of the layers' weights while it generates: {size:.0f} MB"
                )
        elif self._decoder.refresh():
            self._held = None  # tensors that a captured graph reads have been replaced
        return self._decoder

    def hold(
        self, decoder: Decoder | NativeDecoder, rows: int, length: int, sampling: SamplingParams
    ) -> tuple[Held, int]:
        """Cache and row tensors for a call, those of the last one where they are large enough; and rows at a time."""
        length = -(-length // _LENGTHS) * _LENGTHS
        slots = self._slots(rows, length, decoder.compute)
        decoder.grow(length)
        penalised = sampling.repetition_penalty != 1.0
        held = self._held
        if held is None or not held.serves(slots, length, rows, sampling.max_new_tokens, penalised):
            self._held = None  # before the new one is made: both might not fit
            cache = decoder.make_cache(slots, length)
            state = Rows.make(
                slots=slots,
                rows=rows,
                limit=sampling.max_new_tokens,
                vocabulary=decoder.inner.config.vocab_size if penalised else 0,
                device=decoder.device,
            )
            ends = torch.tensor(self.end_ids, device=decoder.device)
            self._held = held = Held(
                cache=cache, rows=state, replay=Replay(decoder.device, state.tensors()), end_ids=ends
            )
        else:
            held.cache.clear()
        held.rows.reset()
        return held, slots

    def stops(self, sampling: SamplingParams, vocabulary: int) -> StopStrings | None:
        """The table of the run's stop strings."""
        if not sampling.stop:
            return None
        if sampling.stop not in self._stops:
            self._stops[sampling.stop] = StopStrings(self.tokenizer, sampling.stop, vocabulary, self.device)
        return self._stops[sampling.stop]

    def _slots(self, rows: int, length: int, dtype: torch.dtype) -> int:
        """Rows at a time: what was asked for, what is allowed, what fits."""
        kind = self.device.type
        wanted = min(rows, self.max_rows or _MAX_ROWS.get(kind, _MAX_ROWS_ELSEWHERE))
        one = slot_bytes(unwrap_model(self.model).config, length, dtype)
        held = self._held.cache.bytes if self._held is not None else 0
        room = self.cache_bytes or int((free_memory(self.device) + held) * _CACHE_SHARE)
        fitting = room // one
        if fitting < 1:
            raise ValueError(
                f"not one row of {length} tokens fits: its keys and values need {one / 2**20:.1f} MB, and "
                f"{room / 2**20:.1f} MB are there; lower max_completion_length, or raise kv_cache_gib"
            )
        if fitting < wanted:
            self._say(
                f"{wanted} completions of up to {length} tokens need {wanted * one / 2**30:.2f} GiB of keys and "
                f"values, and {room / 2**30:.2f} GiB are there: {fitting} are computed at a time, the others wait"
            )
        return int(min(wanted, fitting))

    def _sleep(self) -> None:
        if self._held is None and self._decoder is None:
            return
        if self.held_bytes > _HELD_ASLEEP * free_memory(self.device):
            self._held = self._decoder = None

    def _precision(self, decoder: Decoder | NativeDecoder) -> contextlib.AbstractContextManager[object]:
        if self.autocast is None or decoder.copied_bytes:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def _say(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            get_logger().info(sentence)
