"""A verdict on two settings, in words: whether one is ahead by more than noise, and by which test."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, TypeAlias

from dunwu._utils.language import translated
from dunwu.reports.figures import Figure, figure_label
from dunwu.reports.held_out import HeldOutScores, paired_differences
from dunwu.reports.significance import holm, paired_p_value, unpaired_p_value, welch_p_value

__all__ = ["Compared", "Side", "Test", "Verdict", "difference_text", "p_text", "verdict_lines", "verdicts_on"]

Compared: TypeAlias = Literal["sampled_strict", "greedy_strict", "reward", "train/reward"]
"""The figures that verdicts are about."""

Test: TypeAlias = Literal["pairs", "intervals", "seeds"]
"""Over pairs of answers to the same prompts, over the figures' intervals, over seeds."""

_LEVEL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One setting, as far as a verdict needs it.

    Example: `Side(label="dapo", figures=({"reward": Figure(name="reward", value=1.5)},))`
    """

    label: str
    """Its name."""
    figures: tuple[Mapping[str, Figure], ...]
    """Of each of its runs."""
    held_out: tuple[HeldOutScores, ...] = ()
    """Of each of its runs; empty where there was no evaluation."""

    def values(self, name: str) -> list[float]:
        """A figure of each run that has it."""
        return [figures[name].value for figures in self.figures if name in figures]

    def mean(self, name: str) -> tuple[float, float, float] | None:
        """Value and ends of the interval, means over the runs; None where a run lacks them."""
        found = [figures.get(name) for figures in self.figures]
        triples = [(one.value, one.low, one.high) for one in found if one is not None]
        if len(triples) < len(found) or not triples or any(None in triple for triple in triples):
            return None
        value, low, high = (statistics.fmean(end or 0.0 for end in ends) for ends in zip(*triples, strict=True))
        return value, low, high


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What can be said of one figure of two settings.

    Example: `Verdict(figure="sampled_strict", ahead="a", behind="b", gap=0.062, p=0.003).sentence()` is
    `"correct, sampled: a is ahead of b by 6.2 points, beyond noise (p = 0.003)"`.
    """

    figure: Compared
    """Which figure."""
    ahead: str
    """Label of the setting with the higher value."""
    behind: str
    """Label of the other one."""
    gap: float
    """How far apart they are, 0 or more."""
    p: float
    """Probability of such a gap by chance; the larger one where two tests were made."""
    tests: tuple[Test, ...] = ()
    """The tests that were made."""
    prompts: int = 0
    """Held-out prompts whose answers were compared in pairs; 0: none were."""

    @property
    def is_beyond_noise(self) -> bool:
        """Whether p is below 0.05."""
        return self.p < _LEVEL

    def sentence(self) -> str:
        """The verdict in words."""
        values = {
            "figure": figure_label(self.figure),
            "ahead": self.ahead,
            "behind": self.behind,
            "gap": difference_text(self.figure, self.gap),
            "p": p_text(self.p),
        }
        if self.is_beyond_noise:
            return translated("{figure}: {ahead} is ahead of {behind} by {gap}, beyond noise ({p})", **values)
        return translated("{figure}: {ahead} and {behind} cannot be told apart ({gap}, {p})", **values)


def difference_text(figure: str, gap: float) -> str:
    """How far apart two values of a figure are.

    Example: `difference_text("greedy_strict", 0.062)` is `"6.2 points"`.
    """
    if Figure(name=figure, value=gap).is_share:
        return translated("{n} points", n=f"{100 * gap:.1f}")
    return f"{gap:.3f}"


def p_text(p: float) -> str:
    """A p-value with one digit, or two where it is near to the level.

    Example: `[p_text(0.0002), p_text(0.047), p_text(0.41)]` is `["p < 0.001", "p = 0.047", "p = 0.41"]`.
    """
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def verdicts_on(sides: Sequence[Side], figures: Sequence[Compared]) -> list[Verdict]:
    """A verdict for each figure and pair of settings; p-values of one figure's pairs are raised by Holm's method."""
    found: list[Verdict] = []
    for figure in figures:
        pairs = [_verdict(first, second, figure) for first, second in combinations(sides, 2)]
        made = [verdict for verdict in pairs if verdict is not None]
        raised = holm([verdict.p for verdict in made])
        found += [replace(verdict, p=p) for verdict, p in zip(made, raised, strict=True)]
    return found


def _verdict(first: Side, second: Side, figure: Compared) -> Verdict | None:
    """None where nothing is known of the noise."""
    values = first.values(figure), second.values(figure)
    if not all(values):
        return None
    differences = _differences(first, second, figure)
    gap = statistics.fmean(differences or [statistics.fmean(values[1]) - statistics.fmean(values[0])])
    p_values: dict[Test, float | None] = {
        "pairs": paired_p_value(differences) if differences else None,
        "intervals": None if differences else _by_intervals(first, second, figure),
        "seeds": welch_p_value(*values),
    }
    made = {test: p for test, p in p_values.items() if p is not None}
    if not made:
        return None
    ahead, behind = (second, first) if gap > 0 else (first, second)
    return Verdict(
        figure=figure,
        ahead=ahead.label,
        behind=behind.label,
        gap=abs(gap),
        p=max(made.values()),
        tests=tuple(made),
        prompts=len(differences),
    )


def _differences(first: Side, second: Side, figure: Compared) -> list[float]:
    if figure == "train/reward" or not first.held_out or not second.held_out:
        return []
    return list(paired_differences(first.held_out, second.held_out, figure).values())


def _by_intervals(first: Side, second: Side, figure: Compared) -> float | None:
    means = first.mean(figure), second.mean(figure)
    return unpaired_p_value(means[0], means[1]) if means[0] is not None and means[1] is not None else None


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """What the verdicts come to: a sentence for two settings, or for more of them which are ahead of which."""
    lines = []
    for figure in dict.fromkeys(verdict.figure for verdict in verdicts):
        of_it = [verdict for verdict in verdicts if verdict.figure == figure]
        lines += [of_it[0].sentence()] if len(of_it) == 1 else [_of_many(of_it)]
    return [*lines, *_how_tested(verdicts)]


def _of_many(verdicts: Sequence[Verdict]) -> str:
    behind = {verdict.behind for verdict in verdicts}
    best = next((verdict.ahead for verdict in verdicts if verdict.ahead not in behind), verdicts[0].ahead)
    others = [verdict for verdict in verdicts if verdict.ahead == best]
    beaten = [verdict.behind for verdict in others if verdict.is_beyond_noise]
    parts = [translated("{figure}: highest is {best}", figure=figure_label(verdicts[0].figure), best=best)]
    if beaten:
        parts.append(translated("beyond noise ahead of {others}", others=", ".join(beaten)))
    open_ones = [verdict.behind for verdict in others if not verdict.is_beyond_noise]
    if open_ones:
        parts.append(translated("not to be told apart from {others}", others=", ".join(open_ones)))
    return "; ".join(parts)


def _how_tested(verdicts: Sequence[Verdict]) -> list[str]:
    if not verdicts:
        return []
    most = max(verdict.prompts for verdict in verdicts)
    names: dict[Test, str] = {
        "pairs": translated("pairs of answers to the same {n} held-out prompts (sign flips; McNemar)", n=most),
        "intervals": translated("intervals of the figures (Newcombe)"),
        "seeds": translated("means over seeds (Welch's t)"),
    }
    made = [test for test in names if any(test in verdict.tests for verdict in verdicts)]
    tests = "; ".join(names[test] for test in made)
    lines = [translated("Tested by: {tests}.", tests=tests)]
    if any(len(verdict.tests) > 1 for verdict in verdicts):
        lines[0] += " " + translated("Where two tests apply, the larger p counts.")
    count = max(sum(verdict.figure == one.figure for verdict in verdicts) for one in verdicts)
    if count > 1:
        lines[0] += " " + translated("p is raised for {n} comparisons (Holm).", n=count)
    if "seeds" not in made:
        lines.append(
            translated("One run a setting: with another seed a figure may move further than the prompts' noise.")
        )
    return lines
