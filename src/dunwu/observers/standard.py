"""The observers that every run of a recipe has, and a script's by one argument: `observers="standard"`."""

from __future__ import annotations

from collections.abc import Sequence

from dunwu.core.protocols import Observer
from dunwu.observers.console import Console
from dunwu.observers.curve_plot import CurvePlot
from dunwu.observers.findings import Findings
from dunwu.observers.metrics_log import MetricsLog
from dunwu.observers.rollout_log import RolloutLog

__all__ = ["standard_observers"]


def standard_observers(named: Sequence[Observer] = (), *, every: int = 5, notebook: bool = False) -> list[Observer]:
    """Progress, metrics, rollouts, the picture, and a sentence where something is wrong; then the observers named.

    Args:
        named: the user's own; one of these kinds takes the default's place.
        every: steps between lines on the console.
        notebook: whether progress is drawn under a notebook's cell already.
    """
    own = [observer for observer in named if isinstance(observer, MetricsLog)]
    metrics = own[0] if own else MetricsLog()
    progress: list[Observer] = [] if notebook else [Console(every=every)]
    # The log comes before who reads its entries.
    defaults = [*progress, metrics, RolloutLog(), CurvePlot(metrics=metrics), Findings()]
    missing = [one for one in defaults if one is metrics or not any(isinstance(o, type(one)) for o in named)]
    return [*missing, *(observer for observer in named if observer is not metrics)]
