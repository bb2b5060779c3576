"""What the model said: every rollout, one JSON object a line.

What it is: an open format that grep, pandas and `datasets` read. What it is not: a page to read them.
"""

from __future__ import annotations

import json
from pathlib import Path

from dunwu.records import Step

__all__ = ["RolloutLog"]


class RolloutLog:
    """Appends every rollout of every step to a file.

    Args:
        path: the file, made along with its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def on_step(self, step: Step) -> None:
        """Write the step's rollouts."""
        with self.path.open("a", encoding="utf-8") as out:
            for group in step.groups:
                for index, rollout in enumerate(group.rollouts):
                    line = {
                        "step": step.index,
                        "row": group.prompt.key,
                        "sample": index,
                        "prompt": group.prompt.text,
                        "completion": rollout.completion.text,
                        "tokens": len(rollout.completion.ids),
                        "finish": rollout.completion.finish,
                        "reward": rollout.reward,
                        "scores": dict(rollout.scores),
                        "advantage": rollout.advantage,
                    }
                    out.write(json.dumps(line, ensure_ascii=False) + "\n")
