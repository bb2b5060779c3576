"""Live progress in a terminal, a notebook or a log file: one line every few steps.

What it is: the few figures that tell whether it learns, and how long it still takes.
What it is not: all figures (`MetricsLog`) or the texts (`RolloutLog`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TextIO

from dunwu.core.protocols import Observer
from dunwu.core.records import StepResult

__all__ = ["Console"]

_HEAD = "     step  reward  dead  tokens   cut  entropy  s/step   left  rewards"


class Console(Observer):
    """Prints a line every `every` steps and at the last one.

    Args:
        total: steps of the run.
        every: steps between lines.
        stream: where to; default: standard output at that moment.
    """

    def __init__(self, total: int, *, every: int = 5, stream: TextIO | None = None) -> None:
        self.total, self.every, self.stream = total, every, stream
        self._began: float | None = None
        self._first = 0

    def on_step(self, step: StepResult) -> None:
        """Print if it is time."""
        if self._began is None:
            self._begin(step)
        if step.index % self.every and step.index not in (1, self.total):
            return
        print(self._line(step), file=self.stream or sys.stdout, flush=True)

    def _begin(self, step: StepResult) -> None:
        # The first step is done when it is heard of: its own time is known from its metrics.
        self._began = time.monotonic() - step.metrics.get("step_time", 0.0)
        self._first = step.index - 1
        print(_HEAD, file=self.stream or sys.stdout, flush=True)

    def _line(self, step: StepResult) -> str:
        assert self._began is not None
        m = step.metrics
        pace = (time.monotonic() - self._began) / (step.index - self._first)
        left = pace * (self.total - step.index)
        return (
            f"{f'{step.index}/{self.total}':>9} {m.get('reward', 0.0):7.3f} "
            f"{m.get('frac_reward_zero_std', 0.0):5.0%} "
            f"{m.get('completions/mean_length', 0.0):7.1f} {m.get('completions/clipped_ratio', 0.0):5.0%} "
            f"{m.get('entropy', 0.0):8.3f} {pace:7.2f} {_clock(left):>6}  {_rewards(m)}"
        )


def _rewards(metrics: Mapping[str, float]) -> str:
    means = {name: value for name, value in metrics.items() if name.startswith("rewards/") and name.endswith("/mean")}
    return "  ".join(f"{name.split('/')[1]} {value:.2f}" for name, value in means.items())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
