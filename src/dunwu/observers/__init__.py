"""What watches a run: each is an `Observer`, told of every step, and none changes anything.

`Console` prints a line now and then, `NotebookProgress` draws under the cell, `MetricsLog` keeps the metrics,
`RolloutLog` writes down what the model said, and `draw_curves` makes a picture of a history.
"""

from dunwu.observers.console import Console
from dunwu.observers.metrics_log import MetricsLog
from dunwu.observers.notebook import NotebookProgress, show_in_notebook
from dunwu.observers.plots import draw_curves
from dunwu.observers.rollout_log import RolloutLog

__all__ = ["Console", "MetricsLog", "NotebookProgress", "RolloutLog", "draw_curves", "show_in_notebook"]


from typing import Any  # TEMPORARY
from dunwu.core.protocols import Observer


def resolve_observer(o: Any) -> Any:
    return o


class PrintedCompletions(Observer):
    def __init__(self, count: int, *, every: int = 1) -> None: ...
