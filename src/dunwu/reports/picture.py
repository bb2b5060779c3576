"""The picture of a run from what is in its folder: of any run, finished or not, also of an earlier version's."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dunwu.errors import DataError
from dunwu.observers import HeldOut, RunTitle, Share, draw_run
from dunwu.reports.run_folder import RunFolder

__all__ = ["answer_reward", "draw_folder"]


def draw_folder(run: RunFolder, path: Path | None = None) -> Path:
    """Draw a run; returns the picture's path.

    Args:
        run: the run.
        path: the PNG; None: `curves.png` in the run's folder.

    Raises:
        DataError: for a run that has not finished a step.
    """
    if not run.steps:
        raise DataError(f"{run.path} has not finished a step yet: there is nothing to draw")
    recipe: Mapping[str, Any] = run.recipe if (run.path / "recipe.yaml").is_file() else {}
    train: Mapping[str, Any] = recipe.get("train") or {}
    task = recipe.get("task") or {}
    name = task if isinstance(task, str) else task.get("name", "")
    return draw_run(
        run.steps,
        path or run.path / "curves.png",
        title=RunTitle(model=str(recipe.get("model", run.path.name)), task=name, seed=train.get("seed", 42)),
        held_out=_held_out(run),
        limit=train.get("max_completion_length"),
        answer_reward=answer_reward((line["scores"], line["lenient"]) for line in run.evaluated("before")),
    )


def answer_reward(graded: Iterable[tuple[Mapping[str, float | None], bool]]) -> str | None:
    """The reward function that is above 0 just where an answer is right; None where there is none.

    Args:
        graded: each function's value, and whether the answer is right.

    Example: `answer_reward([({"format": 1.0, "equation": 0.0}, False), ({"format": 1.0, "equation": 1.0}, True)])`
    is `"equation"`.
    """
    agreement: dict[str, list[bool]] = defaultdict(list)
    for scores, is_right in graded:
        for name, score in scores.items():
            agreement[name].append(((score or 0) > 0) == is_right)
    best = max(agreement, key=lambda name: statistics.fmean(agreement[name]), default=None)
    return best if best is not None and statistics.fmean(agreement[best]) > 0.95 else None


def _held_out(run: RunFolder) -> list[HeldOut]:
    if not run.summary.get("has_answers", True):
        return []
    last = int(run.steps[-1]["step"])
    found = ((0, run.summary.get("before")), (last, run.summary.get("after")))
    return [
        HeldOut(step=step, greedy=_share(figures, "greedy_strict"), sampled=_share(figures, "sampled_strict"))
        for step, figures in found
        if figures
    ]


def _share(figures: Mapping[str, float], name: str) -> Share | None:
    if name not in figures:
        return None
    return Share(value=figures[name], low=figures.get(f"{name}_low"), high=figures.get(f"{name}_high"))
