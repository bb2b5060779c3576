"""Ctrl-C and SIGTERM: the step that is under way is finished, everything is saved, then the run stops.

A second Ctrl-C stops at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dunwu._utils.distributed import ParallelContext, is_main_process

__all__ = ["Interruption", "RunInterrupted"]

_NOTICE = (
    "\nstopping: the step that is under way is finished, then everything is saved (Ctrl-C again stops at once)\n"
)


class RunInterrupted(KeyboardInterrupt):
    """A run was stopped by Ctrl-C or SIGTERM, and everything up to `step` is saved in `checkpoint`."""

    def __init__(self, step: int, total: int, checkpoint: str) -> None:
        super().__init__(f"stopped after step {step} of {total}; everything so far is saved in {checkpoint}")
        self.step, self.total, self.checkpoint = step, total, checkpoint


class Interruption:
    """Notes that somebody wants the run to stop.

    Args:
        parallel: the ranks; where one of them was asked, all stop after the same step.
    """

    def __init__(self, parallel: ParallelContext) -> None:
        self.parallel, self._asked = parallel, False

    @property
    def is_asked(self) -> bool:
        """Whether any rank was asked to stop; every rank must ask this at the same place."""
        return self.parallel.any(self._asked)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals; handlers of the user's, and threads that cannot have any, are left alone."""
        self._asked = False
        taken: dict[signal.Signals, object] = {}
        if threading.current_thread() is threading.main_thread():
            for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
                if signal.getsignal(number) == default:
                    taken[number] = signal.signal(number, self._note)
        try:
            yield
        finally:
            for number, handler in taken.items():
                signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self._asked and is_main_process():
            os.write(2, _NOTICE.encode())  # print may be in the middle of a line, and refuses to be entered twice
        self._asked = True
