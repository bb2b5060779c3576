"""A run's folder: what is in it, read back.

    recipe.yaml                 what was asked for, written at the start
    run.json                    versions, machine, commit, and each start of the run
    metrics.jsonl               a line a step
    rollouts.jsonl              a line a completion
    evaluation_before.jsonl     a line a graded completion of the held-out rows, before training
    evaluation_after.jsonl      the same after it
    summary.json                the figures of both
    curves.png, report.md       for people
    checkpoint-N                to resume from
    model.safetensors, …        the model

An earlier version wrote neither `run.json` nor the evaluations; such folders are read too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from dunwu._utils.language import translated
from dunwu._utils.near_paths import near_path
from dunwu._utils.yaml_1_2 import load_yaml
from dunwu.errors import ConfigError
from dunwu.reports.run_record import Outcome, RunRecord, read_record

__all__ = ["Entry", "RunFolder", "holds_a_run", "missing_folder", "next_free_folder", "open_run", "outcome_text"]

Entry: TypeAlias = dict[str, Any]
"""The object of one line of a JSON Lines file."""

_OF_A_RUN = ("recipe.yaml", "run.json", "summary.json", "metrics.jsonl", "rollouts.jsonl")
_OF_A_MODEL = ("config.json", "adapter_config.json")


@dataclass(frozen=True)
class RunFolder:
    """One run's folder. Files are read when they are asked for.

    Example: `RunFolder(Path("runs/quickstart")).path.name` is `"quickstart"`.
    """

    path: Path
    """The folder."""

    @property
    def recipe_file(self) -> Path:
        """`recipe.yaml`.

        Raises:
            ConfigError: where it is missing.
        """
        file = self.path / "recipe.yaml"
        if not file.is_file():
            raise ConfigError(
                f"{self.path} has no recipe.yaml, so what was trained there is not known; give a recipe instead"
            )
        return file

    @cached_property
    def recipe(self) -> Mapping[str, Any]:
        """The content of `recipe.yaml`.

        Raises:
            ConfigError: where it is missing or no YAML of keys and values.
        """
        file = self.recipe_file
        try:
            content = load_yaml(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
        if not isinstance(content, dict):
            raise ConfigError(f"{file} must contain keys and values, got {type(content).__name__}")
        return content

    @cached_property
    def record(self) -> RunRecord | None:
        """Versions, machine and starts; None in folders of before."""
        return read_record(self.path)

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        """The figures of `summary.json`; empty where there is none."""
        try:
            content = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.path / 'summary.json'} cannot be read: {error}") from error
        return content if isinstance(content, dict) else {}

    @cached_property
    def steps(self) -> list[dict[str, float]]:
        """The metrics of every step."""
        return list(self._lines("metrics.jsonl"))

    def rollouts(self, *, evaluation: bool = False) -> Iterator[Entry]:
        """Every rollout that was logged, in the schema of `core.metrics.rollout_row`."""
        return self._lines("rollouts_eval.jsonl" if evaluation else "rollouts.jsonl")

    def evaluated(self, when: Literal["before", "after"]) -> Iterator[Entry]:
        """Graded completions of the held-out rows; none where there was no such evaluation."""
        return self._lines(f"evaluation_{when}.jsonl")

    @property
    def outcome(self) -> Outcome:
        """How the latest start of the run ended."""
        if self.record is not None:
            return self.record.outcome
        if self.summary:
            return "interrupted" if self.summary.get("status") == "interrupted" else "finished"
        return "running"

    @property
    def has_model(self) -> bool:
        """Whether a whole model or adapter lies in the folder itself."""
        return any((self.path / name).is_file() for name in _OF_A_MODEL)

    def _lines(self, name: str) -> Iterator[Entry]:
        try:
            lines = (self.path / name).open(encoding="utf-8", errors="replace", newline="\n")
        except FileNotFoundError:
            return
        with lines:
            for line in lines:
                entry = _parsed(line)
                if entry is not None:
                    yield entry


def outcome_text(outcome: Outcome) -> str:
    """An outcome in words: of a run that was killed, nothing says that it does not run any more.

    Example: `outcome_text("running")` is `"running, or killed"`.
    """
    words: dict[Outcome, str] = {
        "running": translated("running, or killed"),
        "finished": translated("finished"),
        "interrupted": translated("interrupted"),
        "failed": translated("failed"),
    }
    return words[outcome]


def open_run(path: str | Path) -> RunFolder:
    """The run in a folder.

    Raises:
        ConfigError: for a folder that is not there, with the nearest one that is, and for one that holds no run.
        CheckpointError: for a run of a later version.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise missing_folder(folder, what="run")
    if not holds_a_run(folder):
        kind = "a model but no run" if any((folder / name).is_file() for name in _OF_A_MODEL) else "no run"
        raise ConfigError(f"{folder} holds {kind}: a run's folder has a recipe.yaml{_runs_in(folder)}")
    run = RunFolder(folder)
    _ = run.record  # a folder of a later version is refused now
    return run


def holds_a_run(folder: Path) -> bool:
    """Whether a run has begun to write here."""
    return any((folder / name).exists() for name in _OF_A_RUN) or any(folder.glob("checkpoint-*"))


def next_free_folder(folder: Path) -> Path:
    """`folder` itself where it holds no run, else the first of `folder-2`, `folder-3`, … that holds none.

    After `folder-2` comes `folder-3` as well.
    """
    base, _, number = folder.name.rpartition("-")
    name, count = (base, int(number)) if base and number.isdecimal() else (folder.name, 1)
    candidate = folder
    while holds_a_run(candidate):
        count += 1
        candidate = folder.with_name(f"{name}-{count}")
    return candidate


def missing_folder(folder: Path, *, what: str) -> ConfigError:
    """The error for a folder that is not there, with the nearest one beside it that is."""
    if folder.is_file():
        return ConfigError(f"{folder} is a file; a {what} is a folder")
    near = near_path(str(folder))
    if near is not None:
        return ConfigError(f"there is no {what} {str(folder)!r}; did you mean {near!r}?")
    if not folder.parent.is_dir():
        return ConfigError(f"there is no folder {str(folder.parent)!r}, so no {what} {str(folder)!r}")
    return ConfigError(f"there is no {what} {str(folder)!r}")


def _runs_in(folder: Path) -> str:
    """Runs in sub-folders, for who names the folder above them."""
    inside = sorted(str(path) for path in folder.iterdir() if path.is_dir() and holds_a_run(path))
    return f"; there are runs in it: {', '.join(inside[:4])}{' …' if len(inside) > 4 else ''}" if inside else ""


def _parsed(line: str) -> Entry | None:
    """The object of a line; None for one that a kill cut off."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry if isinstance(entry, dict) else None
