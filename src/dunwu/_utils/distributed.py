"""Several processes, one run: what ranks tell each other, and how they part.

What it is: the few calls that reach other processes, each a plain function that does nothing with one process.
What it is not: a launcher or a wrapper; those are torchrun's and accelerate's.
"""

from __future__ import annotations

import atexit
import time
from typing import Any, TypeVar

__all__ = ["all_gather_list", "let_gloo_finish_at_exit"]

Item = TypeVar("Item")

_REST_SECONDS = 0.25


def all_gather_list(items: list[Item], world_size: int) -> list[Item]:
    """The items of all ranks, in rank order."""
    if world_size == 1:
        return items
    from accelerate.utils import gather_object

    everyone: list[Any] = gather_object(items)
    return everyone


def let_gloo_finish_at_exit(world_size: int) -> None:
    """Let the communication threads finish before the interpreter does.

    gloo's thread lets go of a collective's tensors a moment after the collective has returned, and needs the
    interpreter's lock for it. Where the interpreter is ending by then, the process aborts (signal 6) after its work
    is done and saved, and the launcher reports a run that succeeded as failed.
    """
    if world_size > 1:
        atexit.unregister(_rest)
        atexit.register(_rest)


def _rest() -> None:
    time.sleep(_REST_SECONDS)  # gives up the lock: all the threads wait for
