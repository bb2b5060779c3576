"""One call of the fast engine: prompts that wait, slots that are live, and how they take turns.

Every prompt is computed once, whatever the number of its completions. A completion that has finished leaves its slot,
and a waiting one takes it. A step touches static tensors only, so a GPU replays it as a graph, and is asked what has
finished every few tokens, not at each. A completion depends on its own seed alone, not on what is decoded beside it.

Shapes: R completions asked for, S slots, B live ones, P prompts, G completions of a prompt, L longest prompt, C token
limit, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from dunwu.core.records import Prompt, SamplingParams
from dunwu.engines.completions import SampledTokens
from dunwu.engines.fast.cpu_kernel import CpuKernelDecoder
from dunwu.engines.fast.cuda_graphs import CudaGraphRunner
from dunwu.engines.fast.decoder import Decoder
from dunwu.engines.fast.slots import SlotState
from dunwu.engines.sampling import sample_seeds, uniform_draws
from dunwu.engines.stop_strings import StopStrings

__all__ = ["EngineBuffers", "Scheduler"]

SYNC_EVERY: Final = {"cuda": 8}
"""Tokens between two looks at what has finished: each makes the host wait for the device."""
KV_LENGTH_UNIT: Final = {"cuda": 64}
"""Attention reads a multiple of so many positions, so that one graph serves for a while."""
_BATCHES: Final = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 448, 512)
"""Slots of a step on a GPU, rounded up, so that a few graphs serve all."""
_PREFILL_TOKENS: Final = 16_384
_RETIRE_SHARE: Final = 1 / 16
"""Moving slots costs about what a finished slot costs in a few steps: it is done once this share has finished."""


@dataclass(frozen=True, kw_only=True)
class EngineBuffers:
    """What stays between calls: captured graphs know these tensors by address, so they live as long as the graphs do.

    Example: `EngineBuffers(cache=cache, state=state, graphs=CudaGraphRunner(device, state.tensors()),
    end_ids=torch.tensor([1]))`
    """

    cache: Any
    """A `KVCache` or `CpuKernelCache`, as the decoder made it."""
    state: SlotState
    graphs: CudaGraphRunner
    end_ids: Tensor
    """Tokens that end a completion."""

    def fits(self, slots: int, length: int, completions: int, max_new_tokens: int, penalised: bool) -> bool:
        """Whether a call of this size can use these buffers."""
        is_large = self.cache.slots >= slots and self.cache.length >= length
        return is_large and self.state.fits(completions, max_new_tokens, penalised)


class Scheduler:
    """One call of `generate`.

    Args:
        decoder: the forward.
        buffers: cache and slot tensors that are large enough.
        slots: completions that may be live at a time.
        prompts: what is asked.
        sampling: how.
        stops: the table of the call's stop strings.
    """

    def __init__(
        self,
        decoder: Decoder | CpuKernelDecoder,
        buffers: EngineBuffers,
        slots: int,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        stops: StopStrings | None,
    ) -> None:
        self.decoder, self.buffers, self.slots = decoder, buffers, slots
        self.prompts, self.sampling, self.stops = prompts, sampling, stops
        self.cache, self.state = buffers.cache, buffers.state
        seeds = sample_seeds(prompts, sampling)
        self.state.set_uniforms(uniform_draws(seeds, sampling.max_new_tokens, decoder.device))
        self.sync_every = SYNC_EVERY.get(decoder.device.type, 1)
        self.waiting = deque(_units(len(prompts), sampling.n, slots))
        self.live = 0
        self.max_position: list[int] = []
        """Positions each live slot may have filled, as the host knows it."""
        self.stopped: set[int] = set()

    def run(self) -> SampledTokens:
        """Decode until nothing waits and no slot is live."""
        while self.waiting or self.live:
            self._admit()
            for _ in range(self.sync_every):
                self._step()
            self._retire_finished()
        state = self.state
        return SampledTokens(
            tokens_RC=state.tokens_RC, logps_RC=state.logps_RC, length_R=state.length_R, stopped=self.stopped
        )

    def _admit(self) -> None:
        """Waiting prompts take free slots, as many prompts of one shape at a time as a prefill should have."""
        while self.waiting and self.live + self.waiting[0].copies <= self.slots:
            copies, length = self.waiting[0].copies, 0
            chosen: list[_Unit] = []
            while self._has_room_for(copies, len(chosen) + 1):
                length = max(length, len(self.prompts[self.waiting[0].prompt].ids))
                if chosen and length * (len(chosen) + 1) > _PREFILL_TOKENS:
                    break
                chosen.append(self.waiting.popleft())
            self._prefill(chosen, copies)

    def _has_room_for(self, copies: int, units: int) -> bool:
        """Whether the next waiting unit has this many completions, and so many such units fit."""
        return bool(self.waiting) and self.waiting[0].copies == copies and self.live + copies * units <= self.slots

    def _prefill(self, units: list[_Unit], copies: int) -> None:
        device = self.decoder.device
        prompts = [self.prompts[unit.prompt].ids for unit in units]
        lengths = [len(ids) for ids in prompts]
        longest = max(lengths)
        ids_PL = torch.tensor([[*ids, *[ids[0]] * (longest - len(ids))] for ids in prompts], device=device)
        start, end = self.live, self.live + len(units) * copies
        slots_PG = torch.arange(start, end, device=device).view(len(units), copies)
        logits_PV = self.decoder.prefill(ids_PL, torch.tensor(lengths, device=device), slots_PG, self.cache)
        completions = [unit.prompt * self.sampling.n + unit.first + i for unit in units for i in range(copies)]
        last = [length - 1 for length in lengths for _ in range(copies)]
        self.state.assign(start, completions, last, ids_PL.repeat_interleave(copies, dim=0))
        self.live = end
        self.max_position += [position + 1 for position in last]
        self._sample(start, end, logits_PV.repeat_interleave(copies, dim=0))

    def _step(self) -> None:
        """One token for every live slot."""
        if not self.live:
            return
        graphs = self.buffers.graphs
        slots = self.live if not graphs.enabled else _rounded_up(self.live, self.cache.slots)
        self.max_position = [position + 1 for position in self.max_position]
        unit = KV_LENGTH_UNIT.get(self.decoder.device.type, 1)
        kv_length = min(-(-max(self.max_position) // unit) * unit, self.cache.length)

        def step() -> None:
            state = self.state
            logits_BV = self.decoder.step(state.token_S[:slots], state.position_S[:slots], kv_length, self.cache)
            self._sample(0, slots, logits_BV)

        graphs.run((slots, kv_length, *self._warpers()), step)

    def _sample(self, start: int, end: int, logits_BV: Tensor) -> None:
        may_stop_V = self.stops.may_stop_V if self.stops is not None else None
        self.state.sample(start, end, logits_BV, self.sampling, self.buffers.end_ids, may_stop_V)

    def _retire_finished(self) -> None:
        """Finished completions leave; the last live slots move into the holes."""
        if self.stops is not None:
            self._check_stops(self.stops)
        done = self.state.done_S[: self.live].tolist()
        leaving = sum(done)
        if not leaving or (leaving != self.live and leaving < max(1, self.live * _RETIRE_SHARE)):
            return
        self.state.record_lengths(self.live)
        staying = self.live - leaving
        self._move(
            [slot for slot in range(staying, self.live) if not done[slot]],
            [slot for slot in range(staying) if done[slot]],
        )
        self.state.done_S[staying : self.live] = True
        # A step may be rounded up to slots that are empty: at position 0 they see something, and stay finite.
        self.state.position_S[staying : self.live] = 0
        self.live = staying
        del self.max_position[staying:]

    def _move(self, movers: list[int], holes: list[int]) -> None:
        if not movers:
            return
        device = self.decoder.device
        source, target = torch.tensor(movers, device=device), torch.tensor(holes, device=device)
        self.cache.move(source, target, min(max(self.max_position), self.cache.length))
        self.state.move(source, target)
        for mover, hole in zip(movers, holes, strict=True):
            self.max_position[hole] = self.max_position[mover]

    def _check_stops(self, stops: StopStrings) -> None:
        state = self.state
        for slot in state.may_stop_S[: self.live].nonzero().flatten().tolist():
            completion, count = int(state.completion_S[slot]), int(state.count_S[slot])
            ids = state.tokens_RC[completion, :count].tolist()
            end = stops.first_end(ids, max(0, count - self.sync_every - 1))
            state.may_stop_S[slot] = False
            if end is not None:
                state.count_S[slot] = end
                state.done_S[slot] = True
                self.stopped.add(completion)

    def _warpers(self) -> tuple[object, ...]:
        s = self.sampling
        return s.temperature, s.top_k, s.top_p, s.min_p, s.repetition_penalty, s.stop


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """Completions of one prompt that are admitted together."""

    prompt: int
    first: int
    copies: int


def _units(prompts: int, n: int, slots: int) -> list[_Unit]:
    """All completions of a prompt at a time, where they fit into the slots; else in parts."""
    return [
        _Unit(prompt=prompt, first=first, copies=min(slots, n - first))
        for prompt in range(prompts)
        for first in range(0, n, min(slots, n))
    ]


def _rounded_up(live: int, slots: int) -> int:
    return min((size for size in (*_BATCHES, slots) if size >= live), default=slots) if live < slots else slots
