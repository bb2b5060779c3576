"""`dunwu rewards RECIPE --text ...`: score a text with every reward of a recipe, before training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dunwu._utils.language import translated
from dunwu.errors import ConfigError
from dunwu.recipes.recipe import built_in_recipes, load_recipe

if TYPE_CHECKING:
    from dunwu.core.protocols import Task
    from dunwu.core.records import Message, Row

__all__ = ["TAKES_OVERRIDES", "add_arguments", "run"]

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "recipe", metavar="RECIPE", help=f"a YAML file, a run's folder, or one of: {', '.join(built_in_recipes())}"
    )
    parser.add_argument("--text", help="the completion to score; `-` reads it from standard input")
    parser.add_argument("--gold", action="store_true", help="score the row's gold answer instead")
    parser.add_argument("--row", type=int, default=0, help="which training row to answer (default: %(default)s)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="COLUMN=VALUE", help="use this value for a column of the row"
    )


def run(args: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Print what each reward gives, and how the task grades the text."""
    from dunwu.recipes.wiring import make_task

    recipe = load_recipe(args.recipe, overrides)
    task = make_task(recipe)
    row = _row(task, args)
    text = _text(task, row, args)
    prompt = task.prompt(row)
    print(translated("prompt: {text}", text=prompt if isinstance(prompt, str) else prompt[-1]["content"]))
    columns = {name: value for name, value in row.items() if name != "prompt"}
    shown = ", ".join(f"{name}={value!r:.60}" for name, value in columns.items())
    print(translated("row {row}: {columns}", row=args.row, columns=shown))
    print(translated("text: {text!r}", text=text) + "\n")
    print(_scores(task, recipe.train.get("reward_weights"), prompt, text, columns))
    grade = task.grade(row, text)
    parts = {"strict": grade.strict, "lenient": grade.lenient, "formatted": grade.formatted}
    words = {True: translated("yes"), False: translated("no")}
    print(translated("the task's own grade: " + ", ".join(f"{name} {words[found]}" for name, found in parts.items())))
    return 0


def _row(task: Task, args: argparse.Namespace) -> Row:
    from dunwu._utils.yaml_1_2 import parse_value

    rows = task.rows("train")
    if not 0 <= args.row < len(rows):
        raise ConfigError(f"--row {args.row} is not there; the training split has rows 0 to {len(rows) - 1}")
    row = dict(rows[args.row])
    for given in args.set:
        name, found, value = given.partition("=")
        if not found:
            raise ConfigError(f"--set {given!r} must read COLUMN=VALUE, for example --set target=24")
        # A gold answer such as "72" is text in the data; it must stay text for the rewards to compare.
        row[name] = value if isinstance(row.get(name), str) else parse_value(value)
    return row


def _text(task: Task, row: Row, args: argparse.Namespace) -> str:
    if args.gold:
        gold = task.gold_completion(row)
        if gold is None:
            raise ConfigError(f"row {args.row} has no gold answer that can be written down; give --text")
        return gold
    if args.text is None:
        raise ConfigError("there is no text to score; give --text '...' (or --text - for standard input), or --gold")
    # A shell passes \n as two characters; rewards about lines would all fail on it.
    return sys.stdin.read() if args.text == "-" else str(args.text).replace("\\n", "\n")


def _scores(task: Task, weights: Sequence[float] | None, prompt: str | list[Message], text: str, columns: Row) -> str:
    from dunwu.rewards import RewardRunner

    runner = RewardRunner(list(task.rewards), weights=weights, on_error="skip")
    completion = text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
    scores = runner.score(
        prompts=[prompt],
        completions=[completion],
        completion_ids=[[]],
        columns={name: [value] for name, value in columns.items()},
    )
    wide = max(len(name) for name in scores.names)
    lines = [
        f"{name:{wide}}  {'–' if value is None else f'{value:g}'}"
        for name, value in zip(scores.names, scores.values[0], strict=True)
    ]
    lines += [f"{failure.function}: {failure.kind}: {failure.detail}" for failure in scores.failures]
    total = runner.total(scores)[0]
    return "\n".join([*lines, f"{'sum':{wide}}  {'–' if total is None else f'{total:g}'}"])
