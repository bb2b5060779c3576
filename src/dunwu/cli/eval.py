"""`dunwu eval MODEL --task T`: measure a model's accuracy on a task."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dunwu.errors import ConfigError

if TYPE_CHECKING:
    from dunwu.core.protocols import Task
    from dunwu.recipes.options import Options

__all__ = ["TAKES_OVERRIDES", "add_arguments", "run"]

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("model", metavar="MODEL", help="a hub name, a folder, or `embedded`")
    parser.add_argument(
        "--task", required=True, help="countdown, gsm8k, tldr, own, package.module:Class, or a recipe's name or file"
    )
    parser.add_argument("--split", default="test", choices=("train", "validation", "test"))
    parser.add_argument("--rows", type=int, default=500, help="how many rows, from the start (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=4, help="sampled completions a row (default: %(default)s)")
    parser.add_argument(
        "--max-new-tokens", type=int, default=256, help="token limit of a completion (default: %(default)s)"
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="of the samples (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the metrics as one JSON object")
    parser.epilog = "The task's own options: --task.source data/gsm8k --task.style tiny"


def run(args: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Load, complete, grade, print."""
    from dunwu.engines import make_engine
    from dunwu.model.loading import load_model, to_best_device
    from dunwu.recipes.evaluation import evaluate
    from dunwu.recipes.recipe import prompt_rows
    from dunwu.recipes.wiring import make_tokenizer, model_source
    from dunwu.rollout.training_prompts import prompts_for_model

    for name in ("rows", "samples", "max_new_tokens"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    if not 0 <= args.temperature < float("inf"):
        raise ConfigError(f"--temperature must be 0 or more, got {args.temperature}")
    task = _task(args.task, overrides)
    rows = prompt_rows(task, list(task.rows(args.split)[: args.rows]))
    tokenizer = make_tokenizer(args.model)
    model = to_best_device(load_model(model_source(args.model)))
    report = evaluate(
        make_engine(model, tokenizer),
        task,
        prompts_for_model(rows, model, tokenizer, max_completion_length=args.max_new_tokens),
        policy=model,
        version=0,
        samples=args.samples,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        seed=args.seed,
    )
    print(json.dumps(report.metrics(), indent=2) if args.json else report.table())
    return 0


def _task(name: str, overrides: Mapping[str, str]) -> Task:
    from dunwu._utils.yaml_1_2 import parse_value
    from dunwu.recipes.recipe import Recipe, built_in_recipes, load_recipe
    from dunwu.recipes.wiring import make_task

    if name in built_in_recipes() or Path(name).suffix in (".yaml", ".yml"):
        return make_task(load_recipe(name, overrides), for_training=False)
    options: Options = {"name": name}
    for dotted, value in overrides.items():
        section, _, option = dotted.partition(".")
        if section != "task" or not option:
            raise ConfigError(f"--{dotted} is unknown; a task's option reads --task.OPTION")
        options[option] = parse_value(value)
    return make_task(Recipe(model="", task=options), for_training=False)
