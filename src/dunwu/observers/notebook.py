"""Progress in a notebook: a bar and a table of the latest steps, drawn anew under the cell.

It replaces transformers' own table, whose one column, the training loss, is uninformative in GRPO: that loss starts
at 0 in every step by construction.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import Protocol

from dunwu._utils.language import marked, translated
from dunwu.core.protocols import Observer
from dunwu.core.records import Group, RunInfo, StepResult
from dunwu.observers.console import evaluation_line
from dunwu.observers.pace import StepPace, first_estimate, format_duration
from dunwu.observers.progress_table import reward_means, short_names

__all__ = ["NotebookProgress", "in_notebook_progress"]

_COLUMNS = {
    "reward": (marked("reward"), "{:.3f}"),
    "reward_std": (marked("reward std"), "{:.3f}"),
    "completions/mean_length": (marked("tokens"), "{:.1f}"),
    "frac_reward_zero_std": (marked("dead groups"), "{:.0%}"),
    "completions/clipped_ratio": (marked("cut"), "{:.0%}"),
    "grad_norm": (marked("grad norm"), "{:.3f}"),
    "step_time": (marked("s/step"), "{:.2f}"),
}
"""Metric to heading and format, in this order; each reward's own mean comes after `reward std`."""
_AFTER = "reward_std"
_REDRAW_SECONDS = 0.2
_CELL = 'style="text-align:right;padding:2px 6px"'
_HEAD = (
    'style="text-align:right;padding:2px 6px;max-width:76px;white-space:normal;overflow-wrap:anywhere;'
    'vertical-align:bottom"'
)
"""Headings wrap, so that the table with four rewards fits into a cell of 900 pixels."""


class _Handle(Protocol):
    """IPython's handle of something displayed, which can be replaced."""

    def update(self, page: object) -> None: ...


def in_notebook_progress(callbacks: Iterable[object]) -> bool:
    """Whether transformers is showing its notebook progress: it alone decides what counts as a notebook.

    With `disable_tqdm=True` it shows none.
    """
    return any(type(callback).__name__ == "NotebookProgressCallback" for callback in callbacks)


class NotebookProgress(Observer):
    """Shows steps, time, a table of the last steps and the latest evaluations.

    Args:
        rows: steps in the table, the last ones.
    """

    def __init__(self, *, rows: int = 10) -> None:
        self.rows = rows
        self._total = self._done = 0
        self._pace = StepPace()
        self._steps: list[tuple[int, Mapping[str, float]]] = []
        self._evaluations: list[str] = []
        self._began = self._last = monotonic()
        self._drawn = 0.0
        self._left = ""
        self._handle: _Handle | None = None

    def on_run_start(self, run: RunInfo) -> None:
        """An empty bar while the first step is under way."""
        self._total, self._done, self._pace = run.total_steps, run.resumed_from, StepPace()
        self._steps, self._evaluations, self._handle = [], [], None
        self._began = self._last = monotonic()
        self._left = translated("the first step is under way")
        self._draw()

    def on_rollouts(self, step: int, groups: Sequence[Group]) -> None:
        """With the first rollouts, how long the run may take."""
        if not self._steps and self._total - self._done > 1:
            estimate = first_estimate(monotonic() - self._last, self._total - self._done)
            self._left = translated(f"{estimate} in all")
            self._draw()

    def on_step(self, step: StepResult) -> None:
        """One step more in bar and table."""
        now = monotonic()
        self._pace.add(now - self._last, step.metrics.get("completions/mean_length", 0.0))
        self._last, self._done = now, step.index
        self._steps.append((step.index, dict(step.metrics)))
        del self._steps[: -self.rows]
        if now - self._drawn >= _REDRAW_SECONDS:
            self._draw()

    def on_evaluation(self, step: int, metrics: Mapping[str, float], groups: Sequence[Group]) -> None:
        """A line with the held-out rewards."""
        line = evaluation_line(step, metrics)
        if line:
            self._evaluations.append(line)
            self._draw()

    def on_run_end(self) -> None:
        """Draw the last step, which the limit on redrawing may have left out."""
        self._draw()

    def _draw(self) -> None:
        from IPython.display import HTML, display

        page = HTML(self.html())
        if self._handle is None:
            self._handle = display(page, display_id=True)
        else:
            self._handle.update(page)
        self._drawn = monotonic()

    def html(self) -> str:
        """What is shown now."""
        lines = "".join(f"<div>{html.escape(line)}</div>" for line in self._evaluations[-3:])
        return f"<div>{self._bar()}{self._table()}{lines}</div>"

    def _bar(self) -> str:
        left = self._left
        if self._steps:
            left = translated("{time} left", time=format_duration(self._pace.remaining(self._total - self._done)))
        step = translated("step {done}/{total}", done=self._done, total=self._total)
        return (
            f'<progress value="{self._done}" max="{max(1, self._total)}" style="width:300px"></progress> '
            f"{step} · {format_duration(monotonic() - self._began)} · {left}"
        )

    def _table(self) -> str:
        if not self._steps:
            return ""
        columns = _columns(self._steps[-1][1])
        head = "".join(_heading(name, title) for name, title, _ in [("step", marked("step"), ""), *columns])
        body = "".join(f"<tr>{_cells(index, metrics, columns)}</tr>" for index, metrics in self._steps)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _columns(metrics: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Metric, heading and format of each column that these metrics can fill."""
    names = list(reward_means(metrics))
    own = [(f"rewards/{name}/mean", short, "{:.3f}") for name, short in zip(names, short_names(names), strict=True)]
    found: list[tuple[str, str, str]] = []
    for name, (title, form) in _COLUMNS.items():
        if name in metrics:
            found.append((name, title, form))
        if name == _AFTER:
            found += own
    return found


def _heading(name: str, title: str) -> str:
    """A heading that may break after `_` and, if it must, anywhere; the metric's full name is its tooltip."""
    shown = html.escape(translated(title)).replace("_", "_<wbr>")
    return f'<th title="{html.escape(name)}" {_HEAD}>{shown}</th>'


def _cells(index: int, metrics: Mapping[str, float], columns: Sequence[tuple[str, str, str]]) -> str:
    cells = [str(index)]
    for name, _, form in columns:
        value = metrics.get(name, math.nan)
        cells.append("–" if math.isnan(value) else form.format(value))
    return "".join(f"<td {_CELL}>{cell}</td>" for cell in cells)
