"""What watches a run: each is an `Observer`, called at the events of a run, and changes nothing.

`Console` prints a line every few steps, `NotebookProgress` draws under the cell, `Findings` says what is wrong,
`MetricsLog` and `RolloutLog` write files, `PrintedCompletions` prints completions, and `CurvePlot` draws the run
as it goes on; `standard_observers` are those that every run should have. `draw_run`, `draw_comparison` and
`draw_curves` draw what is there already. `resolve_observer` finds an observer by name.
"""

from dunwu.observers.console import Console
from dunwu.observers.curve_plot import CurvePlot
from dunwu.observers.finding_rules import Finding
from dunwu.observers.findings import Findings
from dunwu.observers.metrics_log import MetricsLog
from dunwu.observers.notebook import NotebookProgress, in_notebook_progress
from dunwu.observers.plots import HeldOut, RunTitle, Share, draw_comparison, draw_curves, draw_run
from dunwu.observers.printed_completions import PrintedCompletions, format_completions
from dunwu.observers.registry import OBSERVERS, resolve_observer
from dunwu.observers.rollout_log import RolloutLog
from dunwu.observers.standard import standard_observers

__all__ = [
    "OBSERVERS",
    "Console",
    "CurvePlot",
    "Finding",
    "Findings",
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
    "standard_observers",
]
