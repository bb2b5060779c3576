"""The picture of a run, drawn anew as it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from dunwu._utils.logging import get_logger
from dunwu.core.protocols import Observer
from dunwu.core.records import RunInfo, StepResult
from dunwu.observers.jsonl import JsonlFile
from dunwu.observers.metrics_log import MetricsLog
from dunwu.observers.plots import HeldOut, RunTitle, draw_run

__all__ = ["CurvePlot"]

_SHARE = 0.01
"""Of a run's time at most this much goes into drawing while it goes on."""


class CurvePlot(Observer):
    """Draws `curves.png` in the run's folder every few seconds, and at the run's end, however it ends.

    It waits a hundred times as long as the last drawing took, where that is more than `every`. A picture that
    cannot be drawn costs a warning. A resumed run's picture has the steps before it, which it reads in
    `metrics.jsonl`.

    Args:
        path: the picture; default: `curves.png` in the run's folder.
        every: least seconds between two drawings.
        title: the first line; default: the folder's name and the run's seed.
        held_out: evaluations so far; `held_out` is a list that may grow, and `draw` draws what is new.
        limit: token limit of a completion; default: the run's own.
        answer_reward: name of the reward function that pays for right answers.
        metrics: where the steps are kept, for one with a file of its own; default: they are kept here.
    """

    def __init__(
        self,
        path: Path | str | None = None,
        *,
        every: float = 10.0,
        title: RunTitle | str | None = None,
        held_out: Sequence[HeldOut] = (),
        limit: int | None = None,
        answer_reward: str | None = None,
        metrics: MetricsLog | None = None,
    ) -> None:
        self.path = Path(path) if path is not None else None
        self.every, self.title, self.limit, self.answer_reward = every, title, limit, answer_reward
        self.held_out = list(held_out)
        self.metrics = metrics
        self._own: list[dict[str, float]] = []
        self._run: RunInfo | None = None
        self._began = self._due = monotonic()
        self._drawn_until = 0
        self._has_warned = False

    @property
    def steps(self) -> Sequence[dict[str, float]]:
        """One entry a step, those of an earlier start among them."""
        return self._own if self.metrics is None else self.metrics.steps

    def on_run_start(self, run: RunInfo) -> None:
        """Read the steps of an earlier start."""
        self._run, self._drawn_until = run, 0
        self._own = JsonlFile(Path(run.folder) / "metrics.jsonl", keep_until=run.resumed_from).read_kept()
        self._began = monotonic() - (self._own[-1].get("seconds", 0.0) if self._own else 0.0)
        self._due = monotonic() + self.every

    def on_step(self, step: StepResult) -> None:
        """Keep the step's metrics, and draw if it is time."""
        if self.metrics is None:
            self._own.append({"step": float(step.index), "seconds": monotonic() - self._began, **step.metrics})
        if monotonic() >= self._due:
            self.draw()

    def on_run_end(self) -> None:
        """Draw the last steps."""
        if len(self.steps) > self._drawn_until:
            self.draw()

    def draw(self) -> Path | None:
        """Draw now; None where there is nothing to draw yet, or where it fails."""
        if self._run is None or not self.steps:
            return None
        began = monotonic()
        try:
            return self._draw(self._run)
        except Exception as error:  # matplotlib's errors have no common class, and no picture is worth a run
            self._warn(error)
            return None
        finally:
            now = monotonic()
            self._drawn_until, self._due = len(self.steps), now + max(self.every, (now - began) / _SHARE)

    def _draw(self, run: RunInfo) -> Path:
        limit = self.limit if self.limit is not None else run.config.get("max_completion_length")
        return draw_run(
            self.steps,
            self.path or Path(run.folder) / "curves.png",
            title=self.title or RunTitle(model=Path(run.folder).name, task="", seed=run.config.get("seed")),
            held_out=self.held_out,
            limit=limit,
            answer_reward=self.answer_reward,
            total_steps=run.total_steps,
        )

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            get_logger().warning(f"the run's picture cannot be drawn ({type(error).__name__}: {error}); it goes on")
