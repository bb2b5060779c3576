"""Several processes, one run: how ranks exchange values, and how they shut down.

Launching and wrapping are torchrun's and accelerate's.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

__all__ = ["ParallelContext", "is_main_process", "let_gloo_finish_at_exit"]

Item = TypeVar("Item")

_REST_SECONDS = 0.25


def is_main_process() -> bool:
    """Whether this process is the first of its run, by what launchers set: known before torch is imported."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelContext:
    """Which data-parallel rank this is: who takes which prompts, and what adds up over whom.

    Example: `ParallelContext(rank=1, size=2)` takes every second prompt, from the second on.
    """

    rank: int = 0
    """This process among those that take different prompts."""
    size: int = 1
    """How many take different prompts."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and logs."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This rank's items: every `size`-th, so that groups stay whole and no reward has to travel."""
        return items[self.rank :: self.size]

    def all_gather_list(self, items: list[Item]) -> list[Item]:
        """The items of all ranks, in rank order."""
        if self.size == 1:
            return items
        from accelerate.utils import gather_object

        everyone: list[Item] = gather_object(items)
        return everyone

    def gather_list(self, items: list[Item]) -> list[Item]:
        """The items of all ranks, in rank order, on the main process; nothing on the others."""
        if self.size == 1:
            return items
        import torch.distributed as dist

        lists: list[list[Item]] | None = [[] for _ in range(self.size)] if self.is_main else None
        dist.gather_object(items, lists, dst=0)
        return [item for found in lists or [] for item in found]

    def any(self, condition: bool) -> bool:
        """Whether the condition holds on any rank."""
        return any(self.all_gather_list([condition]))

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks."""
        if self.size == 1:
            return tensor
        from accelerate.utils import reduce

        total: torch.Tensor = reduce(tensor, reduction="sum")
        return total


def let_gloo_finish_at_exit() -> None:
    """Let the communication threads finish before the interpreter does; for a run of several processes.

    gloo's thread lets go of a collective's tensors a moment after the collective has returned, and needs the
    interpreter's lock for it. Where the interpreter is ending by then, the process aborts (signal 6) after its work
    is done and saved, and the launcher reports a run that succeeded as failed.
    """
    atexit.unregister(_rest)
    atexit.register(_rest)


def _rest() -> None:
    time.sleep(_REST_SECONDS)  # gives up the lock: all the threads wait for
