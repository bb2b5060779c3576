"""A model as a command line names it: a hub's name, a folder, `embedded`, or a run, whose recipe comes with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dunwu._utils.logging import get_logger
from dunwu._utils.yaml_1_2 import load_yaml
from dunwu.errors import CheckpointError
from dunwu.recipes.options import Options
from dunwu.recipes.recipe import built_in_recipes
from dunwu.recipes.wiring import make_tokenizer, model_source
from dunwu.reports.run_folder import RunFolder, holds_a_run, open_run
from dunwu.training.checkpoint import last_complete_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["TrainedModel", "find_model"]


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """Where a model is, and the recipe that it was trained by.

    Example: `TrainedModel(name="runs/quickstart", source="runs/quickstart/checkpoint-100").recipe` is `{}`.
    """

    name: str
    """As it was named."""
    source: str
    """A hub's name or a folder."""
    recipe: Options = field(default_factory=dict)
    """The content of the run's recipe; empty where the model is of no run."""
    run: RunFolder | None = None
    """The run, if it is one."""

    def load(self, source: str = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model, where it computes fastest, and its tokenizer; `source` says where hubs' names are looked up.

        Raises:
            ModelError: when either cannot be loaded.
        """
        from dunwu.model.loading import load_model, to_best_device

        options: Mapping[str, object] = self.recipe.get("model_options") or {}
        known = {k: v for k, v in options.items() if k in ("revision", "trust_remote_code")}
        # The tokenizer first: it is small, and most of what can be wrong with a folder shows there.
        tokenizer = make_tokenizer(self.source, source=source, **known)  # type: ignore[arg-type]
        return to_best_device(load_model(self.source, source=source, **options)), tokenizer


def find_model(name: str) -> TrainedModel:
    """The model called `name`, with its run's recipe where it is a run's folder or a checkpoint in one.

    Raises:
        CheckpointError: for a run that has saved no model yet.
    """
    if name == "embedded":
        recipe = load_yaml(built_in_recipes()["quickstart"].read_text(encoding="utf-8"))
        return TrainedModel(name=name, source=model_source(name), recipe=recipe)
    folder = Path(name)
    if folder.is_dir() and holds_a_run(folder):
        run = open_run(folder)
        return TrainedModel(name=name, source=str(_model_of(run)), recipe=_recipe_of(run), run=run)
    above = folder.parent
    if folder.name.startswith("checkpoint-") and folder.is_dir() and holds_a_run(above):
        run = open_run(above)
        return TrainedModel(name=name, source=name, recipe=_recipe_of(run), run=run)
    return TrainedModel(name=name, source=name)


def _recipe_of(run: RunFolder) -> Options:
    """Its recipe; empty for what a script has trained, which has none."""
    return dict(run.recipe) if (run.path / "recipe.yaml").is_file() else {}


def _model_of(run: RunFolder) -> Path:
    if run.has_model:
        return run.path
    last = last_complete_checkpoint(run.path)
    if last is None:
        raise CheckpointError(f"the run in {run.path} has saved no model yet: neither at its end nor in a checkpoint")
    get_logger().info(f"{run.path} is not finished; this is its last checkpoint, {last.name}")
    return last
