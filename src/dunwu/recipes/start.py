"""Where a run begins: in which folder, from which checkpoint, with which options changed. Nothing is overwritten."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dunwu._utils.distributed import ParallelContext
from dunwu._utils.logging import get_logger
from dunwu._utils.yaml_1_2 import load_yaml
from dunwu.errors import CheckpointError, ConfigError
from dunwu.recipes.options import Options
from dunwu.recipes.recipe import Recipe, make_recipe, recipe_as_yaml, recipe_content
from dunwu.reports.run_folder import RunFolder, holds_a_run, missing_folder, next_free_folder
from dunwu.training.checkpoint import last_complete_checkpoint, steps_done

__all__ = ["RunStart", "changed_options", "choose_start", "differing_options", "remove_run"]

_KEPT = ("model", "model_options", "source", "lora", "train.optim")
"""What a resumed run cannot change: its checkpoint holds that model, that adapter, that optimizer's moments."""
_ELSEWHERE = ("resume", "train.output_dir", "train.report_to")
"""What may differ without the run being another one."""
_FILES = (
    *("recipe.yaml", "run.json", "summary.json", "metrics.jsonl", "rollouts*.jsonl", "evaluation_*.jsonl"),
    *("curves.png", "report.md", "README.md", "config.json", "generation_config.json", "training_args.bin"),
    *("model*.safetensors*", "adapter_*", "tokenizer*", "special_tokens_map.json", "chat_template.jinja"),
)
"""What a run writes into its folder beside its checkpoints."""

Changes = Mapping[str, tuple[object, object]]
"""Dotted option to its value then and now."""


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """What was decided before anything is loaded.

    Example: `RunStart(folder=Path("runs/quickstart-2"))` is a new run beside an earlier one.
    """

    folder: Path
    """Where the run writes."""
    checkpoint: Path | None = None
    """Where it resumes from; None: it starts anew."""
    changed: Changes = field(default_factory=dict)
    """Options that differ from those that the run was started with."""
    replaces: bool = False
    """Whether an earlier run in the folder is to be removed first."""


def choose_start(recipe: Recipe, folder: Path, *, overwrite: bool, parallel: ParallelContext) -> RunStart:
    """Decide on the main process, for all.

    Args:
        recipe: the recipe; its `resume` counts.
        folder: its `train.output_dir`.
        overwrite: whether a run that is there may be removed.
        parallel: the ranks.

    Raises:
        ConfigError: for a folder that is a file, or an option that a resumed run cannot change.
        CheckpointError: where there is nothing to resume.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"train.output_dir={str(folder)!r} is a file; name a folder, or one that can be made")
    if overwrite and recipe.resume is True:
        raise ConfigError("--overwrite removes the run that --resume would go on with; give one of them")
    start = _choose(recipe, folder, overwrite)
    return parallel.all_gather_list([start])[0]  # another process may have looked a moment later


def _choose(recipe: Recipe, folder: Path, overwrite: bool) -> RunStart:
    last = last_complete_checkpoint(folder) if recipe.resume and not overwrite else None
    if last is not None:
        _refuse_if_finished(folder, last)
        changed = changed_options(folder, recipe)
        _refuse_what_is_kept(changed, folder)
        for name, (then, now) in changed.items():
            get_logger().info(f"changed from here on: {name} was {then!r} and is {now!r}")
        get_logger().info(f"resuming from {last}")
        return RunStart(folder=folder, checkpoint=last, changed=changed)
    if recipe.resume is True:
        raise _nothing_to_resume(folder)
    if overwrite:
        return RunStart(folder=folder, replaces=holds_a_run(folder))
    free = next_free_folder(folder)
    if free != folder:
        get_logger().info(f"{folder} holds a run already: this one goes to {free} (--overwrite replaces the other)")
    return RunStart(folder=free)


def changed_options(folder: Path, recipe: Recipe) -> Changes:
    """Options of the recipe that differ from those in the folder's `recipe.yaml`; empty where there is none."""
    written = folder / "recipe.yaml"
    return differing_options(recipe_content(str(written)), recipe) if written.is_file() else {}


def differing_options(content: Options, recipe: Recipe) -> Changes:
    """Options of the recipe that differ from those in the content of another's file: there and here."""
    there = dict(_dotted(load_yaml(recipe_as_yaml(make_recipe(content)))))
    here = dict(_dotted(load_yaml(recipe_as_yaml(recipe))))
    names = [name for name in {**there, **here} if name not in _ELSEWHERE]
    return {name: (there.get(name), here.get(name)) for name in names if there.get(name) != here.get(name)}


def remove_run(folder: Path) -> None:
    """Remove what a run has written into the folder; other files stay."""
    for pattern in _FILES:
        for path in folder.glob(pattern):
            if path.is_file():
                path.unlink()
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path)


def _refuse_what_is_kept(changed: Changes, folder: Path) -> None:
    for name, (then, now) in changed.items():
        if any(name == kept or name.startswith(f"{kept}.") for kept in _KEPT):
            raise ConfigError(
                f"{name} was {then!r} when the run in {folder} began and is {now!r} now, which its checkpoint does "
                "not fit; leave it as it was, or start a new run in another folder"
            )


def _refuse_if_finished(folder: Path, last: Path) -> None:
    """A finished run without a checkpoint of its end would be trained again from an earlier one."""
    summary = RunFolder(folder).summary
    if summary.get("status") == "finished" and steps_done(last) < summary.get("steps", 0):
        raise CheckpointError(
            f"nothing to resume: the run in {folder} is finished, at step {summary['steps']}, and its last "
            f"checkpoint is of step {steps_done(last)} (train.save_strategy decides whether the end has one)"
        )


def _nothing_to_resume(folder: Path) -> CheckpointError:
    if not folder.is_dir():
        return CheckpointError(f"nothing to resume: {missing_folder(folder, what='run')}")
    if not holds_a_run(folder):
        return CheckpointError(f"nothing to resume: {folder} holds no run; start one without --resume")
    return CheckpointError(
        f"nothing to resume: the run in {folder} has no complete checkpoint (train.save_strategy and "
        "train.save_steps decide when one is written); start it anew without --resume"
    )


def _dotted(content: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value
