"""What the model said: every rollout, one JSON object a line.

What it is: an open format that grep, pandas and `datasets` read. What it is not: a page to read them.
"""

from __future__ import annotations

import json
from pathlib import Path

from dunwu.core.protocols import Observer
from dunwu.core.records import StepResult
from dunwu.observers.jsonl import JsonlFile

__all__ = ["RolloutLog"]


class RolloutLog(Observer):
    """Appends every rollout of every step to a file.

    Args:
        path: the file, made along with its folder at the first step.
        after: a run that goes on after this step keeps what the file has up to it; 0 starts the file anew.
    """

    def __init__(self, path: Path, *, after: int = 0) -> None:
        self._file = JsonlFile(path, after=after)

    def on_step(self, step: StepResult) -> None:
        """Write the step's rollouts."""
        self._file.write(
            json.dumps(
                {
                    "step": step.index,
                    "row": group.prompt.row_index,
                    "sample": index,
                    "prompt": group.prompt.text,
                    "completion": rollout.completion.text,
                    "tokens": len(rollout.completion.ids),
                    "finish": rollout.completion.finish_reason,
                    "reward": rollout.reward,
                    "scores": dict(rollout.scores),
                    "advantage": rollout.advantage,
                },
                ensure_ascii=False,
            )
            for group in step.groups
            for index, rollout in enumerate(group.rollouts)
        )
