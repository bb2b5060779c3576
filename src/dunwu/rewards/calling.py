"""One call of one reward function: with the arguments it wants, in a thread that may be left behind.

What it is: what `runner` needs to call sync and async functions under a time-out, also inside a running event loop
(Jupyter). What it is not: an isolation from the function: a thread cannot be killed; see `runner`.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from dunwu.core.protocols import RewardFunction

__all__ = ["Failure", "Plug", "attempt", "attempt_together"]

Kind: TypeAlias = Literal["length", "nan", "exception", "timeout", "type"]
Rows: TypeAlias = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call or a row has no value.

    Example: `Failure("exception", "ZeroDivisionError: division by zero", 3, error)`
    """

    kind: Kind
    """As in `RewardFailure`."""
    detail: str
    """The exception's text, what was returned, …"""
    row: int | None = None
    """Which row of the call, None for all of them."""
    cause: Exception | None = None
    """The exception itself, to be chained."""

    def at(self, row: int) -> Failure:
        """The same on a known row."""
        return replace(self, row=row)

    def but(self, words: str) -> Failure:
        """The same with more to say."""
        return replace(self, detail=self.detail + words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plug:
    """A reward function and what there is to know about calling it.

    Example: `Plug.of(reward_len, taken=[])` has the name `reward_len` and wants every column.
    """

    name: str
    """Unique in its runner."""
    function: RewardFunction
    """The function itself."""
    is_async: bool
    """Whether calling it gives a coroutine."""
    wants: frozenset[str] | None
    """Arguments it takes; None for all."""
    needs: frozenset[str]
    """Arguments it cannot do without."""

    @classmethod
    def of(cls, function: RewardFunction, taken: Sequence[str]) -> Plug:
        """Look at `function`; raises `ValueError` where it cannot be called."""
        if not callable(function):
            raise ValueError(f"A reward must be a function or an object with __call__; got {function!r:.100}.")
        named = inner = function
        while isinstance(inner, functools.partial):
            inner = inner.func
            named = named if hasattr(named, "__name__") else inner  # a partial may have been given a name of its own
        base = str(getattr(named, "__name__", type(named).__name__))
        wants, needs = _parameters(function)
        asynchronous = any(map(inspect.iscoroutinefunction, (inner, getattr(inner, "__call__", None))))  # noqa: B004
        return cls(name=_unique(base, taken), function=function, is_async=asynchronous, wants=wants, needs=needs)

    def check(self, rows: Rows) -> None:
        """Raise `ValueError` where an argument that the function needs is not there."""
        missing = sorted(self.needs - rows.keys())
        if missing:
            raise ValueError(
                f"Reward function {self.name!r} needs {missing}; there are {sorted(rows)}. "
                f"Give the dataset such a column, or the argument a default."
            )

    def __call__(self, rows: Rows) -> Any:
        """Call the function with what it takes; it gets lists of its own, so that none can spoil another's."""
        return self.function(**{k: list(v) for k, v in rows.items() if self.wants is None or k in self.wants})


def attempt(plug: Plug, rows: Rows, seconds: float | None) -> Any:
    """What the function returns, or a `Failure`."""

    def work() -> Any:
        returned = plug(rows)
        return asyncio.run(_awaited(returned)) if inspect.isawaitable(returned) else returned

    try:
        # An async function needs a thread in any case: this one may have an event loop already.
        return work() if seconds is None and not plug.is_async else _in_thread(work, seconds)
    except _LeftBehind:
        return _timed_out(seconds)
    except Exception as error:  # whatever a user's function raises is to be named with its row, not to pass for ours
        return _raised(error)


def attempt_together(plugs: Sequence[Plug], rows: Rows, seconds: float | None) -> dict[str, Any]:
    """What each async function returns, or a `Failure`, by name; all of them run at the same time in one event loop.

    One that blocks the loop (sync work inside `async def`) holds up the others: those left then run one by one.
    """
    results = dict[str, Any]()

    async def one(plug: Plug) -> None:
        results[plug.name] = await _attempt_async(plug, rows, seconds)

    async def everyone() -> None:
        await asyncio.gather(*map(one, plugs))

    if plugs:
        try:
            _in_thread(lambda: asyncio.run(everyone()), None if seconds is None else 1.1 * seconds + 0.1)
        except _LeftBehind:
            done = dict(results)  # the thread left behind may still write into the other one
            return done | {p.name: attempt(p, rows, seconds) for p in plugs if p.name not in done}
    return results


async def _attempt_async(plug: Plug, rows: Rows, seconds: float | None) -> Any:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await plug(rows)
    except Exception as error:  # as in `attempt`
        return _timed_out(seconds) if limit.expired() else _raised(error)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


class _LeftBehind(Exception):
    """The thread did not end in time."""


def _in_thread(work: Callable[[], Any], seconds: float | None) -> Any:
    """`work()` in a daemon thread (one that does not keep the process alive), waited for so many seconds."""
    returned, raised = list[Any](), list[BaseException]()

    def run() -> None:
        try:
            returned.append(work())
        except BaseException as error:  # also SystemExit: it belongs to the thread that waits, not to this one
            raised.append(error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(run,), name="dunwu-reward", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise _LeftBehind
    if raised:
        raise raised[0]
    return returned[0]


def _timed_out(seconds: float | None) -> Failure:
    return Failure("timeout", f"no answer within {seconds:g} s" if seconds is not None else "no answer")


def _raised(error: Exception) -> Failure:
    return Failure("exception", f"{type(error).__name__}: {error}", cause=error)


def _unique(base: str, taken: Sequence[str]) -> str:
    name, count = base, 2
    while name in taken:
        name, count = f"{base}_{count}", count + 1
    return name


def _parameters(function: RewardFunction) -> tuple[frozenset[str] | None, frozenset[str]]:
    """(accepted names, None for all; names without a default)."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some callables written in C do not tell
        return None, frozenset()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    needs = frozenset(p.name for p in named if p.default is p.empty)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None, needs
    return frozenset(p.name for p in named), needs
