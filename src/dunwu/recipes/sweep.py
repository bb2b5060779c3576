"""Several runs of one recipe, one after the other: seeds, and values of options. Each is a process of its own.

A sweep that was stopped goes on with the same command: what is finished stays, what is half done resumes.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dunwu._utils.logging import get_logger
from dunwu.errors import ConfigError
from dunwu.recipes.recipe import Recipe, load_recipe
from dunwu.recipes.start import remove_run
from dunwu.recipes.wiring import make_config
from dunwu.reports.run_folder import RunFolder, holds_a_run
from dunwu.training.checkpoint import last_complete_checkpoint

__all__ = ["PlannedRun", "plan_runs", "run_all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One run of a sweep.

    Example: `PlannedRun(folder=Path("runs/q/loss_type=dapo-seed=43"), overrides={"train.loss_type": "dapo",
    "train.seed": "43"})`
    """

    folder: Path
    """Where it goes."""
    overrides: Mapping[str, str]
    """What is given beside the recipe."""


def plan_runs(
    recipe: str, overrides: Mapping[str, str], *, seeds: int | None, swept: Sequence[str]
) -> list[PlannedRun]:
    """The runs, every combination of values times every seed; each recipe is checked now.

    Args:
        recipe: a built-in recipe, a file, or a run's folder.
        overrides: options for all runs; `train.output_dir` among them is the folder above the runs, which otherwise
            is the recipe's own with `-sweep` or `-seeds`.
        seeds: how many seeds, from the recipe's own on; None: that one alone.
        swept: `OPTION=A,B`, several make a grid.

    Raises:
        ConfigError: for no seed, an option that is not `OPTION=A,B` or is unknown, and a value that does not fit.
    """
    if seeds is not None and seeds < 1:
        raise ConfigError(f"--seeds must be at least 1, got {seeds}")
    base = load_recipe(recipe, overrides)
    axes = [_axis(given) for given in swept]
    first = int(base.train.get("seed", 42))
    if seeds is not None:
        axes.append([("train.seed", str(first + i)) for i in range(seeds)])
    beside = f"{base.train.get('output_dir', 'runs/dunwu')}-{'sweep' if swept else 'seeds'}"
    above = Path(overrides.get("train.output_dir", beside))
    planned = []
    for choice in itertools.product(*axes):
        folder = above / _name(choice)
        run = PlannedRun(folder=folder, overrides={**overrides, **dict(choice), "train.output_dir": str(folder)})
        _check(load_recipe(recipe, run.overrides))
        planned.append(run)
    return planned


def run_all(recipe: str, planned: Sequence[PlannedRun], *, overwrite: bool = False) -> list[Path]:
    """Run what is not finished; the folders of all runs.

    Args:
        recipe: as for `plan_runs`.
        planned: from there.
        overwrite: whether runs that are there already are made anew.

    Raises:
        KeyboardInterrupt: where a run was stopped.
        ConfigError: where a run failed; the runs after it are not begun.
    """
    for number, run in enumerate(planned, start=1):
        what = f"run {number} of {len(planned)}, {run.folder}"
        if overwrite and holds_a_run(run.folder):
            remove_run(run.folder)
        if _is_finished(run.folder):
            get_logger().info(f"{what}: finished before")
            continue
        get_logger().info(what)
        code = subprocess.run(_command(recipe, run), check=False).returncode
        if code in (130, -2):
            raise KeyboardInterrupt(f"stopped in {run.folder}; the same command goes on with the sweep")
        if code:
            raise ConfigError(f"{what} ended with exit code {code}; the same command tries it again")
    return [run.folder for run in planned]


def _axis(given: str) -> list[tuple[str, str]]:
    """`train.loss_type=grpo,dapo` → the option with each of its values."""
    option, found, values = given.partition("=")
    option = option.removeprefix("--")
    several = [value.strip() for value in values.split(",")]
    if not found or "." not in option or not all(several):
        raise ConfigError(f"--sweep {given!r} must read OPTION=A,B, for example --sweep train.loss_type=grpo,dapo")
    return [(option, value) for value in several]


def _name(choice: Sequence[tuple[str, str]]) -> str:
    """A folder's name: the options' last parts with their values."""
    parts = [f"{option.rpartition('.')[2]}={value}" for option, value in choice]
    return "-".join(part.replace("/", "_").replace(" ", "") for part in parts) or "run"


def _check(recipe: Recipe) -> None:
    make_config(recipe)


def _is_finished(folder: Path) -> bool:
    return holds_a_run(folder) and RunFolder(folder).summary.get("status") == "finished"


def _command(recipe: str, run: PlannedRun) -> list[str]:
    words = [word for name, value in run.overrides.items() for word in (f"--{name}", value)]
    how: list[str] = []
    if run.folder.is_dir() and last_complete_checkpoint(run.folder) is not None:
        how = ["--resume"]
    elif holds_a_run(run.folder):
        how = ["--overwrite"]  # it was killed before its first checkpoint
    return [sys.executable, "-m", "dunwu", "train", recipe, *words, *how]
