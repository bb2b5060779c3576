"""A time limit on a call that stays in the thread it is made in.

Python cannot kill a thread, and some of what rewards use (`signal.alarm`, and math-verify, which is built on it)
works in the main thread only. So the function runs where it is called, and a watchdog interrupts it: in the main
thread by a signal, which also ends a sleep, a read or a long regular expression; in other threads, and on Windows, by
an asynchronous exception, which waits until the next line of Python.

Code in C that neither returns nor looks for signals cannot be interrupted: the watchdog logs that once each time the
limit passes, and may end the process after `LIMITS_BEFORE_EXIT` of them. Where such code keeps the interpreter's
lock as well, the watchdog itself cannot run, and the process hangs in silence. Functions that may do so belong in a
process of their own: `dunwu.rewards.sandboxed`.
"""

from __future__ import annotations

import ctypes
import inspect
import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

from dunwu._utils.logging import get_logger

__all__ = ["LIMITS_BEFORE_EXIT", "TimeLimit", "TimedOut"]

LIMITS_BEFORE_EXIT = 10
"""After so many limits a call that cannot be interrupted ends the process, where `TimeLimit.ends_process` is set."""

Result = TypeVar("Result")


class TimedOut(BaseException):
    """The limit has passed. No `Exception`, so that a reward's own `except Exception` lets it through."""


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """How long a call may take.

    Example: `TimeLimit(60.0).run(lambda: 2 + 2, "'reward_len'")` is `4`.
    """

    seconds: float | None
    """None for no limit."""
    ends_process: bool = False
    """Whether a call that cannot be interrupted ends the process at last (never in an interactive session)."""

    def run(self, work: Callable[[], Result], label: str) -> Result:
        """`work()` in this thread; `label` names it in warnings.

        Raises:
            TimedOut: where it was interrupted, even if it caught that and returned something.
        """
        if self.seconds is None:
            return work()
        interrupter = _SignalInterrupter(self.seconds) if _signals_reach_this_thread() else _ExceptionInterrupter()
        watchdog = _Watchdog(self, interrupter, label)
        try:
            value = interrupter.run(work, watchdog.start)
        finally:
            watchdog.ended.set()
        if interrupter.has_interrupted:
            raise TimedOut  # swallowed by the function: what it returned then is not its answer
        return value


class _Interrupter(ABC):
    """Runs a call and lets another thread end it by `TimedOut`."""

    def __init__(self) -> None:
        self.thread_id = threading.get_ident()
        self.frame: FrameType | None = None
        self.has_interrupted = False

    @abstractmethod
    def run(self, work: Callable[[], Result], on_start: Callable[[], None]) -> Result:
        """`work()`, after `on_start()`."""

    @abstractmethod
    def interrupt(self) -> None:
        """Called by the watchdog, again and again until the call ends."""

    def pause(self, seconds: float) -> float:
        """Seconds between two interruptions."""
        return seconds

    def is_running(self) -> bool:
        """Whether the call has not ended, whatever may have cut short the code around it (Ctrl-C)."""
        return _is_on_stack(self.frame, sys._current_frames().get(self.thread_id))


class _SignalInterrupter(_Interrupter):
    """For the main thread. It raises only while the call's own frame is on the stack, so nothing can come late.

    SIGURG wakes the thread out of system calls; it is ignored by default, so one that arrives after the handler has
    gone does no harm, and programs rarely use it (a handler of theirs is called as before). While a regular
    expression keeps the interpreter's lock, the watchdog cannot send anything: then a timer of processor time sends
    SIGVTALRM. `signal.alarm`, which is the user's, is not touched.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.deadline = seconds, time.monotonic() + seconds
        self.previous = signal.getsignal(signal.SIGURG)

    def run(self, work: Callable[[], Result], on_start: Callable[[], None]) -> Result:
        """`work()`, with the handlers in place."""
        signal.signal(signal.SIGURG, self._handle)
        try:
            with _processor_timer(self.seconds, self._handle):
                return self._call(work, on_start)
        finally:
            self.frame = None
            signal.signal(signal.SIGURG, self.previous)

    def interrupt(self) -> None:
        """Send the signal."""
        signal.pthread_kill(self.thread_id, signal.SIGURG)

    def _call(self, work: Callable[[], Result], on_start: Callable[[], None]) -> Result:
        self.frame = inspect.currentframe()
        on_start()
        return work()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() >= self.deadline and _is_on_stack(self.frame, frame):
            self.has_interrupted = True
            raise TimedOut
        if number == signal.SIGURG and callable(self.previous):
            self.previous(number, frame)


class _ExceptionInterrupter(_Interrupter):
    """For other threads: the interpreter raises `TimedOut` in the thread at its next line of Python.

    Once `_finish` is through, nothing is on its way any more: either the watchdog sees `_finished`, or this thread
    sees `_interrupting`, waits a moment and takes back what has not arrived.
    """

    def __init__(self) -> None:
        super().__init__()
        self._finished = self._interrupting = False

    def run(self, work: Callable[[], Result], on_start: Callable[[], None]) -> Result:
        """`work()`; a `TimedOut` that arrives at its very end is raised here and nowhere later."""
        try:
            try:
                self.frame = inspect.currentframe()
                on_start()
                return work()
            finally:
                self._finish()
        except TimedOut:
            self._finish()
            raise

    def interrupt(self) -> None:
        """Ask the interpreter to raise."""
        self._interrupting = True
        if not self._finished:
            self.has_interrupted = True
            _set_async_exception(self.thread_id, TimedOut)
        self._interrupting = False

    def pause(self, seconds: float) -> float:
        """Long enough for `_finish`."""
        return max(seconds, 1.0)

    def _finish(self) -> None:
        self._finished = True
        while self._interrupting:
            time.sleep(0)
        _set_async_exception(self.thread_id, None)
        self.frame = None


class _Watchdog(threading.Thread):
    """Warns when the limit has passed, interrupts the call, and goes on until it ends."""

    def __init__(self, limit: TimeLimit, interrupter: _Interrupter, label: str) -> None:
        super().__init__(name="dunwu-reward-watchdog", daemon=True)
        self.limit, self.interrupter, self.label = limit, interrupter, label
        self.ended = threading.Event()

    def run(self) -> None:
        """Until the call has ended."""
        seconds = self.limit.seconds
        assert seconds is not None
        started, limits = time.monotonic(), 0
        while not self.ended.wait(min(seconds, threading.TIMEOUT_MAX)) and self.interrupter.is_running():
            limits += 1
            self._warn(limits, time.monotonic() - started)
            self.interrupter.interrupt()
            seconds = self.interrupter.pause(seconds)

    def _warn(self, limits: int, passed: float) -> None:
        if limits == 1:
            get_logger().warning(
                "reward function %s has not returned within %g s; it is interrupted", self.label, self.limit.seconds
            )
            return
        get_logger().error(
            "reward function %s has been running for %.0f s and cannot be interrupted: it is in code that does not "
            "answer Python. Bound its work, or run it in a process of its own: dunwu.rewards.sandboxed(function)",
            self.label,
            passed,
        )
        if self.limit.ends_process and limits >= LIMITS_BEFORE_EXIT and not hasattr(sys, "ps1"):
            get_logger().error("reward function %s has hung for %d limits; this process ends", self.label, limits)
            sys.stdout.flush()
            os._exit(2)  # the main thread is stuck, so nothing gentler can end the process


def _signals_reach_this_thread() -> bool:
    return (
        threading.current_thread() is threading.main_thread()
        and all(hasattr(signal, name) for name in ("SIGURG", "SIGVTALRM", "pthread_kill", "setitimer"))
        and signal.getsignal(signal.SIGURG) is not None  # None: set by code in C, and could not be put back
    )


def _is_on_stack(wanted: FrameType | None, frame: FrameType | None) -> bool:
    while frame is not None and frame is not wanted:
        frame = frame.f_back
    return frame is not None


@contextmanager
def _processor_timer(seconds: float, handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGVTALRM after so many seconds of processor time, and then again and again; nothing where others use it."""
    unused = signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    if not unused or signal.getsignal(signal.SIGVTALRM) not in (signal.SIG_DFL, _nothing):
        yield
        return
    signal.signal(signal.SIGVTALRM, handle)
    signal.setitimer(signal.ITIMER_VIRTUAL, min(seconds, 1e6), max(min(seconds, 1e6) / 10, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, _nothing)  # the default would end the process if one is still on its way


def _nothing(number: int, frame: FrameType | None) -> None:
    """A signal that came too late."""


def _set_async_exception(thread_id: int, kind: type[BaseException] | None) -> None:
    target = ctypes.c_ulong(thread_id)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(target, None if kind is None else ctypes.py_object(kind))
