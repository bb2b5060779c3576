"""Every rollout as a line of JSON, for grep, pandas and `datasets`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dunwu.core.metrics import rollout_row
from dunwu.core.protocols import Observer
from dunwu.core.records import Group, RunInfo
from dunwu.observers.jsonl import JsonlFile

__all__ = ["RolloutLog"]


class RolloutLog(Observer):
    """Appends every rollout to a file, once a sampling, and those of evaluations to a second file beside it.

    Both have the schema of `core.metrics.rollout_row`. A run that resumes keeps the lines up to its checkpoint; a run
    that starts anew replaces the files.

    Args:
        path: the file; default: `rollouts.jsonl` in the run's folder. The rollouts of evaluations go to the same
            name with `_eval`: `rollouts_eval.jsonl`.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self._training: JsonlFile | None = None
        self._evaluation: JsonlFile | None = None
        if self.path is not None:
            self._open(self.path, keep_until=0)

    def on_run_start(self, run: RunInfo) -> None:
        """Find out which lines of an earlier start stay."""
        self._open(self.path or Path(run.folder) / "rollouts.jsonl", keep_until=run.resumed_from)

    def on_rollouts(self, step: int, groups: Sequence[Group]) -> None:
        """Write the rollouts of a step."""
        _write(self._training, step, groups)

    def on_evaluation(self, step: int, metrics: Mapping[str, float], groups: Sequence[Group]) -> None:
        """Write the rollouts of an evaluation."""
        _write(self._evaluation, step, groups)

    def _open(self, path: Path, *, keep_until: int) -> None:
        self._training = JsonlFile(path, keep_until=keep_until)
        self._evaluation = JsonlFile(path.with_name(f"{path.stem}_eval{path.suffix}"), keep_until=keep_until)


def _write(file: JsonlFile | None, step: int, groups: Sequence[Group]) -> None:
    if file is not None and groups:
        file.write(rollout_row(step, group, sample) for group in groups for sample in range(len(group.rollouts)))
