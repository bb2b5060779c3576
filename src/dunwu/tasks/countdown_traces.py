"""How sound a Countdown thought is, apart from any reward.

Pure functions that read the trials of a thought and count what is right in them: reward and length can rise while
checking gets worse, and these shares show it. They are no reward, and do not look at the answer.

    >>> read_thought("<think>17-14=3, 17-3=14 no\\n17-14=3, 17*3=51 yes\\n</think>\\n<answer>17*(17-14)</answer>", 51)
    Thought(trials=2, arithmetic_right=2, verdicts_right=2, repeats=0)

A trial is a line with at least one `a+b=c` (also `-`, `*`, `/`), and ends with its verdict, `yes` or `no`. A line
that the token limit cut is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from dunwu.rewards.text import thought

__all__ = ["Thought", "ThoughtSummary", "read_thought", "summarise"]

_STEP = re.compile(r"(?<![\d.])(\d{1,9}) ?([-+*/]) ?(\d{1,9}) ?= ?(-?\d{1,18})(?![\d.])")
_VERDICT = re.compile(r" (yes|no)[ .]*$")


@dataclass(frozen=True, slots=True)
class Thought:
    """Counts over one thought.

    Example: `Thought(trials=4, arithmetic_right=4, verdicts_right=3, repeats=1)`
    """

    trials: int
    """Lines with a calculation."""
    arithmetic_right: int
    """Trials in which every calculation is right."""
    verdicts_right: int
    """Trials that end with `yes` where their last result, as written, is the target, and with `no` elsewhere."""
    repeats: int
    """Trials that an earlier line of the same thought has already made."""


@dataclass(frozen=True, slots=True)
class ThoughtSummary:
    """The counts of many completions, as shares of all trials (0 to 1); None where there was no trial.

    Example: `ThoughtSummary(completions=500, trials=4.1, arithmetic_right=0.97, verdicts_right=0.99, repeats=0.05)`
    """

    completions: int
    """How many completions were read."""
    trials: float
    """Trials a completion, on average."""
    arithmetic_right: float | None
    """Share of trials whose every calculation is right."""
    verdicts_right: float | None
    """Share of trials whose verdict fits their own result."""
    repeats: float | None
    """Share of trials made before in the same thought."""


def read_thought(text: str, target: int) -> Thought:
    """Count the trials of one completion. Its thought begins after `<think>` (or at once) and ends at `</think>`."""
    lines = (thought(text + "</think>") or "").split("\n")  # closed here where it was cut off
    if "</think>" not in text:
        lines = lines[:-1]  # the last line has no end: it may be half a calculation
    trials = [line.strip() for line in lines if _STEP.search(line)]
    return Thought(
        trials=len(trials),
        arithmetic_right=sum(_adds_up(trial) for trial in trials),
        verdicts_right=sum(_judged_right(trial, target) for trial in trials),
        repeats=len(trials) - len({tuple(_STEP.findall(trial)) for trial in trials}),
    )


def summarise(texts: Iterable[str], targets: Iterable[int]) -> ThoughtSummary:
    """Read every completion with its target and add up; raises `ValueError` where the two differ in number."""
    thoughts = [read_thought(text, target) for text, target in zip(texts, targets, strict=True)]
    trials = sum(each.trials for each in thoughts)

    def share(count: int) -> float | None:
        return count / trials if trials else None

    return ThoughtSummary(
        completions=len(thoughts),
        trials=trials / len(thoughts) if thoughts else 0.0,
        arithmetic_right=share(sum(each.arithmetic_right for each in thoughts)),
        verdicts_right=share(sum(each.verdicts_right for each in thoughts)),
        repeats=share(sum(each.repeats for each in thoughts)),
    )


def _adds_up(trial: str) -> bool:
    return all(_step_right(int(a), sign, int(b), int(c)) for a, sign, b, c in _STEP.findall(trial))


def _step_right(a: int, sign: str, b: int, c: int) -> bool:
    if sign == "/":
        return b != 0 and c * b == a
    return {"+": a + b, "-": a - b, "*": a * b}[sign] == c


def _judged_right(trial: str, target: int) -> bool:
    verdict = _VERDICT.search(trial)
    reached = int(_STEP.findall(trial)[-1][3]) == target
    return verdict is not None and (verdict[1] == "yes") is reached
