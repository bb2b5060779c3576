"""One call of one reward function: with the arguments it takes, in the calling thread, under a time limit."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from dunwu.core.protocols import RewardFunction
from dunwu.errors import ConfigError, RewardFailure
from dunwu.rewards.call_log import CallLog
from dunwu.rewards.time_limit import TimedOut, TimeLimit

__all__ = ["Answer", "BoundReward", "Call", "call_async_together", "call_with_timeout"]

Rows: TypeAlias = Mapping[str, Sequence[object]]
"""Argument name to one value a completion."""

_IMMUTABLE = frozenset({str, int, float, bool, bytes, type(None)})

_PROTOCOL = frozenset({"log_metric", "log_extra", "trainer_state"})
"""Arguments that are the run's and no column: TRL 1.16's names and meanings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The arguments of one call, whole or cut to one row.

    Example: `Call(size=1, rows={"prompts": ["2+2"], "completions": ["4"], "completion_ids": [[7]]})`
    """

    size: int
    """Number of completions."""
    rows: Rows
    """Argument name to one value a completion."""
    trainer_state: object = None
    """transformers' `TrainerState` of the run; None outside of one."""

    def row(self, index: int) -> Call:
        """The same call with one row only."""
        return replace(self, size=1, rows={name: [values[index]] for name, values in self.rows.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one call came to.

    Example: `Answer(returned=[1.0, 0.0])`
    """

    returned: object
    """What the function returned, or the `RewardFailure` in its place."""
    log: CallLog = field(default_factory=CallLog)
    """What it logged; empty where the call failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundReward:
    """A reward function and what there is to know about calling it.

    Example: `BoundReward.of(print, taken=["print"]).name` is `"print_2"`.
    """

    name: str
    """Unique in its runner."""
    function: RewardFunction
    """The function itself."""
    is_async: bool
    """Whether calling it gives a coroutine."""
    accepts: frozenset[str] | None
    """Arguments it takes; None for all."""
    requires: frozenset[str]
    """Arguments without a default."""

    @classmethod
    def of(cls, function: RewardFunction, taken: Sequence[str]) -> BoundReward:
        """Inspect `function`; `taken` are the names that others have already.

        Raises:
            ConfigError: where it cannot be called.
        """
        if not callable(function):
            raise ConfigError(f"a reward must be a function or an object with __call__, got {function!r:.100}")
        named = inner = function
        while isinstance(inner, functools.partial):
            inner = inner.func
            named = named if hasattr(named, "__name__") else inner  # a partial may have been given a name of its own
        base = str(getattr(named, "__name__", type(named).__name__))
        accepts, requires = _parameters(function)
        is_async = any(map(inspect.iscoroutinefunction, (inner, getattr(inner, "__call__", None))))  # noqa: B004
        name = _unique(base, taken)
        return cls(name=name, function=function, is_async=is_async, accepts=accepts, requires=requires)

    def check(self, columns: Mapping[str, object]) -> None:
        """Raise `ConfigError` where an argument that the function requires is missing."""
        missing = sorted(self.requires - columns.keys() - _PROTOCOL)
        if missing:
            raise ConfigError(
                f"reward function {self.name!r} needs {missing}; there are {sorted(columns)}. "
                f"Give the dataset such a column, or the argument a default"
            )

    def __call__(self, call: Call, log: CallLog) -> object:
        """Call the function with copies of what it takes: it can change neither the dataset nor its siblings."""
        columns = {n: values for n, values in call.rows.items() if n not in _PROTOCOL and self._takes(n)}
        given: dict[str, object] = {name: [_copied(value) for value in values] for name, values in columns.items()}
        return self.function(**given, **self._of_the_run(call, log))

    def _of_the_run(self, call: Call, log: CallLog) -> dict[str, object]:
        offered = {"log_metric": log.log_metric, "log_extra": log.log_extra, "trainer_state": call.trainer_state}
        if call.trainer_state is None:  # outside of a run: the function's default, or a state of step 0
            del offered["trainer_state"]
            offered |= {"trainer_state": _fresh_state()} if "trainer_state" in self.requires else {}
        return {name: value for name, value in offered.items() if self._takes(name)}

    def _takes(self, name: str) -> bool:
        return self.accepts is None or name in self.accepts


def call_with_timeout(reward: BoundReward, call: Call, limit: TimeLimit, row: int | None = None) -> Answer:
    """The function's answer, or a `RewardFailure`; `row` is its index where `call` has one row, for messages."""
    log = CallLog()  # of this call alone: what an interrupted one has logged, or still logs, goes with it

    def work() -> object:
        returned = reward(call, log)
        return _completed(returned) if inspect.isawaitable(returned) else returned

    try:
        return Answer(returned=limit.run(work, _label(reward.name, row)), log=log)
    except TimedOut:
        return Answer(returned=_timed_out(reward, limit))
    except Exception as error:  # whatever a user's function raises is to be named with its row, not to pass for ours
        return Answer(returned=_raised(reward, error))


def call_async_together(rewards: Sequence[BoundReward], call: Call, limit: TimeLimit) -> dict[str, Answer]:
    """The answer of each async function, or a `RewardFailure`, by name; all of them run at the same time in one loop.

    One that blocks the loop (sync work inside `async def`) delays the others: those left are called one by one.
    """
    results = dict[str, Answer]()

    async def one(reward: BoundReward) -> None:
        results[reward.name] = await _call_async(reward, call, limit)

    async def everyone() -> None:
        await asyncio.gather(*map(one, rewards))

    if rewards:
        later = None if limit.seconds is None else 1.1 * limit.seconds + 0.1  # each has its own limit inside the loop
        try:
            names = ", ".join(_label(reward.name) for reward in rewards)
            replace(limit, seconds=later).run(lambda: _completed(everyone()), names)
        except TimedOut:
            done = dict(results)  # a thread left behind may still write into the other one
            return done | {r.name: call_with_timeout(r, call, limit) for r in rewards if r.name not in done}
    return results


async def _call_async(reward: BoundReward, call: Call, limit: TimeLimit) -> Answer:
    timeout, log = asyncio.timeout(limit.seconds), CallLog()
    try:
        async with timeout:
            return Answer(returned=await _awaited(reward(call, log)), log=log)
    except Exception as error:  # as in `call_with_timeout`
        return Answer(returned=_timed_out(reward, limit) if timeout.expired() else _raised(reward, error))


def _completed(awaitable: object) -> object:
    """The result of a coroutine, in this thread, or in another one where this one runs an event loop (Jupyter)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run_loop(awaitable)
    return _in_thread(lambda: _run_loop(awaitable))


def _run_loop(awaitable: object) -> object:
    # With a factory the runner leaves the thread's own event loop, which a sync reward may use, as it is.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(_awaited(awaitable))


async def _awaited(awaitable: object) -> object:
    assert isinstance(awaitable, Awaitable)
    return await awaitable


def _in_thread(work: Callable[[], object]) -> object:
    """`work()` in a daemon thread (one that does not keep the process alive), left behind where a limit passes."""
    returned, raised = list[object](), list[BaseException]()

    def run() -> None:
        try:
            returned.append(work())
        except BaseException as error:  # also SystemExit: it belongs to the thread that waits, not to this one
            raised.append(error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(run,), name="dunwu-reward", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)  # short, for an asynchronous exception comes through between two joins only
    if raised:
        raise raised[0]
    return returned[0]


def _label(name: str, row: int | None = None) -> str:
    return repr(name) if row is None else f"{name!r} on row {row}"


def _timed_out(reward: BoundReward, limit: TimeLimit) -> RewardFailure:
    return RewardFailure(
        function=reward.name, row=None, kind="timeout", detail=f"no answer within {limit.seconds:g} s"
    )


def _raised(reward: BoundReward, error: Exception) -> RewardFailure:
    detail = f"{type(error).__name__}: {error}"
    return RewardFailure(function=reward.name, row=None, kind="exception", detail=detail, cause=error)


def _fresh_state() -> object:
    from transformers import TrainerState

    return TrainerState()


def _copied(value: object) -> object:
    """A copy that shares nothing that can be changed; what cannot be changed is not copied."""
    if type(value) in _IMMUTABLE:
        return value
    if type(value) is list and {*map(type, value)} <= _IMMUTABLE:
        return value.copy()
    try:
        return copy.deepcopy(value)
    except Exception:  # an open file, a lock: what cannot be copied is handed out as it is
        return value


def _unique(base: str, taken: Sequence[str]) -> str:
    name, count = base, 2
    while name in taken:
        name, count = f"{base}_{count}", count + 1
    return name


def _parameters(function: RewardFunction) -> tuple[frozenset[str] | None, frozenset[str]]:
    """(accepted names, None for all; names without a default)."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some callables written in C have no signature
        return None, frozenset()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = frozenset(p.name for p in named if p.default is p.empty)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None, required
    return frozenset(p.name for p in named), required
