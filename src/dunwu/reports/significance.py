"""Whether a difference is more than noise: over the same held-out prompts, over seeds, and from figures alone.

For answers to the same prompts, pairs are compared, which takes the prompts' own difficulty out (Miller, "Adding
Error Bars to Evals", arXiv 2411.00640); for settings with several seeds, Welch's t, as Colas et al. advise ("A
Hitchhiker's Guide to Statistical Comparisons of Reinforcement Learning Algorithms", arXiv 1904.06979).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

__all__ = ["holm", "paired_p_value", "student_p_value", "unpaired_p_value", "welch_p_value"]

_DRAWS = 9999


def paired_p_value(differences: Sequence[float]) -> float:
    """Probability of a mean difference at least as far from 0 if each pair's sign were a coin's (two-sided).

    Where all differences that are not 0 have one size, as with right and wrong, this is McNemar's exact test (1947);
    else 9,999 random flips of all signs are drawn (Fisher's randomization test, 1935), always the same ones.

    Example: `paired_p_value([1, 1, 1, 0, 0, -1])` is `0.625`.
    """
    changed = [difference for difference in differences if difference]
    if not changed:
        return 1.0
    sizes = {round(abs(difference), 12) for difference in changed}
    if len(sizes) == 1:
        return _binomial_p_value(sum(difference > 0 for difference in changed), len(changed))
    return _randomization_p_value(changed)


def _binomial_p_value(heads: int, tosses: int) -> float:
    tail = sum(math.comb(tosses, i) for i in range(min(heads, tosses - heads) + 1))
    return min(1.0, tail / (1 << (tosses - 1)))


def _randomization_p_value(differences: Sequence[float]) -> float:
    import numpy

    signs = numpy.random.default_rng(0).choice((-1.0, 1.0), size=(_DRAWS, len(differences)))
    sums = numpy.abs(signs @ numpy.asarray(differences, dtype=float))
    as_far = int((sums >= abs(math.fsum(differences)) - 1e-9).sum())
    return (1 + as_far) / (1 + _DRAWS)


def welch_p_value(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Probability of means at least as far apart if both settings had the same (Welch, 1947; two-sided).

    With one value on a side, that side is taken to vary like the other. Degrees of freedom are rounded down.

    Returns:
        None where there is one value on both sides.
    """
    if len(first) < 2 and len(second) < 2:
        return None
    spread_first, spread_second = _variance(first, second), _variance(second, first)
    parts = (spread_first / len(first), spread_second / len(second))
    gap = abs(statistics.fmean(first) - statistics.fmean(second))
    if sum(parts) <= 0:
        return 0.0 if gap > 1e-12 else 1.0
    if min(len(first), len(second)) < 2:
        freedom = float(max(len(first), len(second)) - 1)
    else:
        weights = parts[0] ** 2 / (len(first) - 1) + parts[1] ** 2 / (len(second) - 1)
        freedom = sum(parts) ** 2 / weights
    return student_p_value(gap / math.sqrt(sum(parts)), max(1, math.floor(freedom + 1e-9)))


def _variance(values: Sequence[float], others: Sequence[float]) -> float:
    return statistics.variance(values if len(values) > 1 else others)


def student_p_value(t: float, freedom: int) -> float:
    """Probability of |T| ≥ |t| for Student's t with whole degrees of freedom.

    Abramowitz & Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.

    Example: `round(student_p_value(2.776445, 4), 4)` is `0.05`.
    """
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for i in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * i / (i + 1)
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return max(0.0, 1.0 - inside)


def unpaired_p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """The same for two shares of which only the intervals are known.

    The interval of the difference is made of theirs (Newcombe, Statistics in Medicine 17, 1998, method 10), and the
    normal distribution tells how far 0 is from its middle.

    Args:
        first: value, lower and upper end of the 95 % interval.
        second: the same.
    """
    higher, lower = (first, second) if first[0] >= second[0] else (second, first)
    noise = math.hypot(higher[0] - higher[1], lower[2] - lower[0]) / 1.959963984540054
    gap = higher[0] - lower[0]
    return math.erfc(gap / noise / math.sqrt(2)) if noise > 0 else float(gap < 1e-12)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several comparisons, so raised that one in twenty *families* has a false alarm (Holm, 1979).

    Example: `holm([0.01, 0.04, 0.03])` is `[0.03, 0.06, 0.06]`.
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted
