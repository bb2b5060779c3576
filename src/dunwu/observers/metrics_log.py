"""The metrics of every step, in memory and in a file that is readable while the run goes on."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

from dunwu.core.protocols import Observer
from dunwu.core.records import RunInfo, StepResult
from dunwu.observers.jsonl import JsonlFile

__all__ = ["MetricsLog"]


class MetricsLog(Observer):
    """Keeps the metrics of every step, with `step` and the `seconds` since the run began.

    A run that resumes keeps the file's entries up to its checkpoint and counts the seconds on from there; a run that
    starts anew replaces the file.

    Args:
        path: the file; default: `metrics.jsonl` in the run's folder.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self.steps: list[dict[str, float]] = []
        """One entry a step."""
        self._file = JsonlFile(self.path) if self.path is not None else None
        self._began = monotonic()

    def on_run_start(self, run: RunInfo) -> None:
        """Read what an earlier start of the run has written, as far as this one does not repeat it."""
        self._file = JsonlFile(self.path or Path(run.folder) / "metrics.jsonl", keep_until=run.resumed_from)
        self.steps = self._file.read_kept()
        self._began = monotonic() - (self.steps[-1].get("seconds", 0.0) if self.steps else 0.0)

    def on_step(self, step: StepResult) -> None:
        """Keep the step's metrics."""
        entry = {"step": float(step.index), "seconds": monotonic() - self._began, **step.metrics}
        self.steps.append(entry)
        if self._file is not None:
            self._file.write([entry])

    def column(self, name: str) -> list[float]:
        """One metric over the steps that have it."""
        return [entry[name] for entry in self.steps if name in entry]
