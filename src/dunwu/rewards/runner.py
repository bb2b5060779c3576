"""Calls reward functions safely: nothing that goes wrong in one turns silently into a 0.

What it is: `RewardRunner`, which calls every function with the columns it wants, checks what comes back, and
names the function, the row and the reason where something is wrong; and `combine`, the weighted sum. What it
is not: a sandbox. A function that does not return is left behind in its thread: Python cannot kill a thread,
so it goes on using a processor until it ends or the process does; and code that never releases the
interpreter (one enormous regular expression, `9**9**9`) cannot be timed out this way at all. Run such
checkers in a process of their own.

    >>> runner = RewardRunner([lambda completions, **columns: [len(c) for c in completions]])
    >>> runner.score(prompts=["a"], completions=["bcd"], completion_ids=[[1]], columns={}).values
    ((3.0,),)
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from dunwu.core.protocols import RewardFunction
from dunwu.core.records import RewardScores
from dunwu.errors import RewardError, RewardFailure
from dunwu.rewards.calling import Failure, Plug, attempt, attempt_together

__all__ = ["RewardRunner", "combine"]

_PATIENCE = 3
"""Time-outs' worth of seconds that the search for the row that hangs may take, so that it always ends."""

_ADVICE: dict[str, str] = {
    "length": "Return one value for each completion, in order.",
    "nan": "Return a finite number, or None where the function does not apply to the row.",
    "type": "Return a list of numbers (or None where the function does not apply to a row).",
    "exception": "Try the function on this text alone and repair it",
    "timeout": "Bound the work that the function does on one text, or raise `timeout`",
}


def _reward_error(failure: RewardFailure, completion: str | None) -> RewardError:
    where = "on the whole batch" if failure.row is None else f"on row {failure.row}"
    text = "" if completion is None else f" That completion begins {completion[:80]!r}."
    advice = _ADVICE[failure.kind].removesuffix(".")
    return RewardError(
        f"Reward function {failure.function!r} failed {where} ({failure.kind}): {failure.detail}.{text} "
        f'{advice}. To go on without such rows, set on_error="skip".',
        failure,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """The arguments of one call, whole or cut to one row.

    Example: `_Call(size=1, rows={"prompts": ["2+2"], "completions": ["4"], "completion_ids": [[7]]})`
    """

    size: int
    """Number of completions."""
    rows: Mapping[str, Sequence[Any]]
    """Argument name to one value a completion."""

    def row(self, index: int) -> _Call:
        """The same call with one row only."""
        return _Call(size=1, rows={name: [values[index]] for name, values in self.rows.items()})


class RewardRunner:
    """Reward functions with their weights and their safety net.

    `functions`: one or a list of reward functions (sync, async, partials, objects with `__call__`).
    `weights`: one a function (default: all 1). `timeout`: seconds one call may take, in a thread of its own;
    None never stops a function, and then sync ones run in the calling thread (math-verify's own time-outs
    need that). `on_error`: "raise" stops at the first problem with a `RewardError`; "skip" gives None to the
    rows concerned, counts them in `failure_counts` and returns them in `RewardScores.failures`.

    Where a call fails, the function is called again row by row to find the row, for at most three time-outs;
    in "skip" the other rows' values are those calls'. A failure that no row alone repeats is the whole
    batch's.
    """

    def __init__(
        self,
        functions: RewardFunction | Sequence[RewardFunction],
        *,
        weights: Sequence[float] | None = None,
        timeout: float | None = 60.0,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        listed = [functions] if callable(functions) else list(functions)
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout must be a positive number of seconds, or None for no limit; got {timeout}.")
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error must be "raise" or "skip"; got {on_error!r}.')
        self._plugs = _named(listed)
        self.weights = _checked_weights(weights, len(listed))
        self.timeout = timeout
        self.on_error = on_error
        self.failure_counts: Counter[tuple[str, str]] = Counter()
        """(function, kind) to the number of problems so far."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the functions, unique: a name that comes twice gets `_2`."""
        return tuple(plug.name for plug in self._plugs)

    def score(
        self,
        *,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        columns: Mapping[str, Sequence[Any]],
    ) -> RewardScores:
        """Call every function on these completions.

        `prompts` and `completions` are text, or lists of messages; `columns` are the dataset's, one value a
        completion (`prompt` is not passed on). Raises `ValueError` where the lengths differ or a function wants a
        column that is not there, `RewardError` where one fails and `on_error` is "raise".
        """
        own = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids}
        others = {name: values for name, values in columns.items() if name != "prompt"}
        call = _Call(size=len(completions), rows=others | own)
        _check_lengths(call)
        for plug in self._plugs:
            plug.check(call.rows)
        if call.size == 0:
            return RewardScores(names=self.names, values=())
        return self._score(call)

    def check_columns(self, columns: Iterable[str]) -> None:
        """Raise `ValueError` where a function needs a column that these are without; before anything is sampled."""
        there = dict.fromkeys(("prompts", "completions", "completion_ids", *columns))
        there.pop("prompt", None)
        for plug in self._plugs:
            plug.check(cast("Mapping[str, Sequence[Any]]", there))

    def total(self, scores: RewardScores) -> list[float | None]:
        """Weighted sum of each completion's values with this runner's weights; None where nothing could score it."""
        return combine(scores, self.weights)

    def _score(self, call: _Call) -> RewardScores:
        results = attempt_together([p for p in self._plugs if p.is_async], call.rows, self.timeout)
        values, problems = list[list[float | None]](), list[RewardFailure]()
        for plug in self._plugs:
            result = results[plug.name] if plug.name in results else attempt(plug, call.rows, self.timeout)
            column, failures = self._examined(plug, result, call)
            values.append(column)
            problems += [self._report(plug, failure, call) for failure in failures]
        return RewardScores(names=self.names, values=tuple(zip(*values, strict=True)), failures=tuple(problems))

    def _report(self, plug: Plug, failure: Failure, call: _Call) -> RewardFailure:
        problem = RewardFailure(function=plug.name, row=failure.row, kind=failure.kind, detail=failure.detail)
        self.failure_counts[plug.name, failure.kind] += 1
        if self.on_error == "raise":
            raise _reward_error(problem, _beginning(call, failure.row)) from failure.cause
        return problem

    def _examined(self, plug: Plug, result: Any, call: _Call) -> tuple[list[float | None], list[Failure]]:
        """Values and failures of one function's call; a call that failed is repeated row by row."""
        if not isinstance(result, Failure):
            return _read(result, call.size)
        if call.size == 1:
            return [None], [result.at(0)]
        return self._row_by_row(plug, result, call)

    def _row_by_row(self, plug: Plug, whole: Failure, call: _Call) -> tuple[list[float | None], list[Failure]]:
        values, failures = list[float | None](), list[Failure]()
        deadline = time.monotonic() + _PATIENCE * (math.inf if self.timeout is None else self.timeout)
        for row in range(call.size):
            if time.monotonic() >= deadline:
                break
            alone = call.row(row)
            column, found = self._examined(plug, attempt(plug, alone.rows, self.timeout), alone)
            values += column
            failures += [failure.at(row) for failure in found]
            if failures and self.on_error == "raise":
                break
        tried = len(values)
        if not failures:  # nothing to blame but the batch: no row's value can be trusted to be the batch's
            return [None] * call.size, [whole.but(f"; yet {tried} of {call.size} rows, each alone, passed")]
        failures += [_not_tried(row, self.timeout) for row in range(tried, call.size)]
        return values + [None] * (call.size - tried), failures


def combine(scores: RewardScores, weights: Sequence[float] | None = None) -> list[float | None]:
    """Weighted sum of each row's values: None is left out, a row of nothing but None is None.

    Raises `ValueError` where there is not one finite weight a function.
    """
    checked = _checked_weights(weights, len(scores.names))
    return [_weighted(row, checked) for row in scores.values]


def _weighted(row: Sequence[float | None], weights: Sequence[float]) -> float | None:
    terms = [weight * value for weight, value in zip(weights, row, strict=True) if value is not None]
    return math.fsum(terms) if terms else None


def _checked_weights(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    if weights is None:
        return (1.0,) * count
    if len(weights) != count or not all(math.isfinite(w) for w in weights):
        raise ValueError(f"{count} reward functions need {count} finite weights; got {list(weights)}.")
    return tuple(float(w) for w in weights)


def _named(functions: Sequence[RewardFunction]) -> tuple[Plug, ...]:
    plugs = list[Plug]()
    for function in functions:
        plugs.append(Plug.of(function, taken=[plug.name for plug in plugs]))
    return tuple(plugs)


def _check_lengths(call: _Call) -> None:
    for name, values in call.rows.items():
        if len(values) != call.size:
            raise ValueError(
                f"Every argument of the rewards needs one value a completion: {name!r} has {len(values)}, there are "
                f"{call.size} completions. Repeat a prompt's columns for each of its completions."
            )


def _beginning(call: _Call, row: int | None) -> str | None:
    if row is None:
        return None
    completion = call.rows["completions"][row]
    return completion if isinstance(completion, str) else str(completion)


def _not_tried(row: int, timeout: float | None) -> Failure:
    return Failure("timeout", f"not tried: the search stopped after {_PATIENCE} × {timeout} s", row)


def _read(returned: Any, size: int) -> tuple[list[float | None], list[Failure]]:
    """What a function returned, as floats."""
    listed = returned.tolist() if hasattr(returned, "tolist") else returned  # tensors and arrays
    if not isinstance(listed, list | tuple):
        return [None] * size, [Failure("type", f"returned {type(returned).__name__} and not a list")]
    if len(listed) != size:
        return [None] * size, [Failure("length", f"returned {len(listed)} values for {size} completions")]
    read = [_as_float(value) for value in listed]
    failures = [value.at(row) for row, value in enumerate(read) if isinstance(value, Failure)]
    return [None if isinstance(value, Failure) else value for value in read], failures


def _as_float(value: Any) -> float | Failure | None:
    if value is None:
        return None
    try:
        number = float(value) if not isinstance(value, str | bytes) else None
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several elements
        number = None
    if number is None:
        return Failure("type", f"returned {value!r:.80} ({type(value).__name__}), which is no number")
    return number if math.isfinite(number) else Failure("nan", f"returned {value!r:.80}")
