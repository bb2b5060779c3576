"""The figures of every step, in memory and in a file.

What it is: one JSON object a line, readable while the run goes on. What it is not: a tracker.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from dunwu.records import Step

__all__ = ["History"]


class History:
    """Keeps every step's metrics with the seconds since the run began.

    Args:
        path: file to append to, made along with its folder; None keeps them in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.steps: list[dict[str, float]] = []
        self._began = time.monotonic()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)

    def on_step(self, step: Step) -> None:
        """Note the step."""
        seconds = time.monotonic() - self._began
        entry = {"step": float(step.index), "seconds": seconds, **step.metrics}
        self.steps.append(entry)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as out:
                out.write(json.dumps(entry) + "\n")

    def column(self, name: str) -> list[float]:
        """One metric over the steps that have it."""
        return [entry[name] for entry in self.steps if name in entry]
