"""Live progress in a terminal, a notebook or a log file: one line every few steps."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import TextIO

from dunwu.core.protocols import Observer
from dunwu.core.records import Group, RunInfo, StepResult
from dunwu.observers.pace import StepPace, format_duration

__all__ = ["Console", "evaluation_line"]

_HEAD = "     step  reward  dead  tokens   cut  entropy  s/step   left  rewards"


class Console(Observer):
    """Prints a line at the first step, at every `every`-th and at the last one, and one for each evaluation.

    `s/step` and `left` are estimated from the recent steps (`pace.StepPace`), with all that happens between them.

    Args:
        every: steps between lines.
        stream: where to print; default: standard output at that moment.
    """

    def __init__(self, *, every: int = 5, stream: TextIO | None = None) -> None:
        self.every, self.stream = every, stream
        self._total = 0
        self._pace = StepPace()
        self._last: float | None = None
        self._has_head = False

    def on_run_start(self, run: RunInfo) -> None:
        """Start the clock."""
        self._total, self._pace, self._last, self._has_head = run.total_steps, StepPace(), monotonic(), False

    def on_step(self, step: StepResult) -> None:
        """Print a line if one is due."""
        now = monotonic()
        took = now - self._last if self._last is not None else step.metrics.get("step_time", 0.0)
        self._pace.add(took, step.metrics.get("completions/mean_length", 0.0))
        self._last = now
        if not self._has_head:
            self._print(_HEAD)
            self._has_head = True
        if step.index % self.every == 0 or step.index in (1, self._total):
            self._print(self._line(step))

    def on_evaluation(self, step: int, metrics: Mapping[str, float], groups: Sequence[Group]) -> None:
        """Print the held-out rewards."""
        line = evaluation_line(step, metrics)
        if line:
            self._print(line)

    def _print(self, line: str) -> None:
        print(line, file=self.stream or sys.stdout, flush=True)

    def _line(self, step: StepResult) -> str:
        m = step.metrics
        at = f"{step.index}/{self._total}" if self._total else str(step.index)
        left = format_duration(self._pace.remaining(self._total - step.index)) if self._total else "?"
        return (
            f"{at:>9} {m.get('reward', 0.0):7.3f} {m.get('frac_reward_zero_std', 0.0):5.0%} "
            f"{m.get('completions/mean_length', 0.0):7.1f} {m.get('completions/clipped_ratio', 0.0):5.0%} "
            f"{m.get('entropy', 0.0):8.3f} {self._pace.seconds_per_step:7.2f} {left:>6}  {_rewards(m)}"
        )


def evaluation_line(step: int, metrics: Mapping[str, float]) -> str:
    """The held-out rewards as one line; empty where there are none.

    Example: `evaluation_line(4, {"eval_reward": 0.5})` is `'evaluation after step 4: eval_reward 0.500'`.
    """
    shown = {name: value for name, value in metrics.items() if name.endswith("_reward") or "rewards/" in name}
    parts = [f"{name} {value:.3f}" for name, value in shown.items() if not name.endswith("/std")]
    return f"evaluation after step {step}: {' · '.join(parts)}" if parts else ""


def _rewards(metrics: Mapping[str, float]) -> str:
    means = {name: value for name, value in metrics.items() if name.startswith("rewards/") and name.endswith("/mean")}
    return "  ".join(f"{name.split('/')[1]} {value:.2f}" for name, value in means.items())
