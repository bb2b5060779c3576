"""What a reward function logs beside its values: TRL 1.16's `log_metric` and `log_extra`.

Each call of a function writes into a log of its own, which counts only where the call's values do. It loads nothing
but the standard library, for the worker process of a sandboxed reward has one too.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dunwu._utils.logging import get_logger

__all__ = ["CallLog", "merge_extras", "merge_metrics", "merge_rows"]


@dataclass(kw_only=True)
class CallLog:
    """What one call of a reward function logged.

    Example: `CallLog(metrics={"accuracy": [0.25]}, extras={"parsed": ["1/3", None, "2", "2"]})`
    """

    metrics: dict[str, list[float]] = field(default_factory=dict)
    """Name to the values logged under it, to be averaged."""
    extras: dict[str, list[object]] = field(default_factory=dict)
    """Column to its values, one a completion."""

    def log_metric(self, name: str, value: float) -> None:
        """Log a number of this batch; what a step's calls log under one name is averaged, over all ranks.

        Raises:
            TypeError: for a value that is no number.
        """
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor of several elements
            raise TypeError(f"log_metric({name!r}, {value!r:.80}): give one number") from error
        self.metrics.setdefault(str(name), []).append(number)

    def log_extra(self, column: str, values: Iterable[object]) -> None:
        """Log one value a completion, for the tables of completions; a second call adds to the column's end."""
        self.extras.setdefault(str(column), []).extend(_plain(value) for value in values)


def merge_metrics(logs: Iterable[CallLog]) -> dict[str, tuple[float, ...]]:
    """Name to all values that the functions of one batch logged."""
    found: dict[str, tuple[float, ...]] = {}
    for log in logs:
        for name, values in log.metrics.items():
            found[name] = (*found.get(name, ()), *values)
    return found


def merge_extras(logs: Iterable[tuple[str, CallLog]], size: int) -> dict[str, tuple[object, ...]]:
    """Column to one value a completion, from (function, its log) of one batch.

    A column that two functions log is the first one's; the other's is called `column (function)`. A column without
    exactly one value a completion is left out, with a warning.
    """
    found: dict[str, tuple[object, ...]] = {}
    for function, log in logs:
        for column, values in log.extras.items():
            if len(values) == size:
                found[f"{column} ({function})" if column in found else column] = tuple(values)
            else:
                get_logger().warning_once(
                    f"reward function {function!r} logs a column {column!r} with more or fewer values than there are "
                    "completions: it is left out; give log_extra one value a completion, in order"
                )
    return found


def merge_rows(rows: Sequence[CallLog | None]) -> CallLog:
    """The log of a batch that was scored by a call a row; None for a row whose call failed.

    A metric is then the mean of the rows', so that it counts once, as that of one call would.
    """
    logs = [log for log in rows if log is not None]
    metrics = {name: [statistics.fmean(values)] for name, values in merge_metrics(logs).items()}
    columns = {column: None for log in logs for column in log.extras}
    extras = {column: [_only(log, column) for log in rows] for column in columns}
    return CallLog(metrics=metrics, extras=extras)


def _only(log: CallLog | None, column: str) -> object:
    """The one value that a call with one row logged in a column."""
    values = [] if log is None else log.extras.get(column, [])
    return values[0] if len(values) == 1 else None


def _plain(value: object) -> object:
    """A value that JSON, a checkpoint and another process can hold: numbers, text, lists and dicts; else its text."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if hasattr(value, "tolist"):  # arrays and tensors
        return _plain(value.tolist())
    return str(value)
