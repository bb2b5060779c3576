"""`dunwu eval MODEL`: measure a model's accuracy on a task; of a run's folder, as the run itself did."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dunwu._utils.language import translated
from dunwu.errors import ConfigError

if TYPE_CHECKING:
    from dunwu.recipes.evaluation import Evaluation
    from dunwu.recipes.options import Options
    from dunwu.recipes.recipe import Recipe
    from dunwu.recipes.trained_model import TrainedModel

__all__ = ["LISTS_OPTIONS", "TAKES_OVERRIDES", "add_arguments", "run"]

TAKES_OVERRIDES = True
LISTS_OPTIONS = ("task", "evaluate")

_OPTIONS = {
    "split": "evaluate.split",
    "rows": "evaluate.rows",
    "samples": "evaluate.samples",
    "max_new_tokens": "train.max_completion_length",
    "temperature": "train.temperature",
    "seed": "train.seed",
}
"""Argument to the recipe's option that it stands for."""
_DEFAULTS = {"max_completion_length": 256, "temperature": 1.0, "seed": 0}
"""For a model that is of no run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("model", metavar="MODEL", help="a run's folder, a hub name, a model's folder, or `embedded`")
    parser.add_argument(
        "--task",
        help="countdown, gsm8k, tldr, own, package.module:Class, or a recipe's name or file (default: the run's own)",
    )
    parser.add_argument(
        "--split", choices=("train", "validation", "test"), help="which rows (default: the run's; test)"
    )
    parser.add_argument("--rows", type=int, help="how many rows, from the start (default: the run's; 500)")
    parser.add_argument("--samples", type=int, help="sampled completions a row (default: the run's; 4)")
    parser.add_argument(
        "--max-new-tokens", type=int, help="token limit of a completion (default: that of the run's training; 256)"
    )
    parser.add_argument("--temperature", type=float, help="of the samples (default: the run's; 1.0)")
    parser.add_argument("--seed", type=int, help="of the samples (default: the run's; 0)")
    parser.add_argument("--source", choices=("auto", "hf", "modelscope", "local"), help="where names are looked up")
    parser.add_argument("--json", action="store_true", help="print the metrics as one JSON object")
    parser.epilog = "Options of the recipe: --task.source data/gsm8k --task.style tiny --evaluate.rewards false"


def run(args: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Load, complete, grade, print."""
    from dunwu.recipes.trained_model import find_model

    for name in ("rows", "samples", "max_new_tokens"):
        given = getattr(args, name)
        if given is not None and given < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {given}")
    if args.temperature is not None and not 0 <= args.temperature < float("inf"):
        raise ConfigError(f"--temperature must be 0 or more, got {args.temperature}")
    model = find_model(args.model)
    content = _content(args, model)
    recipe = _recipe(content, args, overrides)
    for line in _said(recipe, args, model):
        print(translated(line), file=sys.stderr if args.json else sys.stdout)
    report = _evaluation(recipe, model)
    print(json.dumps(report.metrics(), indent=2) if args.json else report.table())
    return 0


def _content(args: argparse.Namespace, model: TrainedModel) -> Options:
    """The recipe that the figures follow: the one named, or the run's, with a plain task in its task's place."""
    from dunwu.recipes.recipe import built_in_recipes, recipe_content

    if args.task is None:
        if not model.recipe:
            raise ConfigError(f"{args.model} is no run's folder, so its task is not known: --task gsm8k, for example")
        return {**model.recipe, "evaluate": model.recipe.get("evaluate") or {}}
    if args.task in built_in_recipes() or Path(args.task).suffix in (".yaml", ".yml") or Path(args.task).is_dir():
        content = recipe_content(args.task)
        return {**content, "evaluate": content.get("evaluate") or {}}
    plain: Options = {"model": args.model, "train": dict(_DEFAULTS), "evaluate": {}}
    base = {**model.recipe, "evaluate": model.recipe.get("evaluate") or {}} if model.run is not None else plain
    train = {name: value for name, value in (base.get("train") or {}).items() if name != "reward_weights"}
    return {**base, "task": {"name": args.task}, "rewards": None, "max_reward": None, "train": train}


def _recipe(content: Options, args: argparse.Namespace, overrides: Mapping[str, str]) -> Recipe:
    from dunwu.recipes.recipe import make_recipe

    given = {option: str(getattr(args, name)) for name, option in _OPTIONS.items() if getattr(args, name) is not None}
    if args.source is not None:
        given["source"] = args.source
    fixed = {"resume": "false", "train.report_to": "none"}
    return make_recipe(content, {**overrides, **given, **fixed}, where="the options")


def _said(recipe: Recipe, args: argparse.Namespace, model: TrainedModel) -> Iterator[str]:
    """What is measured, and what in it is not as the run had it."""
    section, train = recipe.evaluate, recipe.train
    assert section is not None, "_content gives every recipe one"
    limit, temperature = train.get("max_completion_length", 256), train.get("temperature", 1.0)
    yield (
        f"{model.name}: {recipe.task['name']}, {section.split} split, up to {section.rows} rows, {section.samples} "
        f"samples at temperature {temperature:g}, limit {limit} tokens, seed {train.get('seed', 42)}"
    )
    if model.run is None:
        return
    from dunwu.recipes.start import differing_options

    changed = differing_options(model.recipe, recipe)
    parts = ("evaluate.", "train.") if args.task is not None else ("task.", "evaluate.", "train.", "rewards")
    names = [name for name in changed if name.startswith(parts) and name != "train.reward_weights"]
    if args.task is not None:
        yield f"not as in the run: the task and its rewards are those of --task {args.task}"
    yield from (f"not as in the run: {name} {changed[name][1]!r} (there {changed[name][0]!r})" for name in names)


def _evaluation(recipe: Recipe, model: TrainedModel) -> Evaluation:
    from dunwu.recipes.held_out import make_held_out
    from dunwu.recipes.wiring import make_config, make_recipe_environment, make_task
    from dunwu.rollout.plugs import make_run_engine, make_scorer

    assert recipe.evaluate is not None
    task, config = make_task(recipe, for_training=False), make_config(recipe)
    policy, tokenizer = model.load(recipe.source)
    scorer = make_scorer(list(task.rewards), None, config) if task.rewards and recipe.evaluate.rewards else None
    held_out = make_held_out(task, recipe.evaluate, config, model=policy, tokenizer=tokenizer, scorer=scorer)
    environment = make_recipe_environment(recipe)
    return held_out.evaluate(make_run_engine(policy, tokenizer, config, environment=environment), policy)
