"""What watches a run: each is an `Observer`, called at the events of a run, and changes nothing.

`Console` prints a line every few steps, `NotebookProgress` draws under the cell, `MetricsLog` and `RolloutLog` write
files, `PrintedCompletions` prints a few completions, and `CurvePlot` draws the run as it goes on. `draw_run`,
`draw_comparison` and `draw_curves` draw what is there already. `resolve_observer` finds an observer by name.
"""

from dunwu.observers.console import Console
from dunwu.observers.curve_plot import CurvePlot
from dunwu.observers.metrics_log import MetricsLog
from dunwu.observers.notebook import NotebookProgress, in_notebook_progress
from dunwu.observers.plots import HeldOut, RunTitle, Share, draw_comparison, draw_curves, draw_run
from dunwu.observers.printed_completions import PrintedCompletions, format_completions
from dunwu.observers.registry import OBSERVERS, resolve_observer
from dunwu.observers.rollout_log import RolloutLog

__all__ = [
    "OBSERVERS",
    "Console",
    "CurvePlot",
    "HeldOut",
    "MetricsLog",
    "NotebookProgress",
    "PrintedCompletions",
    "RolloutLog",
    "RunTitle",
    "Share",
    "draw_comparison",
    "draw_curves",
    "draw_run",
    "format_completions",
    "in_notebook_progress",
    "resolve_observer",
]
