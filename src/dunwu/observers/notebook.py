"""Progress in a notebook: a bar, and a table of the figures that tell whether it learns.

What it is: one small piece of HTML under the cell, drawn anew after each step. It stands where transformers puts its
own, whose one column, the training loss, says nothing here: the loss of GRPO starts every step at 0 by construction.
What it is not: a record (`MetricsLog`), or a dashboard.
"""

from __future__ import annotations

import html
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback

from dunwu.core.records import StepResult

__all__ = ["NotebookProgress", "show_in_notebook"]

_COLUMNS = {
    "reward": ("reward", "{:.3f}"),
    "reward_std": ("reward std", "{:.3f}"),
    "completions/mean_length": ("tokens", "{:.1f}"),
    "frac_reward_zero_std": ("dead groups", "{:.0%}"),
    "completions/clipped_ratio": ("cut", "{:.0%}"),
    "grad_norm": ("grad norm", "{:.3f}"),
    "step_time": ("s/step", "{:.2f}"),
}
"""Metric to heading and form, in this order; each reward's own mean comes after `reward std`."""
_AFTER = "reward_std"
_REDRAW_SECONDS = 0.2
_CELL = 'style="text-align:right;padding:2px 8px"'


def show_in_notebook(trainer: Any) -> None:
    """Put our progress in the place of transformers' own for notebooks; where that is not, nothing happens.

    transformers decides whether it is in a notebook, and `disable_tqdm=True` is a wish for neither.
    """
    callbacks = trainer.callback_handler.callbacks
    for i, callback in enumerate(callbacks):
        if type(callback).__name__ == "NotebookProgressCallback":
            callbacks[i] = NotebookProgress()
            trainer.observers.append(callbacks[i])


class NotebookProgress(TrainerCallback):
    """Shows steps, time and a table of the last steps; an observer for the figures, a callback for start and end.

    Args:
        rows: steps in the table, the last ones.
    """

    def __init__(self, *, rows: int = 10) -> None:
        self.rows = rows
        self._steps: list[tuple[int, Mapping[str, float]]] = []
        self._evaluations: list[str] = []
        self._total = self._first = 0
        self._began = self._drawn = 0.0
        self._handle: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An empty bar, so that the first step is waited for in front of something."""
        self._steps, self._evaluations, self._handle = [], [], None
        self._total, self._first, self._began = state.max_steps, state.global_step, time.monotonic()
        self._draw()

    def on_step(self, step: StepResult) -> None:
        """One step more in bar and table."""
        self._steps.append((step.index, dict(step.metrics)))
        del self._steps[: -self.rows]
        if time.monotonic() - self._drawn >= _REDRAW_SECONDS:
            self._draw()

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        """A line with the held-out rewards."""
        shown = {k: v for k, v in (metrics or {}).items() if k.endswith("_reward") or "rewards/" in k}
        figures = " · ".join(f"{k} {v:.3f}" for k, v in shown.items() if not k.endswith("/std"))
        if figures:
            self._evaluations.append(f"evaluation after step {state.global_step}: {figures}")
            self._draw()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last step is shown, however quick it was."""
        self._draw()

    def _draw(self) -> None:
        from IPython.display import HTML, display

        page = HTML(self.html())
        if self._handle is None:
            self._handle = display(page, display_id=True)
        else:
            self._handle.update(page)
        self._drawn = time.monotonic()

    def html(self) -> str:
        """What is shown now."""
        lines = "".join(f"<div>{html.escape(line)}</div>" for line in self._evaluations[-3:])
        return f"<div>{self._bar()}{self._table()}{lines}</div>"

    def _bar(self) -> str:
        done = self._steps[-1][0] if self._steps else self._first
        elapsed = time.monotonic() - self._began if self._began else 0.0
        here = done - self._first
        left = f"{_clock(elapsed / here * (self._total - done))} left" if here else "the first step is on its way"
        return (
            f'<progress value="{done}" max="{max(1, self._total)}" style="width:300px"></progress> '
            f"step {done}/{self._total} · {_clock(elapsed)} · {left}"
        )

    def _table(self) -> str:
        if not self._steps:
            return ""
        columns = _columns(self._steps[-1][1])
        head = "".join(f"<th {_CELL}>{html.escape(title)}</th>" for title in ("step", *(c[1] for c in columns)))
        body = "".join(f"<tr>{_row(index, metrics, columns)}</tr>" for index, metrics in self._steps)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _columns(metrics: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Metric, heading and form of each column that these metrics can fill."""
    own = [name for name in metrics if name.startswith("rewards/") and name.endswith("/mean")]
    found: list[tuple[str, str, str]] = []
    for name, (title, form) in _COLUMNS.items():
        if name in metrics:
            found.append((name, title, form))
        if name == _AFTER:
            found += [(mean, mean.removeprefix("rewards/").removesuffix("/mean"), "{:.3f}") for mean in own]
    return found


def _row(index: int, metrics: Mapping[str, float], columns: Sequence[tuple[str, str, str]]) -> str:
    cells = [str(index)]
    for name, _, form in columns:
        value = metrics.get(name, math.nan)
        cells.append("–" if math.isnan(value) else form.format(value))
    return "".join(f"<td {_CELL}>{cell}</td>" for cell in cells)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
