"""What watches a run: each is an `Observer`, called at the events of a run, and changes nothing.

`Console` prints a line every few steps, `NotebookProgress` draws under the cell, `Findings` says what is wrong with a
run, `MetricsLog` and `RolloutLog` write files, `PrintedCompletions` prints a few completions, and `draw_curves` draws
the metrics of a finished run. `resolve_observer` finds one by name.
"""

from dunwu.observers.console import Console
from dunwu.observers.finding_rules import Finding
from dunwu.observers.findings import Findings
from dunwu.observers.metrics_log import MetricsLog
from dunwu.observers.notebook import NotebookProgress, in_notebook_progress
from dunwu.observers.plots import draw_curves
from dunwu.observers.printed_completions import PrintedCompletions, format_completions
from dunwu.observers.registry import OBSERVERS, resolve_observer
from dunwu.observers.rollout_log import RolloutLog

__all__ = [
    "OBSERVERS",
    "Console",
    "Finding",
    "Findings",
    "MetricsLog",
    "NotebookProgress",
    "PrintedCompletions",
    "RolloutLog",
    "draw_curves",
    "format_completions",
    "in_notebook_progress",
    "resolve_observer",
]
