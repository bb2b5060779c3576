"""`sandboxed(function)`: a reward function in a worker process, which is killed where the time limit passes.

For checkers that may hang where nothing can interrupt them. It isolates time and crashes, not rights: the process may
read and write what the user may.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import inspect
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import IO, TYPE_CHECKING, TypeAlias

from dunwu._utils.objects import import_object
from dunwu.errors import ConfigError
from dunwu.rewards.call_log import CallLog

if TYPE_CHECKING:  # it would load torch, and a worker process should start in no time
    from dunwu.core.protocols import RewardFunction

__all__ = ["SandboxedReward", "sandboxed", "serve"]

Reply: TypeAlias = tuple[object, Exception | None, CallLog]
"""What a function returned, or what it raised; and what it logged."""

_LOGGING = ("log_metric", "log_extra")
"""Arguments that write into a log of the caller's: the process has a log of its own, which travels back."""

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from dunwu.rewards.sandbox import serve; serve()"


def sandboxed(function: RewardFunction | str) -> SandboxedReward:
    """`function`, to be called in a process of its own.

    Args:
        function: one that another process can import, or its name: `package.module:function` or
            `path/to/file.py:function`. In recipes: `sandboxed(package.module:function)`.

    Raises:
        ConfigError: for a function that only this process has: a lambda, or one of the script that is running.
    """
    return SandboxedReward(function)


class SandboxedReward:
    """A reward function in a worker process: started at the first call, kept, killed when a call is interrupted.

    Arguments and values travel by pickle; what the function prints goes to standard error. What it logs is logged
    here once it has returned. It gets `trainer_state` only by name, for that loads transformers. Starting takes as
    long as importing the function's module. A process that dies (out of memory, a crash in C) makes that call fail;
    the next one starts another.
    """

    def __init__(self, function: RewardFunction | str) -> None:
        known: RewardFunction = _named(function) if isinstance(function, str) else function
        if not callable(known):
            raise ConfigError(f"sandboxed takes a function or the name of one, got {function!r:.100}")
        self._target = function if isinstance(function, str) else _pickled(function)
        self._worker: _Worker | None = None
        functools.update_wrapper(self, known, updated=())  # its name, and the arguments it takes
        self.__name__ = str(getattr(known, "__name__", type(known).__name__))
        self._takes_state = "trainer_state" in _parameters(known)

    def __call__(
        self,
        *,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[object]], None] | None = None,
        **columns: object,
    ) -> object:
        """What the function returns; raises what it raises."""
        given = {"log_metric": log_metric, "log_extra": log_extra}
        wanted = [name for name in _LOGGING if given[name] is not None]
        returned, log = self._ask(columns if self._takes_state else _without_state(columns), wanted)
        for name, values in log.metrics.items():
            for value in values:
                assert log_metric is not None
                log_metric(name, value)
        for column, logged in log.extras.items():
            assert log_extra is not None
            log_extra(column, logged)
        return returned

    def _ask(self, columns: dict[str, object], wanted: list[str]) -> tuple[object, CallLog]:
        if self._worker is None or self._worker.process.poll() is not None:
            self.close()
            self._worker = _Worker(self._target)
            self._closed = weakref.finalize(self, self._worker.close)
        try:
            returned, error, log = self._worker.ask(columns, wanted)
        except BaseException:  # the time limit, Ctrl-C, or the process is gone
            self.close()
            raise
        if error is not None:
            raise error
        return returned, log

    def close(self) -> None:
        """Kill the process."""
        if self._worker is not None:
            self._worker = None
            self._closed()


class _Worker:
    """The other process, and a thread that reads its replies."""

    def __init__(self, target: str | bytes) -> None:
        command = [sys.executable, "-c", _START, json.dumps(sys.path)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
        self.replies = queue.SimpleQueue[Reply | None]()
        self.reader = threading.Thread(target=self._read, name="dunwu-sandbox", daemon=True)
        self.reader.start()
        self._send(target)

    def ask(self, columns: dict[str, object], wanted: list[str]) -> Reply:
        """Call the function with these, and with those of `_LOGGING` that are wanted.

        Raises `RuntimeError` where the process ends before it answers.
        """
        self._send((columns, wanted))
        reply = None
        while reply is None:
            try:
                reply = self.replies.get(timeout=0.1)  # short: an asynchronous exception comes through in between
            except queue.Empty:
                continue
            if reply is None:
                raise RuntimeError(self._why_silent())
        return reply

    def close(self) -> None:
        """Kill the process and those that it has started, and wait until it is gone."""
        if self.process.poll() is None:
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        self.process.wait()
        self.reader.join(1.0)
        if self.reader.is_alive():  # a process that has left the session has the pipe open; closing it would wait
            return
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                _open(pipe).close()
            except OSError:  # something was left to be written
                continue

    def _send(self, message: object) -> None:
        pickled = pickle.dumps(message)
        try:
            _open(self.process.stdin).write(pickled)
            _open(self.process.stdin).flush()
        except OSError as error:
            raise RuntimeError(self._why_silent()) from error

    def _why_silent(self) -> str:
        try:
            return f"its process ended with exit code {self.process.wait(1)}"
        except subprocess.TimeoutExpired:
            return "what it returned cannot be read in this process; return numbers"

    def _read(self) -> None:
        try:
            while True:
                self.replies.put(pickle.load(_open(self.process.stdout)))
        except Exception:  # the end of the pipe, or what cannot be unpickled: there is no answer any more
            self.replies.put(None)


def serve() -> None:
    """The other process: take the function, then answer every message until the pipe ends."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what a reward prints must not get between the replies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    _end_with_parent()
    target, function = pickle.load(requests), None
    while True:
        try:
            columns, wanted = pickle.load(requests)
        except EOFError:
            return
        log = CallLog()
        try:
            function = function or (_named(target) if isinstance(target, str) else pickle.loads(target))
            reply = _pickled_reply(_called(function, columns | {n: getattr(log, n) for n in wanted}), None, log)
        except Exception as error:  # raised again in the parent
            reply = _pickled_reply(None, error, CallLog())
        replies.write(reply)
        replies.flush()


def _named(name: str) -> RewardFunction:
    found: RewardFunction = import_object(name, what="a reward")
    return found() if isinstance(found, type) else found


def _called(function: RewardFunction, columns: dict[str, object]) -> object:
    returned = function(**columns)
    return asyncio.run(_awaited(returned)) if inspect.isawaitable(returned) else returned


async def _awaited(awaitable: Awaitable[object]) -> object:
    return await awaitable


def _pickled_reply(returned: object, error: Exception | None, log: CallLog) -> bytes:
    try:
        reply = pickle.dumps((returned, error, log))
        pickle.loads(reply)  # some exceptions pickle and cannot be unpickled
        return reply
    except Exception as unsent:
        failure = error if error is not None else unsent
        return pickle.dumps((None, RuntimeError(f"{type(failure).__name__}: {failure}"), CallLog()))


def _parameters(function: RewardFunction) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # some callables written in C have no signature
        return {}


def _without_state(columns: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in columns.items() if name != "trainer_state"}


def _pickled(function: RewardFunction) -> bytes:
    try:
        pickled = pickle.dumps(function)
    except Exception as error:
        raise ConfigError(f"{function!r:.100} cannot be sent to another process ({error}); {_MOVE}") from error
    if b"__main__" in pickled:
        raise ConfigError(f"{function!r:.100} belongs to the script or notebook that is running; {_MOVE}")
    return pickled


_MOVE = (
    "write it into a module and import it from there, or name it: sandboxed('package.module:function') or "
    "sandboxed('path/to/file.py:function')"
)


def _end_with_parent() -> None:
    """On Linux, have the kernel kill this process when its parent ends, even by a kill -9."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
