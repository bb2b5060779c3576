"""Calls reward functions safely: nothing that goes wrong in one turns silently into a 0.

>>> runner = RewardRunner([lambda completions, **columns: [len(c) for c in completions]])
>>> runner.score(prompts=["a"], completions=["bcd"], completion_ids=[[1]], columns={}).values
((3.0,),)
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

from dunwu._utils.logging import get_logger
from dunwu.core.protocols import RewardFunction
from dunwu.core.records import RewardScores
from dunwu.errors import ConfigError, DataError, RewardError, RewardFailure, RewardFailureKind
from dunwu.rewards.call_log import CallLog, merge_extras, merge_metrics, merge_rows
from dunwu.rewards.calling import Answer, BoundReward, Call, call_async_together, call_with_timeout
from dunwu.rewards.formats import Completion, completion_text
from dunwu.rewards.time_limit import TimeLimit

__all__ = ["RewardRunner", "combine"]

_SEARCH_LIMITS = 3
"""Time limits' worth of seconds that the search for the row that fails may take, so that it always ends."""

_WARN_EVERY = 50
"""Batches in a row without any score from one warning about them to the next."""

_ADVICE: dict[RewardFailureKind, str] = {
    "length": "Return one value for each completion, in order.",
    "nan": "Return a finite number, or None where the function does not apply to the row.",
    "type": "Return a list of numbers (or None where the function does not apply to a row).",
    "exception": "Try the function on this text alone and repair it.",
    "timeout": (
        "Bound the work that it does on one text, raise reward_timeout (RewardRunner: timeout), or, where it may "
        "hang, call it in a process of its own: dunwu.rewards.sandboxed(function)."
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """What one function made of a batch.

    Example: `_Column(values=[1.0, None], failures=[], log=CallLog(metrics={"accuracy": [1.0]}))`
    """

    values: list[float | None]
    """One a completion."""
    failures: list[RewardFailure]
    """What went wrong."""
    log: CallLog = field(default_factory=CallLog)
    """What the calls behind these values logged, each once."""


class RewardRunner:
    """Reward functions with their weights, a time limit, and a rule for failures.

    Sync functions run in the calling thread, so that they may use `signal.alarm` and whatever is built on it
    (math-verify); `time_limit` tells how they are interrupted and what cannot be. Async ones run at the same time in
    one event loop, also where a loop runs already (Jupyter). Every call gets its own copies of columns and prompts.

    Where a call fails, the function is called again row by row to find the row, for at most three time limits; in
    "skip" the other rows' values are those calls'. A failure that no row alone repeats is the whole batch's.

    Functions that take them, by name or by `**kwargs`, get TRL 1.16's `log_metric(name, value)`,
    `log_extra(column, values)` and `trainer_state`. What a call logs counts where its values do, and once: what was
    logged by a call that failed or was interrupted is dropped with it. A sandboxed function gets `trainer_state` by
    name only; outside of a run it is what the function has as its default, or the state of step 0.

    Args:
        functions: one or a list of reward functions (sync, async, partials, objects with `__call__`).
        weights: one a function; default: all 1.
        timeout: seconds one call may take; None for no limit. A call that cannot be interrupted ends the process
            after ten limits where `on_error` is "raise" (not in an interactive session); with "skip" it is only
            reported once each time the limit passes.
        on_error: "raise" stops at the first failure with a `RewardError`; "skip" gives None to the rows concerned,
            counts them in `failure_counts`, returns them in `RewardScores.failures` and logs the first of each kind.
        max_failed_batches: with "skip", a function that fails on every row of so many batches in a row raises a
            `RewardError` after all (a judge that is down would train on nothing); None: never.

    Raises:
        ConfigError: for an option out of its range, or something that is no function.
    """

    def __init__(
        self,
        functions: RewardFunction | Sequence[RewardFunction],
        *,
        weights: Sequence[float] | None = None,
        timeout: float | None = 60.0,
        on_error: Literal["raise", "skip"] = "raise",
        max_failed_batches: int | None = 10,
    ) -> None:
        listed = [functions] if callable(functions) else list(functions)
        if timeout is not None and not timeout > 0:
            raise ConfigError(f"timeout must be a positive number of seconds, or None for no limit; got {timeout}")
        if on_error not in ("raise", "skip"):
            raise ConfigError(f'on_error must be "raise" or "skip"; got {on_error!r}')
        if max_failed_batches is not None and max_failed_batches < 1:
            raise ConfigError(f"max_failed_batches must be 1 or more, or None for no limit; got {max_failed_batches}")
        self._functions = _bound(listed)
        self.weights = _checked_weights(weights, len(listed))
        self.timeout = None if timeout == math.inf else timeout
        self.on_error, self.max_failed_batches = on_error, max_failed_batches
        self._limit = TimeLimit(self.timeout, ends_process=on_error == "raise")
        self.failure_counts: Counter[tuple[str, str]] = Counter()
        """(function, kind) to the number of failures so far."""
        self._failed_batches: Counter[str] = Counter()
        self._unscored_batches = 0
        self.trainer_state: Callable[[], object] | None = None
        """Gives the state of the run that these rewards are part of; its trainer sets it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the functions, unique: a name that comes twice gets `_2`."""
        return tuple(reward.name for reward in self._functions)

    def score(
        self,
        *,
        prompts: Sequence[object],
        completions: Sequence[object],
        completion_ids: Sequence[Sequence[int]],
        columns: Mapping[str, Sequence[object]],
    ) -> RewardScores:
        """Call every function on these completions.

        `prompts` and `completions` are text, or lists of messages; `columns` are the dataset's, one value a
        completion (`prompt` is not passed on). Without a completion nothing is called or checked.

        Raises:
            ConfigError: where the lengths differ, or a function needs a column that is missing.
            RewardError: where a function fails and `on_error` is "raise", or has failed on too many batches.
        """
        if not completions:
            return RewardScores(names=self.names, values=())
        own = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids}
        others = {name: values for name, values in columns.items() if name != "prompt"}
        state = None if self.trainer_state is None else self.trainer_state()
        call = Call(size=len(completions), rows=others | own, trainer_state=state)
        _check_lengths(call)
        for reward in self._functions:
            reward.check(call.rows)
        scores = self._score(call)
        self._warn_if_unscored(scores)
        return scores

    def check_columns(self, columns: Iterable[str]) -> None:
        """Raise `ConfigError` where a function needs a column that is not among these; before anything is sampled."""
        there = dict.fromkeys(("prompts", "completions", "completion_ids", *columns))
        there.pop("prompt", None)
        for reward in self._functions:
            reward.check(there)

    def total(self, scores: RewardScores) -> list[float | None]:
        """Weighted sum of each completion's values with this runner's weights; None where nothing could score it."""
        return combine(scores, self.weights)

    def _score(self, call: Call) -> RewardScores:
        answers = call_async_together([r for r in self._functions if r.is_async], call, self._limit)
        columns, failures = list[_Column](), list[RewardFailure]()
        for reward in self._functions:
            answer = answers[reward.name] if reward.is_async else call_with_timeout(reward, call, self._limit)
            column = self._examined(reward, answer, call)
            columns.append(column)
            failures += [self._report(failure, call) for failure in column.failures]
            self._count_failed_batch(reward, column.failures, call)
        logs = [column.log for column in columns]
        return RewardScores(
            names=self.names,
            values=tuple(zip(*(column.values for column in columns), strict=True)),
            failures=tuple(failures),
            metrics=merge_metrics(logs),
            extras=merge_extras(zip(self.names, logs, strict=True), call.size),
        )

    def _report(self, failure: RewardFailure, call: Call) -> RewardFailure:
        kind = (failure.function, failure.kind)
        self.failure_counts[kind] += 1
        if self.on_error == "raise":
            raise RewardError(
                f"{_sentence(failure, call)} {_ADVICE[failure.kind]} To go on without such rows, set "
                f'on_reward_error="skip" (RewardRunner: on_error).',
                replace(failure, cause=None),
            ) from failure.cause
        if self.failure_counts[kind] == 1:
            get_logger().warning(
                "%s %s Such rows get no score from it; further failures of this kind are only counted.",
                *(_sentence(failure, call), _ADVICE[failure.kind]),
            )
        return replace(failure, cause=None)

    def _count_failed_batch(self, reward: BoundReward, failures: Sequence[RewardFailure], call: Call) -> None:
        """Raise where too many batches in a row got nothing but failures from this function."""
        failed = any(f.row is None for f in failures) or len({f.row for f in failures}) == call.size
        self._failed_batches[reward.name] = self._failed_batches[reward.name] + 1 if failed else 0
        if self.max_failed_batches is None or self._failed_batches[reward.name] < self.max_failed_batches:
            return
        raise RewardError(
            f"reward function {reward.name!r} has failed on every row of {self.max_failed_batches} batches in a row. "
            f"{_sentence(failures[0], call)} {_ADVICE[failures[0].kind]}",
            replace(failures[0], cause=None),
        ) from failures[0].cause

    def _warn_if_unscored(self, scores: RewardScores) -> None:
        unscored = bool(self.names) and all(value is None for row in scores.values for value in row)
        self._unscored_batches = self._unscored_batches + 1 if unscored else 0
        if self._unscored_batches % _WARN_EVERY == 1:
            get_logger().warning(
                "no reward function scored any of the %d completions of this batch (%s): nothing is learned from it. "
                "A function gives None where it does not apply to a row; check the columns that it reads",
                *(len(scores.values), ", ".join(self.names)),
            )

    def _examined(self, reward: BoundReward, answer: Answer, call: Call) -> _Column:
        """Values and failures of one function's call; a call that failed is repeated row by row."""
        if not isinstance(answer.returned, RewardFailure):
            values, failures = _read(reward.name, answer.returned, call.size)
            return _Column(values=values, failures=failures, log=answer.log)
        if call.size == 1:
            return _Column(values=[None], failures=[replace(answer.returned, row=0)])
        return self._row_by_row(reward, answer.returned, call)

    def _row_by_row(self, reward: BoundReward, whole: RewardFailure, call: Call) -> _Column:
        values, failures, logs = list[float | None](), list[RewardFailure](), list[CallLog | None]()
        deadline = time.monotonic() + _SEARCH_LIMITS * (math.inf if self.timeout is None else self.timeout)
        for row in range(call.size):
            if time.monotonic() >= deadline or (failures and self.on_error == "raise"):
                break
            alone = call.row(row)
            column = self._examined(reward, call_with_timeout(reward, alone, self._limit, row), alone)
            values += column.values
            failures += [replace(failure, row=row) for failure in column.failures]
            logs.append(None if column.failures else column.log)
        tried = len(values)
        if not failures:  # nothing to blame but the batch: no row's value can be trusted to be the batch's
            detail = f"{whole.detail}; yet {tried} of {call.size} rows, each alone, passed"
            return _Column(values=[None] * call.size, failures=[replace(whole, detail=detail)])
        failures += [_not_tried(reward.name, row, self.timeout) for row in range(tried, call.size)]
        left = call.size - tried
        return _Column(values=values + [None] * left, failures=failures, log=merge_rows(logs + [None] * left))


def combine(scores: RewardScores, weights: Sequence[float] | None = None) -> list[float | None]:
    """Weighted sum of each row's values: None is left out, a row of nothing but None is None.

    Raises:
        ConfigError: where there is not one finite weight a function.
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
        raise ConfigError(f"{count} reward functions need {count} finite weights; got {list(weights)}")
    return tuple(float(w) for w in weights)


def _bound(functions: Sequence[RewardFunction]) -> tuple[BoundReward, ...]:
    bound = list[BoundReward]()
    for function in functions:
        bound.append(BoundReward.of(function, taken=[reward.name for reward in bound]))
    return tuple(bound)


def _check_lengths(call: Call) -> None:
    for name, values in call.rows.items():
        if len(values) != call.size:
            raise ConfigError(
                f"every argument of the rewards needs one value a completion: {name!r} has {len(values)}, there are "
                f"{call.size} completions. Repeat a prompt's columns for each of its completions"
            )


def _sentence(failure: RewardFailure, call: Call) -> str:
    """What failed where, on which text."""
    head = f"reward function {failure.function!r} failed"
    if failure.row is None:
        return f"{head} on the whole batch ({failure.kind}): {failure.detail}."
    completion = call.rows["completions"][failure.row]
    try:
        text = completion_text(cast("Completion", completion))
    except DataError:
        text = str(completion)
    return f"{head} on row {failure.row} ({failure.kind}): {failure.detail}. That completion begins {text[:80]!r}."


def _not_tried(name: str, row: int, timeout: float | None) -> RewardFailure:
    detail = f"not tried: the search stopped after {_SEARCH_LIMITS} × {timeout} s"
    return RewardFailure(function=name, row=row, kind="timeout", detail=detail)


def _read(name: str, returned: object, size: int) -> tuple[list[float | None], list[RewardFailure]]:
    """What a function returned, as floats."""

    def failure(kind: RewardFailureKind, detail: str, row: int | None = None) -> RewardFailure:
        return RewardFailure(function=name, row=row, kind=kind, detail=detail)

    listed = returned.tolist() if hasattr(returned, "tolist") else returned  # tensors and arrays
    if not isinstance(listed, list | tuple):
        return [None] * size, [failure("type", f"returned {type(returned).__name__} and not a list")]
    if len(listed) != size:
        return [None] * size, [failure("length", f"returned {len(listed)} values for {size} completions")]
    numbers = [_number(value) for value in listed]
    wrong = {row: found for row, found in enumerate(numbers) if isinstance(found, tuple)}
    failures = [failure(kind, detail, row) for row, (kind, detail) in wrong.items()]
    return [None if isinstance(number, tuple) else number for number in numbers], failures


def _number(value: object) -> float | tuple[RewardFailureKind, str] | None:
    """A value as a float, or why it is none."""
    if value is None:
        return None
    number: float | None
    try:
        number = None if isinstance(value, str | bytes) else float(value)  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several elements
        number = None
    if number is None:
        return "type", f"returned {value!r:.80} ({type(value).__name__}), which is no number"
    return number if math.isfinite(number) else ("nan", f"returned {value!r:.80}")
