"""How long steps take now, and how long the remaining ones will take."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

__all__ = ["StepPace", "first_estimate", "format_duration", "short_duration"]

_FEW = 8
"""Steps that a trend is fitted to at least, and over which the present pace is a mean."""

_SAMPLING_SHARES = (0.25, 0.8)
"""Sampling's share of a step: about the first on a CPU with short completions, the second where they are long."""


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


def short_duration(seconds: float) -> str:
    """Seconds in at most five characters.

    Example: `[short_duration(s) for s in (94.4, 3723, 180_000)]` is `["1:34", "1h02m", "2d02h"]`.
    """
    minutes = round(seconds) // 60
    if minutes < 60:
        return format_duration(seconds)
    hours = minutes // 60
    if hours < 48:
        return f"{hours}h{minutes % 60:02}m" if hours < 10 else f"{hours}h"
    days = hours // 24
    return f"{days}d{hours % 24:02}h" if days < 10 else f"{days}d"


def first_estimate(sampling: float, steps: int) -> str:
    """How long `steps` steps may take, from the seconds until the first rollouts: a range, as its share varies.

    Example: `first_estimate(0.3, 330)` is `'about 2 to 7 minutes'`.
    """
    most, least = (sampling * steps / share for share in _SAMPLING_SHARES)
    if most < 10:
        return "a few seconds"
    if most < 100:
        return f"about {_rough(least)} to {_rough(most)} seconds"
    if most < 100 * 60:
        return f"about {_rough(least / 60)} to {_rough(most / 60)} minutes"
    return f"about {_rough(least / 3600)} to {_rough(most / 3600)} hours"


def _rough(value: float) -> int:
    return max(1, round(value)) if value < 20 else 5 * round(value / 5)
