"""A metric over a run as numbers to draw: finite values, a running mean, fewer points, an honest span."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Entries",
    "Floats",
    "Series",
    "change_of",
    "last_step",
    "mean_and_range",
    "reward_metrics",
    "reward_span",
    "round_ticks",
    "series_of",
    "span_from_zero",
    "thinned",
]

Entries: TypeAlias = Sequence[Mapping[str, float]]
"""One mapping a step, with `step` and the metrics, as `MetricsLog.steps`."""
Floats: TypeAlias = NDArray[np.float64]

_MOST_POINTS = 600
"""More would lie within one pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Where a metric was finite.

    Example: `Series(xs=np.array([1.0, 2.0]), ys=np.array([0.3, 0.4])).smoothed(3).ys.tolist()` is `[0.35, 0.35]`.
    """

    xs: Floats
    """Steps, or seconds."""
    ys: Floats
    """Values."""

    def __len__(self) -> int:
        return len(self.xs)

    def smoothed(self, width: int | None = None) -> Series:
        """Each value's mean with its neighbours, half of `width` on either side and fewer at the ends.

        Args:
            width: how many values, itself among them; default: a twentieth of the run.
        """
        n = len(self.ys)
        half = (n // 20 if width is None else width) // 2
        if half == 0 or n == 0:
            return self
        sums = np.concatenate([[0.0], np.cumsum(self.ys)])
        places = np.arange(n)
        low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, n)
        return Series(xs=self.xs, ys=(sums[high] - sums[low]) / (high - low))


def series_of(entries: Entries, metric: str, *, over: str = "step") -> Series:
    """One metric over the steps in which it is a finite number."""
    nothing = math.nan
    pairs = [(entry.get(over, nothing), entry.get(metric, nothing)) for entry in entries]
    found = [(x, y) for x, y in pairs if _is_finite(x) and _is_finite(y)]
    xs, ys = (np.array([pair[i] for pair in found], dtype=np.float64) for i in (0, 1))
    return Series(xs=xs, ys=ys)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def thinned(series: Series) -> Series:
    """So many points as can be seen apart: of each stretch its lowest and its highest, so that no spike is lost."""
    n = len(series)
    if n <= _MOST_POINTS:
        return series
    edges = np.linspace(0, n, _MOST_POINTS // 2 + 1).astype(int)
    kept: list[int] = []
    for start, end in pairwise(edges):
        part = series.ys[start:end]
        kept += sorted({start + int(part.argmin()), start + int(part.argmax())})
    return Series(xs=series.xs[kept], ys=series.ys[kept])


def reward_metrics(entries: Entries) -> list[str]:
    """`rewards/NAME/mean` of each function in the order of the log; the weighted sum where there is none of them."""
    names = dict.fromkeys(name for entry in _some(entries) for name in entry)
    own = [name for name in names if name.startswith("rewards/") and name.endswith("/mean")]
    return own or [name for name in ("reward",) if name in names]


def _some(entries: Entries) -> Entries:
    """Names are the same in all entries but for a few at a run's ends."""
    return [*entries[:3], *entries[-3:]]


def reward_span(runs: Sequence[Entries], metrics: Sequence[str]) -> tuple[float, float]:
    """The span of a rewards' axis: 0 to 1 where all means lie there, else from 0 and as wide as single rewards vary.

    A run whose means move by less than single rewards differ from each other thus looks flat.
    """
    low, high, low_single, high_single = 0.0, 0.0, 0.0, 0.0
    for entries in runs:
        for metric in metrics:
            means, typical = series_of(entries, metric), _typical_deviation(entries, metric)
            if len(means):
                least, most = float(means.ys.min()), float(means.ys.max())
                low, high = min(low, least), max(high, most)
                low_single, high_single = min(low_single, least - typical), max(high_single, most + typical)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return min(low, low_single) * 1.05, max(high, high_single) * 1.05


def _typical_deviation(entries: Entries, metric: str) -> float:
    """How much the rewards of a step differ from each other, in the middle of all steps."""
    name = "reward_std" if metric == "reward" else f"{metric.removesuffix('/mean')}/std"
    deviations = series_of(entries, name).ys
    return float(np.median(deviations)) if len(deviations) else 0.0


def last_step(entries: Entries) -> float:
    """The number of the last step."""
    return float(entries[-1]["step"])


def span_from_zero(series: Sequence[Series], *, headroom: float = 1.2) -> tuple[float, float]:
    """From 0 to above the largest value; a few spikes far above all others may leave the picture."""
    low, high = 0.0, 0.0
    for one in series:
        if len(one):
            smooth = one.smoothed().ys
            low = min(low, float(smooth.min()), float(np.percentile(one.ys, 2)))
            high = max(high, float(smooth.max()), float(np.percentile(one.ys, 98)))
    return (low * headroom, high * headroom) if high > low else (0.0, 1.0)


def change_of(series: Series) -> tuple[float, float, bool] | None:
    """Mean of a run's first tenth, of its last, and whether they differ by more than three standard errors.

    None for fewer than 20 steps, of which nothing can be said.
    """
    n = len(series)
    if n < 20:
        return None
    few = max(5, n // 10)
    first, last = series.ys[:few], series.ys[-few:]
    error = math.sqrt((first.var(ddof=1) + last.var(ddof=1)) / few)
    before, after = float(first.mean()), float(last.mean())
    return before, after, abs(after - before) > 3 * error


def mean_and_range(runs: Sequence[Series]) -> tuple[Series, Floats, Floats] | None:
    """Mean, lowest and highest of several runs wherever more than half of them have values.

    A run that was stopped early is left out from there on. None where there is no such stretch.
    """
    found = [run for run in runs if len(run)]
    if not found:
        return None
    needed = len(found) // 2 + 1
    start = sorted(float(run.xs[0]) for run in found)[needed - 1]
    end = sorted(float(run.xs[-1]) for run in found)[-needed]
    if start >= end:
        return None
    xs = np.linspace(start, end, _MOST_POINTS // 2)
    values = np.stack([np.interp(xs, run.xs, run.ys, left=np.nan, right=np.nan) for run in found])
    mean = Series(xs=xs, ys=np.nanmean(values, axis=0))
    return mean, np.nanmin(values, axis=0), np.nanmax(values, axis=0)


def round_ticks(last: float, *, most: int, whole: bool) -> list[float]:
    """0 and the multiples up to `last` of the smallest round number of which there are not more than `most`.

    Example: `round_ticks(330, most=3, whole=True)` is `[0.0, 100.0, 200.0, 300.0]`.
    """
    power = 10.0 ** (math.floor(math.log10(last)) - 1)
    sizes = [size * 10**more * power for more in range(3) for size in (1, 2, 5)]
    size = next(size for size in sizes if last / size < most + 1 and (size >= 1 or not whole))
    return [size * place for place in range(int(last / size + 1e-9) + 1)]
