"""One call of the fast engine: prompts that wait, rows that live, and how they take turns.

What it is: a scheduler. Every prompt is computed once, whatever the number of its completions; rows stand in slots of
one cache; a row that has finished leaves, and a waiting one takes its place; a step touches static tensors only, so
that a GPU replays it as a graph and is asked what has finished every few tokens, not at each.
What it is not: arithmetic. The forward is `decoder`'s, draws are `rows`' and `sampling`'s, memory is `cache`'s.

A completion depends on its own seed alone (`sampling.sequence_seed`), not on the rows beside it.

Shapes: R completions asked for, S slots, B live rows, P prompts, L longest prompt, N token limit, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from dunwu.core.records import Completion, Prompt, SamplingParams
from dunwu.engines.completions import completed
from dunwu.engines.fast.cpu_kernel import NativeDecoder
from dunwu.engines.fast.cuda_graphs import Replay
from dunwu.engines.fast.decoder import Decoder
from dunwu.engines.fast.slots import Rows
from dunwu.engines.sampling import sequence_seed, uniform_draws
from dunwu.engines.stop_strings import StopStrings

__all__ = ["Decoding", "Held", "Holder"]

_LOOK_EVERY: Final = {"cuda": 8}
"""Tokens between two looks at what has finished: each look makes the host wait for the device."""
_SPAN: Final = {"cuda": 64}
"""Attention reads a multiple of so many positions, so that one graph serves for a while."""
_BATCHES: Final = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 448, 512)
"""Rows of a step on a GPU, rounded up, so that a few graphs serve all."""
_PREFILL_TOKENS: Final = 16_384
_LEAVE_SHARE: Final = 1 / 16
"""Moving rows costs about what a finished row costs in a few steps; so many of the live rows are worth it."""


class Holder(Protocol):
    """What a call needs of its engine."""

    tokenizer: Any
    end_ids: list[int]

    def hold(
        self, decoder: Decoder | NativeDecoder, rows: int, length: int, sampling: SamplingParams
    ) -> tuple[Held, int]:
        """Cache and row tensors that are large enough, and how many rows may live at a time."""
        ...

    def stops(self, sampling: SamplingParams, vocabulary: int) -> StopStrings | None:
        """The table of the call's stop strings."""
        ...


@dataclass(frozen=True, kw_only=True)
class Held:
    """What stays between calls.

    Captured graphs know these tensors by address, so they live as long as the graphs do.

    Example: `Held(cache=cache, rows=rows, replay=Replay(device, rows.tensors()), end_ids=torch.tensor([1]))`
    """

    cache: Any
    rows: Rows
    replay: Replay
    end_ids: Tensor

    def serves(self, slots: int, length: int, rows: int, limit: int, penalised: bool) -> bool:
        fits = self.cache.slots >= slots and self.cache.length >= length
        return fits and self.rows.serves(rows, limit, penalised)


class Decoding:
    """One call of `generate`."""

    def __init__(
        self, engine: Holder, decoder: Decoder | NativeDecoder, prompts: Sequence[Prompt], sampling: SamplingParams
    ) -> None:
        self.engine, self.decoder, self.prompts, self.sampling = engine, decoder, prompts, sampling
        longest = max(len(prompt.ids) for prompt in prompts)
        _check_context(self.decoder.inner.config, longest, sampling.max_new_tokens)
        total = len(prompts) * sampling.n
        held, self.slots = engine.hold(self.decoder, total, longest + sampling.max_new_tokens, sampling)
        self.cache, self.rows, self.replay = held.cache, held.rows, held.replay
        self.rows.seed(self._uniforms())
        device = self.decoder.device
        self.end_ids = held.end_ids
        self.stops = engine.stops(sampling, self.decoder.inner.config.vocab_size)
        self.look_every = _LOOK_EVERY.get(device.type, 1)
        self.waiting = deque(_units(len(prompts), sampling.n, self.slots))
        self.live = 0
        self.reach: list[int] = []
        """Positions each live row may have filled, as the host knows it."""
        self.stopped: set[int] = set()

    def completions(self) -> list[list[Completion]]:
        """Decode until nothing waits and nothing lives."""
        while self.waiting or self.live:
            self._admit()
            for _ in range(self.look_every):
                self._step()
            self._look()
        return completed(self.engine.tokenizer, self.rows, self.engine.end_ids, self.stopped, self.sampling.n)

    def _admit(self) -> None:
        """Waiting prompts take free slots, where that is worth a prefill."""
        while self.waiting and self.live + self.waiting[0].rows <= self.slots:
            rows, width = self.waiting[0].rows, 0
            chosen: list[_Unit] = []
            while (
                self.waiting and self.waiting[0].rows == rows and self.live + rows * (len(chosen) + 1) <= self.slots
            ):
                width = max(width, len(self.prompts[self.waiting[0].prompt].ids))
                if chosen and width * (len(chosen) + 1) > _PREFILL_TOKENS:
                    break
                chosen.append(self.waiting.popleft())
            self._prefill(chosen, rows)

    def _prefill(self, units: list[_Unit], rows: int) -> None:
        device = self.decoder.device
        prompts = [self.prompts[unit.prompt].ids for unit in units]
        lengths = [len(ids) for ids in prompts]
        width = max(lengths)
        ids_PL = torch.tensor([[*ids, *[ids[0]] * (width - len(ids))] for ids in prompts], device=device)
        start, end = self.live, self.live + len(units) * rows
        slots_PN = torch.arange(start, end, device=device).view(len(units), rows)
        logits_PV = self.decoder.prefill(ids_PL, torch.tensor(lengths, device=device), slots_PN, self.cache)
        row_ids = [unit.prompt * self.sampling.n + unit.first + i for unit in units for i in range(rows)]
        last = [length - 1 for length in lengths for _ in range(rows)]
        self.rows.place(start, row_ids, last, ids_PL.repeat_interleave(rows, dim=0))
        self.live = end
        self.reach += [position + 1 for position in last]
        self._take(start, end, logits_PV.repeat_interleave(rows, dim=0))

    def _step(self) -> None:
        """One token for every live row."""
        if not self.live:
            return
        rows = self.live if not self.replay.enabled else _rounded_up(self.live, self.cache.slots)
        self.reach = [reach + 1 for reach in self.reach]
        unit = _SPAN.get(self.decoder.device.type, 1)
        span = min(-(-max(self.reach) // unit) * unit, self.cache.length)

        def step() -> None:
            state = self.rows
            logits = self.decoder.step(state.token_S[:rows], state.position_S[:rows], span, self.cache)
            self._take(0, rows, logits)

        self.replay.run((rows, span, *self._warpers()), step)

    def _take(self, start: int, end: int, logits_BV: Tensor) -> None:
        suspects = self.stops.suspect_V if self.stops is not None else None
        self.rows.take(start, end, logits_BV, self.sampling, self.end_ids, suspects)

    def _look(self) -> None:
        """Finished rows leave, the last live ones take their slots."""
        if self.stops is not None:
            self._check_stops(self.stops)
        done = self.rows.done_S[: self.live].tolist()
        leaving = sum(done)
        worth = leaving == self.live or leaving >= max(1, self.live * _LEAVE_SHARE)
        if not leaving or not worth:
            return
        self.rows.note_lengths(self.live)
        staying = self.live - leaving
        holes = [slot for slot in range(staying) if done[slot]]
        movers = [slot for slot in range(staying, self.live) if not done[slot]]
        if movers:
            device = self.decoder.device
            source, target = torch.tensor(movers, device=device), torch.tensor(holes, device=device)
            self.cache.move(source, target, min(max(self.reach), self.cache.length))
            self.rows.move(source, target)
            for mover, hole in zip(movers, holes, strict=True):
                self.reach[hole] = self.reach[mover]
        self.rows.done_S[staying : self.live] = True
        # A step may be rounded up to slots that are empty: at position 0 they see something, and stay finite.
        self.rows.position_S[staying : self.live] = 0
        self.live = staying
        del self.reach[staying:]

    def _check_stops(self, stops: StopStrings) -> None:
        for slot in self.rows.suspect_S[: self.live].nonzero().flatten().tolist():
            row, count = int(self.rows.row_S[slot]), int(self.rows.count_S[slot])
            end = stops.first_end(self.rows.tokens_RN[row, :count].tolist(), max(0, count - self.look_every - 1))
            self.rows.suspect_S[slot] = False
            if end is not None:
                self.rows.count_S[slot] = end
                self.rows.done_S[slot] = True
                self.stopped.add(row)

    def _uniforms(self) -> Tensor:
        sampling = self.sampling
        seeds = [
            sequence_seed(sampling.seed, sampling.step, prompt.row_index, index)
            for prompt in self.prompts
            for index in range(sampling.n)
        ]
        return uniform_draws(seeds, sampling.max_new_tokens, self.decoder.device)

    def _warpers(self) -> tuple[object, ...]:
        s = self.sampling
        return s.temperature, s.top_k, s.top_p, s.min_p, s.repetition_penalty, s.stop


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """Completions of one prompt that are admitted together."""

    prompt: int
    first: int
    rows: int


def _units(prompts: int, n: int, slots: int) -> list[_Unit]:
    """A group at a time, where it fits into the slots; else in parts."""
    return [
        _Unit(prompt=prompt, first=first, rows=min(slots, n - first))
        for prompt in range(prompts)
        for first in range(0, n, min(slots, n))
    ]


def _rounded_up(rows: int, slots: int) -> int:
    return min((size for size in (*_BATCHES, slots) if size >= rows), default=slots) if rows < slots else slots


def _check_context(config: Any, prompt: int, new: int) -> None:
    context = getattr(config, "max_position_embeddings", None)
    if context is not None and prompt + new > context:
        raise ValueError(
            f"a prompt of {prompt} tokens and a completion of up to {new} do not fit the model's context of "
            f"{context} tokens; shorten the prompt, or lower max_new_tokens"
        )
