"""Completions that a run kept: found by step, row, text, reward. Files of millions of lines are read as a stream."""

from __future__ import annotations

import heapq
import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from dunwu._utils.suggest import did_you_mean
from dunwu.errors import ConfigError
from dunwu.reports.logged_completion import LoggedCompletion
from dunwu.reports.run_folder import RunFolder

__all__ = [
    "Bound",
    "Matches",
    "RolloutQuery",
    "RolloutSource",
    "SortKey",
    "StepChoice",
    "find_completions",
    "find_group",
    "parse_bound",
]

RolloutSource: TypeAlias = Literal["training", "during", "before", "after"]
"""Which file: the rollouts that were trained on; of evaluations during training; of those before and after it."""
StepChoice: TypeAlias = int | Literal["first", "last", "all"]
"""Which step's completions."""
SortKey: TypeAlias = Literal["reward", "tokens", "advantage"]
"""What completions are sorted by, highest first."""

_FILES: dict[RolloutSource, str] = {
    "training": "rollouts.jsonl",
    "during": "rollouts_eval.jsonl",
    "before": "evaluation_before.jsonl",
    "after": "evaluation_after.jsonl",
}
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
    "": operator.eq,
}
_BEGINNING = re.compile(rb'\{"step": (\d+), "row": (\d+),')
"""How a line of `rollouts.jsonl` begins: read without its JSON, which is most of a line's cost."""
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A condition on a number.

    Example: `Bound(relation="<", limit=0.5).holds(0.3)` is `True`.
    """

    relation: str
    """`<`, `<=`, `>`, `>=`, `=` or `!=`."""
    limit: float
    """What is compared with."""

    def holds(self, value: float | None) -> bool:
        """Whether a value meets it; one that is not there does not."""
        return value is not None and _OPERATORS[self.relation](value, self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutQuery:
    """Which completions are wanted.

    Example: `RolloutQuery(step="last", reward=Bound(relation="<", limit=0.5), sort="tokens", limit=20)`
    """

    source: RolloutSource = "training"
    """Which file."""
    step: StepChoice = "last"
    """Which step; evaluations before and after have none."""
    row: int | None = None
    """Which prompt."""
    prompt: str = ""
    """What the prompt contains, in any case of letters."""
    text: str = ""
    """What the completion contains, in any case of letters."""
    reward: Bound | None = None
    """On the reward."""
    scores: Mapping[str, Bound] = field(default_factory=dict)
    """On single reward functions."""
    cut: bool | None = None
    """Cut at the token limit, or not."""
    right: bool | None = None
    """Right, or wrong, by the task's strict grade."""
    sort: SortKey | None = None
    """Highest first; None: as in the file."""
    reverse: bool = False
    """Lowest first instead."""
    limit: int = 0
    """At most so many; 0: all."""

    def holds(self, one: LoggedCompletion) -> bool:
        """Whether a completion of the right step meets all conditions."""
        return all(
            (
                self.row is None or one.row == self.row,
                self.prompt.casefold() in one.prompt.casefold(),
                self.text.casefold() in one.text.casefold(),
                self.reward is None or self.reward.holds(one.reward),
                all(bound.holds(one.scores.get(name)) for name, bound in self.scores.items()),
                self.cut is None or one.is_cut == self.cut,
                self.right is None or one.is_right == self.right,
            )
        )


class Matches:
    """Iterates over the completions that were asked for, and counts on the way."""

    def __init__(self, run: RunFolder, query: RolloutQuery) -> None:
        self.query = query
        self.looked_at = 0
        self.found = 0
        self._lines = _lines_of_step(_file(run, query.source), query)

    def __iter__(self) -> Iterator[LoggedCompletion]:
        if self.query.sort is not None:
            yield from self._sorted()
            return
        for one in self._all():
            if not self.query.limit or self.found <= self.query.limit:
                yield one

    def _all(self) -> Iterator[LoggedCompletion]:
        for one in self._lines:
            if not self.looked_at:
                _check_names(one, self.query)
            self.looked_at += 1
            if self.query.holds(one):
                self.found += 1
                yield one

    def _sorted(self) -> Sequence[LoggedCompletion]:
        keyed = ((self._key(one), -place, one) for place, one in enumerate(self._all()))
        if not self.query.limit:
            return [one for _, _, one in sorted(keyed, key=_order, reverse=True)]
        return [one for _, _, one in heapq.nlargest(self.query.limit, keyed, key=_order)]

    def _key(self, one: LoggedCompletion) -> float:
        value = getattr(one, str(self.query.sort))
        if value is None:
            return -math.inf  # last in both orders
        return -float(value) if self.query.reverse else float(value)


def _order(keyed: tuple[float, int, LoggedCompletion]) -> tuple[float, int]:
    return keyed[:2]


def find_completions(run: RunFolder, query: RolloutQuery) -> Matches:
    """The completions that meet the query.

    Raises:
        ConfigError: when the run has no such file or step, or no reward function of a name that is asked for. What
            depends on the file's content is raised by the iteration.
    """
    return Matches(run, query)


def find_group(run: RunFolder, row: int, source: RolloutSource, step: StepChoice | None) -> list[LoggedCompletion]:
    """All completions to one prompt at a step, the greedy one first, then from best- to worst-paid.

    Args:
        run: the run.
        row: the prompt's row.
        source: which file.
        step: None or `last`: the latest that has it; `first`: the first.

    Raises:
        ConfigError: when no completion to this row was kept.
    """
    wanted: StepChoice = step if isinstance(step, int) else "all"
    group: list[LoggedCompletion] = []
    for one in Matches(run, RolloutQuery(source=source, step=wanted, row=row)):
        if group and one.step != group[0].step:
            if step == "first":
                break
            group = []
        group.append(one)
    if not group:
        place = f"step {step} of {run.path}" if isinstance(step, int) else str(run.path)
        raise ConfigError(f"{place} has no completion to row {row}; the column `row` of the table names those it has")
    return sorted(
        group, key=lambda one: (one.sample is not None, -(one.reward if one.reward is not None else -math.inf))
    )


def parse_bound(text: str) -> Bound:
    """A condition as it is typed.

    Example: `parse_bound("<0.5")` is `Bound(relation="<", limit=0.5)`, and `parse_bound("1").relation` is `"="`.

    Raises:
        ConfigError: for anything else.
    """
    match = re.fullmatch(r"\s*(<=|>=|!=|==|<|>|=|)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*", text)
    if match is None:
        raise ConfigError(f"{text!r} is no condition on a number; one reads '<0.5', '>=1' or '0'")
    relation = "=" if match[1] in ("", "==") else match[1]
    return Bound(relation=relation, limit=float(match[2]))


def _file(run: RunFolder, source: RolloutSource) -> Path:
    path = run.path / _FILES[source]
    if path.is_file():
        return path
    there = [name for name in _FILES.values() if (run.path / name).is_file()]
    if source == "training":
        if not there:
            raise ConfigError(f"{run.path} has not finished a step yet, so there are no rollouts to read")
        raise ConfigError(f"{run.path} has no {path.name}, so no rollouts can be shown")
    when = ", ".join(choice for choice, name in _FILES.items() if name in there and choice != "training")
    has = f"it has --evaluation {when}" if when else "leave --evaluation out to read the rollouts of training"
    raise ConfigError(f"{run.path} has no {path.name}; {has}")


def _lines_of_step(path: Path, query: RolloutQuery) -> Iterator[LoggedCompletion]:
    step: StepChoice = "all" if query.source in ("before", "after") else query.step
    start = _start_of_last_step(path) if step == "last" else 0
    wanted = step if isinstance(step, int) else None
    seen = False
    for line in _lines(path, start):
        at, row = _beginning(line)
        if step == "first" and wanted is None:
            wanted = at
        if wanted is not None and at is not None and at > wanted:
            break  # steps stand in order
        if wanted not in (None, at):
            continue
        seen = True
        one = None if None not in (query.row, row) and row != query.row else _parsed(line)
        if one is not None:
            yield one
    if not seen and isinstance(step, int):
        raise ConfigError(f"{path} has no completions of step {step}; it has {_span(path)}")


def _lines(path: Path, start: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        yield from file


def _beginning(line: bytes) -> tuple[int | None, int | None]:
    """Step and row of a line."""
    match = _BEGINNING.match(line)
    if match is not None and match[2]:
        return int(match[1]), int(match[2])
    one = _parsed(line)
    return (one.step, one.row) if one is not None else (None, None)


def _parsed(line: bytes) -> LoggedCompletion | None:
    """None for a line that a kill cut off."""
    try:
        entry = json.loads(line.decode("utf-8", errors="replace"))
    except ValueError:
        return None
    return LoggedCompletion(entry=entry) if isinstance(entry, dict) else None


def _step_of(line: bytes) -> int | None:
    one = _parsed(line)
    return one.step if one is not None else None


def _start_of_last_step(path: Path) -> int:
    """Where the last step's lines begin, found from the end: its completions are few among millions."""
    size = path.stat().st_size
    block = _BLOCK
    while True:
        begin = max(0, size - block)
        with path.open("rb") as file:
            file.seek(begin)
            if begin:
                begin += len(file.readline())  # the rest of a line
            lines = file.readlines()
        starts = _starts(lines, begin)
        steps = [(at, _step_of(line)) for at, line in zip(starts, lines, strict=True)]
        known = [(at, step) for at, step in steps if step is not None]
        first = next((at for at, step in known if step == known[-1][1]), 0)
        if begin == 0 or (known and first != known[0][0]):
            return first
        block *= 4


def _starts(lines: Sequence[bytes], begin: int) -> list[int]:
    starts = []
    for line in lines:
        starts.append(begin)
        begin += len(line)
    return starts


def _span(path: Path) -> str:
    first = next((step for line in _lines(path, 0) if (step := _step_of(line)) is not None), None)
    last = next(
        (step for line in _lines(path, _start_of_last_step(path)) if (step := _step_of(line)) is not None), None
    )
    return "none at all" if first is None else f"steps {first} to {last}"


def _check_names(one: LoggedCompletion, query: RolloutQuery) -> None:
    for name in query.scores:
        if name not in one.scores:
            raise ConfigError(f"this run has no reward {name!r}{did_you_mean(name, one.scores)}")
