"""Processes that a script starts by `spawn` or `forkserver`: `trl` means Dunwu in them too.

Such a process begins with a fresh interpreter, reads the parent's preparation data and then imports the script again.
An object added to that data throws the switch while it is read, so before the script's `from trl import …`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from multiprocessing import spawn
from typing import Any

from dunwu.trl import options

__all__ = ["install_in_spawned_processes"]

_KEY = "dunwu_compat"


class _Switch:
    """Pickles into a call that takes over the parent's options; unpickling it imports `dunwu.compat`."""

    def __init__(self, found: options.CompatOptions) -> None:
        self._options = found

    def __reduce__(self) -> tuple[Callable[[options.CompatOptions], None], tuple[options.CompatOptions]]:
        return _take_over, (self._options,)


def _take_over(found: options.CompatOptions) -> None:
    options.set_options(
        trl_version=found.trl_version,
        batch_unit=found.batch_unit,
        resume=found.resume,
        pinned_version=found.pinned_version,
        observed=found.observed,
    )


def install_in_spawned_processes() -> None:
    """Have every process that `multiprocessing` spawns from now on install `dunwu.compat` first."""
    original = spawn.get_preparation_data

    @functools.wraps(original)
    def get_preparation_data(name: str) -> dict[str, Any]:
        return {**original(name), _KEY: _Switch(options.get_options())}

    spawn.get_preparation_data = get_preparation_data
