"""Accuracy on held-out prompts as a picture shows it: shares with their intervals, and whether they differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["HeldOut", "Share", "first_and_last", "is_beyond_noise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share with its 95 % interval.

    Example: `Share(value=0.62, low=0.6, high=0.64)`
    """

    value: float
    """Between 0 and 1."""
    low: float | None = None
    """Lower end of the interval; None where it is not known."""
    high: float | None = None
    """Upper end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Accuracy on held-out prompts after some step.

    Example: `HeldOut(step=330, greedy=Share(value=0.72, low=0.68, high=0.76), sampled=Share(value=0.62))`
    """

    step: float
    """Optimizer steps finished; 0 before training."""
    greedy: Share | None = None
    """Of greedy completions; None where there were none."""
    sampled: Share | None = None
    """Of sampled completions."""


def first_and_last(held_out: Sequence[HeldOut], kind: str) -> tuple[Share, Share] | None:
    """The shares of the first and the last evaluation, by step; None where there are no two.

    Args:
        held_out: in any order.
        kind: `greedy` or `sampled`.
    """
    ordered = sorted((one for one in held_out if getattr(one, kind) is not None), key=lambda one: one.step)
    if len(ordered) < 2 or ordered[0].step == ordered[-1].step:
        return None
    return getattr(ordered[0], kind), getattr(ordered[-1], kind)


def is_beyond_noise(before: Share, after: Share) -> bool | None:
    """Whether the 95 % interval of the difference leaves out 0; None where an interval is missing.

    The interval is made of the two shares' own ones (Newcombe, Statistics in Medicine 17, 1998, method 10).

    Example: `is_beyond_noise(Share(value=0.4, low=0.3, high=0.5), Share(value=0.5, low=0.4, high=0.6))` is `False`.
    """
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return None
    if after.value >= before.value:
        noise = math.hypot(after.value - after.low, before.high - before.value)
    else:
        noise = math.hypot(after.high - after.value, before.value - before.low)
    return abs(after.value - before.value) > noise
