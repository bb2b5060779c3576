"""The figures of every step, in memory and in a file.

What it is: one JSON object a line, readable while the run goes on. What it is not: a tracker.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from dunwu.core.protocols import Observer
from dunwu.core.records import StepResult
from dunwu.observers.jsonl import JsonlFile

__all__ = ["MetricsLog"]


class MetricsLog(Observer):
    """Keeps every step's metrics with the seconds since the run began.

    Args:
        path: the file; None keeps them in memory only.
        after: a run that goes on after this step keeps what the file has up to it; 0 starts the file anew.
    """

    def __init__(self, path: Path | None = None, *, after: int = 0) -> None:
        self._file = JsonlFile(path, after=after) if path is not None else None
        self.steps: list[dict[str, float]] = self._file.kept() if self._file is not None else []
        self._began = time.monotonic() - (self.steps[-1]["seconds"] if self.steps else 0.0)

    def on_step(self, step: StepResult) -> None:
        """Note the step."""
        seconds = time.monotonic() - self._began
        entry = {"step": float(step.index), "seconds": seconds, **step.metrics}
        self.steps.append(entry)
        if self._file is not None:
            self._file.write([json.dumps(entry)])

    def column(self, name: str) -> list[float]:
        """One metric over the steps that have it."""
        return [entry[name] for entry in self.steps if name in entry]
