"""Decoding steps captured as CUDA graphs: one launch instead of hundreds.

A function on static tensors is captured once for each key and replayed afterwards; weights that change in place
change the replay too. Without CUDA the function is simply called: one code path, tested on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.cuda import _POOL_HANDLE

__all__ = ["CudaGraphRunner"]

_WARM_UP = 2
"""Calls before a capture: libraries make their workspaces in the first."""


class CudaGraphRunner:
    """Captured steps by key.

    Args:
        device: where the tensors are.
        state: the static tensors that a step changes; put back after the warm-up of a capture.
        enabled: False calls every step plainly.
    """

    def __init__(self, device: torch.device, state: Sequence[Tensor], *, enabled: bool = True) -> None:
        self.enabled = enabled and device.type == "cuda"
        self.state = state
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool: _POOL_HANDLE | None = None

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        """Run `step`, which reads and writes static tensors only; the first call with a key captures it."""
        if not self.enabled:
            step()
            return
        if key not in self._graphs:
            before = [tensor.clone() for tensor in self.state]
            self._graphs[key] = self._captured(step)
            for tensor, old in zip(self.state, before, strict=True):
                tensor.copy_(old)
        self._graphs[key].replay()

    def _captured(self, step: Callable[[], None]) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            step()
        self._pool = self._pool or graph.pool()
        return graph
