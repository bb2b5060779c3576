"""Whether a run learned anything: its held-out answers before and after, or else its reward at both ends."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dunwu._utils.language import translated
from dunwu.reports.figures import Figure, evaluation_figures, figure_label
from dunwu.reports.held_out import HeldOutScores, held_out_scores
from dunwu.reports.run_folder import RunFolder
from dunwu.reports.significance import welch_p_value
from dunwu.reports.verdict import Compared, Side, Verdict, difference_text, p_text, verdicts_on

__all__ = ["Progress", "progress_of"]

_FEWEST_STEPS = 10
_HALVES: tuple[Literal["before"], Literal["after"]] = ("before", "after")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What changed from before training to after it.

    Example: `Progress(direction="none", sentence="No change beyond noise.").prompts` is `0`.
    """

    direction: Literal["rose", "fell", "none", "unknown"]
    """Of the first figure that changed beyond noise."""
    sentence: str
    """The same in words."""
    prompts: int = 0
    """Held-out prompts that were compared; 0: none were."""


def progress_of(run: RunFolder) -> Progress:
    """By the held-out evaluations where both were made, else by the rewards of the first and the last steps."""
    before, after = (evaluation_figures(run.summary, when) for when in _HALVES)
    if before and after:
        sides = [
            Side(label="before", figures=(before,), held_out=_scores(run, "before")),
            Side(label="after", figures=(after,), held_out=_scores(run, "after")),
        ]
        verdicts = verdicts_on(sides, _compared(before, after))
        if verdicts:
            chosen = next((one for one in verdicts if one.is_beyond_noise), verdicts[0])
            return _by_verdict(chosen, before[chosen.figure], after[chosen.figure])
    return _by_rewards([entry.get("reward", math.nan) for entry in run.steps])


def _scores(run: RunFolder, when: Literal["before", "after"]) -> tuple[HeldOutScores, ...]:
    scores = held_out_scores(run, when)
    return (scores,) if any(scores.scores.values()) else ()


def _compared(before: dict[str, Figure], after: dict[str, Figure]) -> list[Compared]:
    strict: list[Compared] = ["sampled_strict", "greedy_strict"]
    is_ever_right = any(name in half and half[name].value > 0 for half in (before, after) for name in strict)
    return strict if is_ever_right or "reward" not in before else ["reward"]


def _by_verdict(verdict: Verdict, before: Figure, after: Figure) -> Progress:
    values = {
        "figure": figure_label(verdict.figure),
        "before": before.text(),
        "after": after.text(),
        "gap": difference_text(verdict.figure, verdict.gap),
        "p": p_text(verdict.p),
    }
    if not verdict.is_beyond_noise:
        text = translated("No change beyond noise: {figure}, {before} before and {after} after ({p}).", **values)
        return Progress(direction="none", sentence=text, prompts=verdict.prompts)
    if verdict.ahead == "after":
        text = translated("It learned: {figure}, rose from {before} to {after}, beyond noise ({p}).", **values)
        return Progress(direction="rose", sentence=text, prompts=verdict.prompts)
    text = translated("It got worse: {figure}, fell from {before} to {after}, beyond noise ({p}).", **values)
    return Progress(direction="fell", sentence=text, prompts=verdict.prompts)


def _by_rewards(rewards: Sequence[float]) -> Progress:
    known = [reward for reward in rewards if math.isfinite(reward)]
    if len(known) < _FEWEST_STEPS:
        return Progress(
            direction="unknown",
            sentence=translated("{n} steps are too few to say whether it learned.", n=len(known)),
        )
    size = max(_FEWEST_STEPS // 2, len(known) // 10)
    first, last = known[:size], known[-size:]
    p = welch_p_value(first, last)
    assert p is not None  # there are five values on each side
    gap = statistics.fmean(last) - statistics.fmean(first)
    values = {
        "first": f"{statistics.fmean(first):.3f}",
        "last": f"{statistics.fmean(last):.3f}",
        "n": size,
        "p": p_text(p),
    }
    if p >= 0.05:
        text = translated(
            "No change of the training reward beyond noise: {first} in the first {n} steps, "
            "{last} in the last {n} ({p}).",
            **values,
        )
        return Progress(direction="none", sentence=text)
    if gap > 0:
        text = translated(
            "The training reward rose from {first} (first {n} steps) to {last} (last {n}; {p}).", **values
        )
        return Progress(direction="rose", sentence=text)
    text = translated("The training reward fell from {first} (first {n} steps) to {last} (last {n}; {p}).", **values)
    return Progress(direction="fell", sentence=text)
