"""The figures of an evaluation and of the last steps, with their intervals, as people read them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dunwu._utils.language import translated
from dunwu.core.proportion import Proportion

__all__ = ["Figure", "duration", "evaluation_figures", "figure_label", "last_steps", "shown", "training_figures"]

_KNOWN: dict[str, tuple[str, bool]] = {
    "sampled_strict": ("correct, sampled", True),
    "greedy_strict": ("correct, greedy", True),
    "sampled_lenient": ("correct anywhere, sampled", True),
    "pass@k": ("pass@k", True),
    "sampled_formatted": ("format, sampled", True),
    "sampled_cut": ("cut at the limit", True),
    "sampled_tokens": ("tokens a completion", False),
    "thought_tokens": ("tokens a thought", False),
    "trials": ("attempts a thought", False),
    "arithmetic_right": ("arithmetic correct", True),
    "verdicts_right": ("verdicts correct", True),
    "repeats": ("attempts repeated", True),
    "reward": ("reward", False),
    "reward/": ("", False),
    "train/reward": ("reward, last steps", False),
    "train/tokens": ("tokens, last steps", False),
    "train/cut": ("cut, last steps", True),
    "train/dead": ("dead groups, last steps", True),
}
"""Name of a figure to its label, and whether it is a share; in the order of tables."""

_NOT_SHOWN = frozenset(
    {"greedy", "sampled", "format", "seconds", "prompts", "samples"}
    | {"greedy_formatted", "greedy_lenient", "greedy_tokens", "greedy_cut"}
)
"""Figures of a summary that others repeat, or that say how it was measured."""
_STEPS = {
    "train/reward": "reward",
    "train/tokens": "completions/mean_length",
    "train/cut": "completions/clipped_ratio",
    "train/dead": "frac_reward_zero_std",
}
"""Figures of the last steps, and the metrics that they are means of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure, of one run or as a mean over seeds.

    Example: `Figure(name="sampled_strict", value=0.62, low=0.591, high=0.648).text()` is `"62.0 % [59.1, 64.8]"`.
    """

    name: str
    """As in `summary.json`; those of the last steps begin with `train/`."""
    value: float
    """Shares are between 0 and 1."""
    low: float | None = None
    """Lower end of the 95 % interval over prompts; None where it is not known."""
    high: float | None = None
    """Upper end."""
    deviation: float | None = None
    """Standard deviation over seeds; None for one run."""

    @property
    def is_share(self) -> bool:
        """Whether it is shown in per cent."""
        return _KNOWN[_kind(self.name)][1] if _kind(self.name) in _KNOWN else False

    def text(self, *, short: bool = False) -> str:
        """The figure with what is known of its error; `short` in at most 12 columns.

        Example: `Figure(name="sampled_strict", value=0.62, low=0.591, high=0.648).text(short=True)` is
        `"62.0 % 59–65"`.
        """
        value = f"{100 * self.value:.1f} %" if self.is_share else _number(self.value)
        if self.deviation is not None:
            spread = f"{100 * self.deviation:.1f}" if self.is_share else _number(self.deviation, like=self.value)
            return f"{value} ± {spread}"
        if self.low is None or self.high is None or not self.is_share:
            return value
        low, high = 100 * self.low, 100 * self.high
        if not short:
            return f"{value} [{low:.1f}, {high:.1f}]"
        return f"{value if self.value < 1 else '100 %'} {math.floor(low + 0.5)}–{math.floor(high + 0.5)}"


def figure_label(name: str) -> str:
    """What a figure is called in a table.

    Example: `figure_label("reward/equation_solves")` is `"reward: equation_solves"`.
    """
    kind = _kind(name)
    if kind == "pass@k":
        return translated("correct, one of {k}", k=name.removeprefix("pass@"))
    if kind == "reward/":
        return translated("reward: {name}", name=name.removeprefix("reward/"))
    if kind == "reward":
        return translated("reward")
    if kind in _KNOWN:
        return translated(_KNOWN[kind][0])
    return name.replace("_", " ")


def evaluation_figures(summary: Mapping[str, Any], when: Literal["before", "after"]) -> dict[str, Figure]:
    """What a summary says of one of its evaluations, in the order of tables; empty where there was none."""
    part = summary.get(when)
    if not isinstance(part, Mapping):
        return {}
    given = {name: float(value) for name, value in part.items() if _is_number(value)}
    for name, of_before in (("greedy_strict", "greedy"), ("sampled_strict", "sampled")):
        if of_before in given:
            given.setdefault(name, given[of_before])
    names = [name for name in given if _is_shown(name, given)]
    if summary.get("has_answers") is False:  # nothing can be right, so 0 % would say nothing
        names = [name for name in names if not name.endswith(("_strict", "_lenient")) and "@" not in name]
    ordered = sorted(names, key=_place)
    return {name: _figure(name, given) for name in ordered}


def training_figures(steps: Sequence[Mapping[str, float]]) -> dict[str, Figure]:
    """Means over the last steps: for runs without an evaluation."""
    recent = last_steps(steps)
    found = {}
    for name, metric in _STEPS.items():
        values = [entry[metric] for entry in recent if _is_number(entry.get(metric))]
        if values:
            found[name] = Figure(name=name, value=statistics.fmean(values))
    return found


def shown(tables: Sequence[Mapping[str, Figure]]) -> list[str]:
    """Names of the figures that a table needs: those of the last steps only where an evaluation is missing."""
    names = list(dict.fromkeys(name for one in tables for name in one))
    if all(any(not name.startswith("train/") for name in one) for one in tables):
        names = [name for name in names if not name.startswith("train/")]
    strict, lenient = ([one.get(f"sampled_{kind}") for one in tables] for kind in ("strict", "lenient"))
    if [one and one.value for one in strict] == [one and one.value for one in lenient]:
        names = [name for name in names if name != "sampled_lenient"]
    return sorted(names, key=_place)


def last_steps(steps: Sequence[Mapping[str, float]]) -> Sequence[Mapping[str, float]]:
    """The last fifth of a run, 20 steps at most."""
    return steps[-max(1, min(20, len(steps) // 5)) :] if steps else steps


def duration(seconds: float) -> str:
    """Seconds as one would say them.

    Example: `[duration(48.2), duration(132), duration(5040)]` is `['48 s', '2.2 min', '1.4 h']`.
    """
    if seconds < 60:
        return translated("{n} s", n=f"{seconds:.0f}")
    if seconds < 3600:
        return translated("{n} min", n=f"{seconds / 60:.1f}")
    return translated("{n} h", n=f"{seconds / 3600:.1f}")


def _figure(name: str, given: Mapping[str, float]) -> Figure:
    value, low, high = given[name], given.get(f"{name}_low"), given.get(f"{name}_high")
    if low is None and f"{name}_error" in given:  # a summary of before Wilson's intervals
        error, prompts = given[f"{name}_error"], given.get("prompts", 0.0)
        if error > 0:
            low, high = max(0.0, value - 1.96 * error), min(1.0, value + 1.96 * error)
        elif prompts >= 1:
            share = Proportion(value=value, count=prompts)
            low, high = share.low, share.high
    return Figure(name=name, value=value, low=low, high=high)


def _is_shown(name: str, given: Mapping[str, float]) -> bool:
    if (
        name in _NOT_SHOWN
        or name.startswith("greedy_reward")
        or any(name.endswith(end) and name.removesuffix(end) in given for end in ("_low", "_high", "_error"))
    ):
        return False
    if name.startswith("pass@"):
        ks = [int(other[5:]) for other in given if other.startswith("pass@") and other[5:].isdigit()]
        return name == f"pass@{max(ks, default=0)}" and max(ks) > 1
    return True


def _place(name: str) -> int:
    kind = _kind(name)
    return list(_KNOWN).index(kind) if kind in _KNOWN else len(_KNOWN)


def _kind(name: str) -> str:
    """The entry in `_KNOWN` that a figure of many names belongs to."""
    return "pass@k" if name.startswith("pass@") else "reward/" if name.startswith("reward/") else name


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: float, *, like: float | None = None) -> str:
    """One decimal of what is large, three of what is small; as many as of the number that it stands beside."""
    return f"{value:.1f}" if abs(value if like is None else like) >= 10 else f"{value:.3f}"
