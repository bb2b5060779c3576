"""The proof that a task's rewards can be earned: every gold answer must get the full reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dunwu.core.protocols import Task
from dunwu.core.records import Row
from dunwu.errors import ConfigError, DataError
from dunwu.rewards import RewardRunner

__all__ = ["GoldFailure", "Validation", "validate"]

TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldFailure:
    """A gold answer that fell short.

    Example: `GoldFailure(row=3, got=1.0, wanted=2.0, scores={"think_answer_format": 0.0, "equation_solves": 1.0})`
    """

    row: int
    """Index among the rows that were checked."""
    got: float
    """Sum of its rewards."""
    wanted: float
    """Sum it should have reached."""
    scores: Mapping[str, float]
    """Reward function to what it gave."""

    def sentence(self) -> str:
        """The failure as a sentence, the lowest reward first."""
        ranked = sorted(self.scores.items(), key=lambda item: item[1])
        given = ", ".join(f"{name}={value:g}" for name, value in ranked)
        lowest = ranked[0][0]
        return f"row {self.row}: the gold answer earns {self.got:g} of {self.wanted:g}; {lowest} fell short ({given})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What `validate` found.

    Example: `Validation(checked=7473, excluded=0, capped=7473, failures=())`
    """

    checked: int
    """Rows with a gold answer."""
    excluded: int
    """Rows without one: unparsable, or no solution."""
    capped: int
    """Of the checked, rows on which no text can earn `max_reward`: there the gold answer must earn the row's most."""
    failures: tuple[GoldFailure, ...]
    """Gold answers that fell short."""


def validate(task: Task, rows: Sequence[Row] | None = None, *, strict: bool = True) -> Validation:
    """Score every row's gold answer with the task's own rewards; `rows` defaults to the training split.

    A task may define `max_reward_of(row) -> float`, the most a text can earn where a faithful reward has a defect.

    Raises:
        ConfigError: with the first gold answer that falls short (unless `strict=False`: then it is in the report),
            and for a task without `max_reward`.
        DataError: where no row has a gold answer.
    """
    if task.max_reward is None:
        raise ConfigError(f"task {task.name!r} has no max_reward, so there is nothing to validate; set max_reward")
    rows = task.rows("train") if rows is None else rows
    golds = [(index, row, gold) for index, row in enumerate(rows) if (gold := task.gold_completion(row)) is not None]
    if not golds:
        raise DataError(
            f"task {task.name!r} has no gold answer in any of {len(rows)} rows, so its rewards cannot be checked; "
            "check the column and form of the answers, or give rewards of your own with max_reward=None"
        )
    scores = _score(task, [row for _, row, _ in golds], [gold for _, _, gold in golds])
    wanted = [_max_reward_of(task, row) for _, row, _ in golds]
    failures = tuple(
        GoldFailure(row=index, got=sum(score.values()), wanted=want, scores=score)
        for (index, _, _), score, want in zip(golds, scores, wanted, strict=True)
        if abs(sum(score.values()) - want) > TOLERANCE
    )
    if failures and strict:
        raise ConfigError(f"task {task.name!r}, {failures[0].sentence()}; repair the gold answer or the reward")
    capped = sum(want < task.max_reward - TOLERANCE for want in wanted)
    return Validation(checked=len(golds), excluded=len(rows) - len(golds), capped=capped, failures=failures)


def _max_reward_of(task: Task, row: Row) -> float:
    most: Callable[[Row], float | None] | None = getattr(task, "max_reward_of", None)
    wanted = task.max_reward if most is None else most(row)
    assert wanted is not None
    return float(wanted)


def _score(task: Task, rows: list[Row], golds: list[str]) -> list[dict[str, float]]:
    """What each reward function gives to each gold answer; None (does not apply) counts 0."""
    prompts = [task.prompt(row) for row in rows]
    scores = RewardRunner(list(task.rewards)).score(
        prompts=prompts,
        completions=[
            gold if isinstance(prompt, str) else [{"role": "assistant", "content": gold}]
            for prompt, gold in zip(prompts, golds, strict=True)
        ],
        completion_ids=[[] for _ in rows],
        columns={name: [row.get(name) for row in rows] for name in rows[0]},
    )
    return [dict(zip(scores.names, (v or 0.0 for v in values), strict=True)) for values in scores.values]
