"""How long steps take now, and how long the remaining ones will take."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

__all__ = ["StepPace", "format_duration"]

_FEW = 8
"""Steps that a trend is fitted to at least, and over which the present pace is a mean."""


class StepPace:
    """The seconds and completion lengths of the steps so far, and an estimate of what is left.

    Completions usually grow while a model learns to reason, so the mean since the start is too low. The estimate is
    the mean of the later half of the steps, times what their completion lengths predict for the rest: a straight
    line is fitted to them, followed for as many steps as it was fitted to, and level from there on, because growth
    ends at the token limit at the latest. The trend is that of lengths and not of seconds, which also include
    evaluations, checkpoints and whatever else the machine does.
    """

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._tokens: list[float] = []

    def add(self, seconds: float, tokens: float = 0.0) -> None:
        """One more step: the seconds since the one before, and its mean completion length (0: not known)."""
        self._seconds.append(seconds)
        self._tokens.append(tokens)

    @property
    def seconds_per_step(self) -> float:
        """Mean of the last few steps; 0 before the first."""
        recent = _later_half(self._seconds)[-_FEW:]
        return fmean(recent) if recent else 0.0

    def remaining(self, steps: int) -> float:
        """Seconds that `steps` more steps will take."""
        recent = _later_half(self._seconds)
        if not recent or steps <= 0:
            return 0.0
        return steps * fmean(recent) * _growth(_later_half(self._tokens), steps)


def _later_half(values: Sequence[float]) -> Sequence[float]:
    later = values[1:] or values  # the first step also measures, allocates and compiles
    return later[-max(_FEW, len(later) // 2) :]


def _growth(tokens: Sequence[float], steps: int) -> float:
    """Mean length of the next `steps` steps' completions over that of the steps given."""
    n, mean = len(tokens), fmean(tokens)
    if n < _FEW or min(tokens) <= 0:
        return 1.0
    centre = (n - 1) / 2
    slope = sum((i - centre) * (length - mean) for i, length in enumerate(tokens)) * 12 / (n * (n * n - 1))
    on_the_line = min(steps, n)
    gained = on_the_line * (on_the_line + 1) / 2 + on_the_line * (steps - on_the_line)
    expected = mean + slope * (centre + gained / steps)
    return min(max(expected / mean, 0.5), 2.0)  # a few odd steps can tilt the line


def format_duration(seconds: float) -> str:
    """Seconds as `1:02:03`, or `2:03` below an hour.

    Example: `format_duration(94.4)` is `'1:34'`.
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
