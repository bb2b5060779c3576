"""Live progress in a terminal or a log file: a table in 80 columns, a line every few steps."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import TextIO

from dunwu._utils.language import marked, translated
from dunwu._utils.terminal_text import wrap
from dunwu.core.protocols import Observer
from dunwu.core.records import Group, RunInfo, StepResult
from dunwu.observers.pace import StepPace, first_estimate, short_duration
from dunwu.observers.progress_table import Column, figure, fit_columns, header, reward_means, row

__all__ = ["Console", "evaluation_line"]

_MOST = 0.5
"""A share of dead groups, or of cut completions, above this is marked."""


def _share(value: float) -> str:
    return f"{value:.0%}{'!' if value > _MOST else ' '}"


_COLUMNS = (
    Column(
        name="completions/mean_length",
        heading=marked("tokens"),
        width=7,
        form=lambda value: figure(value, 6, decimals=1),
    ),
    Column(name="completions/clipped_ratio", heading=marked("cut "), width=6, form=_share),
    Column(name="frac_reward_zero_std", heading=marked("dead "), width=6, form=_share),
    Column(name="entropy", heading=marked("entropy"), width=8, form=lambda value: f"{value:.3f}", rank=2),
    Column(name="seconds_per_step", heading=marked("s/step"), width=7, form=lambda value: figure(value, 6), rank=3),
    Column(name="elapsed", heading=marked("time"), width=6, form=short_duration, rank=1),
    Column(name="left", heading=marked("left"), width=6, form=short_duration),
)
"""What follows step and rewards."""


class Console(Observer):
    """Prints a line at the first step, at every `every`-th and at the last one, and one for each evaluation.

    Before the first step it says how long the run may take (`pace.first_estimate`); `left` is then estimated from the
    recent steps (`pace.StepPace`), with all that happens between them. A share of more than one half of groups that
    teach nothing, or of completions that were cut, is marked with `!`.

    Args:
        every: steps between lines.
        stream: where to print; default: standard output at that moment.
        width: columns of a line.
    """

    def __init__(self, *, every: int = 5, stream: TextIO | None = None, width: int = 80) -> None:
        self.every, self.stream, self.width = every, stream, width
        self._begin(0, 0)

    def on_run_start(self, run: RunInfo) -> None:
        """Start the clock."""
        self._begin(run.total_steps, run.resumed_from)

    def _begin(self, total: int, done: int) -> None:
        self._total, self._done, self._pace = total, done, StepPace()
        self._began = self._last = monotonic()
        self._columns: list[Column] | None = None
        self._has_estimate = False

    def on_rollouts(self, step: int, groups: Sequence[Group]) -> None:
        """With the first rollouts, say how long the run may take."""
        left = self._total - self._done
        if self._has_estimate or self._columns is not None or left < 2:
            return
        self._has_estimate = True
        seconds = monotonic() - self._last
        estimate = f"{left} steps: {first_estimate(seconds, left)}, going by the first completions ({seconds:.1f} s)"
        self._print(translated(estimate))

    def on_step(self, step: StepResult) -> None:
        """Print a line if one is due."""
        now = monotonic()
        self._pace.add(now - self._last, step.metrics.get("completions/mean_length", 0.0))
        self._last = now
        if self._columns is None:
            self._columns = self._fitting_columns(step)
            self._print_header(self._columns, list(reward_means(step.metrics)))
        if step.index % self.every == 0 or step.index in (1, self._total):
            self._print(row(self._columns, self._figures(step)))

    def on_evaluation(self, step: int, metrics: Mapping[str, float], groups: Sequence[Group]) -> None:
        """Print the held-out rewards."""
        line = evaluation_line(step, metrics)
        if line:
            self._print(wrap(line, self.width))

    def _print(self, text: str) -> None:
        print(text, file=self.stream or sys.stdout, flush=True)

    def _fitting_columns(self, step: StepResult) -> list[Column]:
        digits = len(str(max(self._total, step.index)))
        first = (
            Column(name="step", heading=marked("step"), width=max(5, 2 * digits + 1), form=self._step),
            Column(name="reward", heading=marked("reward"), width=7, form=lambda value: figure(value, 6, decimals=3)),
        )
        names = list(reward_means(step.metrics))
        spoken = [replace(column, heading=translated(column.heading)) for column in (*first, *_COLUMNS)]
        return fit_columns(spoken, names, after="reward", width=self.width)

    def _step(self, index: float) -> str:
        return f"{index:.0f}/{self._total}" if self._total else f"{index:.0f}"

    def _print_header(self, columns: Sequence[Column], rewards: Sequence[str]) -> None:
        lines, is_cut = header(columns)
        if is_cut:
            self._print(wrap(translated(f"rewards: {', '.join(rewards)}"), self.width))
        self._print(translated("cut: stopped by the token limit · dead: groups of equal rewards · !: over half"))
        self._print("\n".join(lines))

    def _figures(self, step: StepResult) -> dict[str, float]:
        own = {
            "step": step.index,
            "seconds_per_step": self._pace.seconds_per_step,
            "elapsed": self._last - self._began,
        }
        if self._total:
            own["left"] = self._pace.remaining(self._total - step.index)
        return {**step.metrics, **own}


def evaluation_line(step: int, metrics: Mapping[str, float]) -> str:
    """The held-out rewards as one line; empty where there are none.

    Example: `evaluation_line(4, {"eval_reward": 0.5, "eval_rewards/solved/mean": 0.25})` is
    `'evaluation after step 4: reward 0.500 · solved 0.250'`.
    """
    shown = {
        name: value for name, value in metrics.items() if name.endswith(("_reward", "/mean")) and "reward" in name
    }
    parts = [f"{_plain(name)} {value:.3f}" for name, value in shown.items()]
    return translated(f"evaluation after step {step}: {' · '.join(parts)}") if parts else ""


def _plain(name: str) -> str:
    return name.removeprefix("eval_").replace("rewards/", "").removesuffix("/mean")
