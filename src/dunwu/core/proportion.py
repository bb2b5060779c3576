"""A proportion with what is known about its error."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Proportion", "mean_proportion"]

_Z = 1.959963984540054
"""Standard errors in a 95 % interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """A proportion with its 95 % interval by Wilson's score, which is never empty: 0 of 8 is not "0 ± 0".

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.

    Example: `str(Proportion(value=0.0, count=8))` is `"0.0 % [0.0, 32.4]"`.
    """

    value: float
    """Between 0 and 1."""
    count: float
    """Independent answers that it is the mean of; for several samples a prompt, as many as would be as certain."""

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return max(0.0, self._centre - self._half_width) if self.value > 0 else 0.0

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return min(1.0, self._centre + self._half_width) if self.value < 1 else 1.0

    @property
    def _centre(self) -> float:
        return (self.value + _Z**2 / (2 * self.count)) / (1 + _Z**2 / self.count)

    @property
    def _half_width(self) -> float:
        n, p = self.count, self.value
        return _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n)) / (1 + _Z**2 / n)

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def mean_proportion(per_prompt: Sequence[float], *, samples: int = 1) -> Proportion:
    """The mean over prompts of each prompt's own share, where samples of one prompt are not independent.

    The interval is that of p·(1 − p) / s² independent answers, s being the standard error over prompts: never fewer
    than there are prompts, nor more than there are samples.

    Args:
        per_prompt: each prompt's share of right samples, between 0 and 1.
        samples: samples a prompt.
    """
    value, prompts = statistics.fmean(per_prompt), len(per_prompt)
    variance = statistics.variance(per_prompt) / prompts if prompts > 1 else 0.0
    count = value * (1 - value) / variance if variance > 0 else float(prompts)
    return Proportion(value=value, count=min(max(count, prompts), prompts * samples))
