"""Three answers that show what a run did: better, worse, still wrong; or from its rollouts, best- and worst-paid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dunwu._utils.language import translated
from dunwu.errors import ConfigError
from dunwu.reports.logged_completion import LoggedCompletion
from dunwu.reports.rollouts import RolloutQuery, StepChoice, find_completions
from dunwu.reports.run_folder import RunFolder

__all__ = ["ShownAnswer", "three_answers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownAnswer:
    """A prompt with the model's answers to it.

    Example: `ShownAnswer(title="better", answers=(("after", LoggedCompletion(entry={"completion": "51"})),))`
    """

    title: str
    """Why it is shown."""
    answers: tuple[tuple[str, LoggedCompletion], ...]
    """When each was given, and the answer; all to one prompt."""


def three_answers(run: RunFolder) -> list[ShownAnswer]:
    """Greedy answers of the held-out evaluations; without these, completions of the first and last step."""
    pairs = _greedy_pairs(run)
    return (_by_grade(pairs) if _has_grades(pairs) else _by_reward(pairs)) if pairs else _of_rollouts(run)


def _greedy_pairs(run: RunFolder) -> list[tuple[LoggedCompletion, LoggedCompletion]]:
    before = {_prompt(entry): entry for entry in run.evaluated("before") if entry.get("sample") is None}
    return [
        (LoggedCompletion(entry=before[_prompt(entry)]), LoggedCompletion(entry=entry))
        for entry in run.evaluated("after")
        if entry.get("sample") is None and _prompt(entry) in before
    ]


def _prompt(entry: dict[str, Any]) -> tuple[object, object]:
    return entry.get("row"), entry.get("prompt")


def _has_grades(pairs: list[tuple[LoggedCompletion, LoggedCompletion]]) -> bool:
    return any(one.is_right for pair in pairs for one in pair)


def _by_grade(pairs: list[tuple[LoggedCompletion, LoggedCompletion]]) -> list[ShownAnswer]:
    wanted = (
        (translated("Better: wrong before, right now"), (False, True)),
        (translated("Worse: right before, wrong now"), (True, False)),
        (translated("Still wrong"), (False, False)),
    )
    found = []
    for title, grades in wanted:
        pair = next((pair for pair in pairs if (bool(pair[0].is_right), bool(pair[1].is_right)) == grades), None)
        if pair is not None:
            found.append(_shown(title, pair))
    return found


def _by_reward(pairs: list[tuple[LoggedCompletion, LoggedCompletion]]) -> list[ShownAnswer]:
    """For tasks that know no right answer."""
    paid = [(after.reward - before.reward, before, after) for before, after in pairs
            if before.reward is not None and after.reward is not None]  # fmt: skip
    if not paid:
        return []
    paid.sort(key=lambda one: one[0])
    (least, *worst), (most, *best) = paid[0], paid[-1]
    found = [_shown(translated("Better: its reward rose most"), (best[0], best[1]))] if most > 0 else []
    if least < 0:
        found.append(_shown(translated("Worse: its reward fell most"), (worst[0], worst[1])))
    lowest = min(paid, key=lambda one: one[2].reward or 0.0)
    return [*found, _shown(translated("Paid least of all now"), (lowest[1], lowest[2]))]


def _shown(title: str, pair: tuple[LoggedCompletion, LoggedCompletion]) -> ShownAnswer:
    return ShownAnswer(title=title, answers=((translated("before"), pair[0]), (translated("after"), pair[1])))


def _of_rollouts(run: RunFolder) -> list[ShownAnswer]:
    wanted: tuple[tuple[str, StepChoice, bool], ...] = (
        (translated("Paid best in the first step"), "first", False),
        (translated("Paid best in the last step"), "last", False),
        (translated("Paid least in the last step"), "last", True),
    )
    found = []
    for title, step, reverse in wanted:
        query = RolloutQuery(step=step, sort="reward", reverse=reverse, limit=1)
        try:
            one = next(iter(find_completions(run, query)), None)
        except ConfigError:  # this run kept no rollouts
            return []
        if one is not None:
            when = translated("step {step}", step=one.step)
            found.append(ShownAnswer(title=title, answers=((when, one),)))
    return found
