"""`dunwu quickstart`: train the embedded model on Countdown and show what it learned."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dunwu._utils.commands import dunwu_command
from dunwu._utils.language import translated
from dunwu.cli.train import add_run_arguments, before_and_after, run_one, table_row
from dunwu.recipes.recipe import load_recipe
from dunwu.reports.run_folder import next_free_folder

if TYPE_CHECKING:
    from dunwu.recipes.evaluation import GradedCompletion
    from dunwu.recipes.experiment import ExperimentResult

__all__ = ["LISTS_OPTIONS", "TAKES_OVERRIDES", "add_arguments", "run"]

TAKES_OVERRIDES = True
LISTS_OPTIONS = ("recipe", "task", "evaluate", "train")

_PUZZLES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--output", default="runs/quickstart", help="the run's folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="of sampling and order (default: %(default)s)")
    add_run_arguments(parser)
    parser.epilog = "Any option of the recipe can be overridden: --train.max_steps 40 --evaluate.rows 100"


def run(args: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Train, then the table, three puzzles and what to do next."""
    given = {"train.output_dir": args.output, "train.seed": str(args.seed), **overrides}
    recipe = load_recipe("quickstart", {**given, **({"resume": "true"} if args.resume else {})})
    about = "Countdown: use each number once to reach the target. Watch equation_solves and the tokens grow."
    print(translated(about))
    result = run_one(recipe, args, log_every=10)
    if result is not None:
        parts = [_table(result), _puzzles(result), _next_steps(result, args.output)]
        print("\n" + "\n\n".join(part for part in parts if part))
    return 0


def _table(result: ExperimentResult) -> str:
    if result.before is None or result.after is None:
        return translated("no evaluation was asked for")
    before, after = result.summary["before"], result.summary["after"]
    rows = [before_and_after(result.before, result.after)]
    for label, name, form in (
        ("tokens per thought", "thought_tokens", "{:.1f}"),
        ("attempts per thought", "trials", "{:.1f}"),
        ("arithmetic correct", "arithmetic_right", "{:.1%}"),
        ("verdicts correct", "verdicts_right", "{:.1%}"),
        ("attempts repeated", "repeats", "{:.1%}"),
    ):
        if name in before and name in after:
            rows.append(table_row(label, form.format(before[name]), form.format(after[name])))
    return "\n".join(rows)


def _puzzles(result: ExperimentResult) -> str:
    """Three puzzles that it could not solve before and can now, with both completions."""
    pairs = [(old, new) for old, new in _pairs(result) if new.grade.strict and not old.grade.strict]
    if not pairs:
        nothing = "No puzzle's greedy answer changed from wrong to right."
        return translated(nothing) if result.after is not None else ""
    blocks = [
        translated(f"{_puzzle(new)}\n  before (wrong): {_one_line(old)}\n  after  (right): {_one_line(new)}")
        for old, new in pairs[:_PUZZLES]
    ]
    return "\n".join([translated("Puzzles whose answer changed from wrong to right:"), *blocks])


def _next_steps(result: ExperimentResult, output: str) -> str:
    steps = int(result.steps[-1]["step"]) if result.steps else 0
    solved = [new for _, new in _pairs(result) if new.grade.strict]
    asked = ["--message", _puzzle(solved[0])] if solved else []
    minutes = result.seconds / 60
    another = next_free_folder(Path(output))
    changed = ["quickstart", "--output", another, "--train.learning_rate", "1e-4"]
    return translated(
        "\n".join(
            [
                f"{steps:,} step{'' if steps == 1 else 's'} in {minutes:.1f} minutes of training, all here.",
                f"In {result.folder}: model, report.md, curves.png, metrics.jsonl, rollouts.jsonl",
                "",
                f"ask it             {dunwu_command('chat', result.folder, *asked)}",
                f"read what it said  {dunwu_command('rollouts', result.folder, '--step', 'last')}",
                f"change something   {dunwu_command(*changed)}",
                f"and then compare   {dunwu_command('compare', result.folder, another)}",
            ]
        )
    )


def _pairs(result: ExperimentResult) -> list[tuple[GradedCompletion, GradedCompletion]]:
    if result.before is None or result.after is None:
        return []
    return list(zip(result.before.greedy, result.after.greedy, strict=True))


def _puzzle(one: GradedCompletion) -> str:
    """The puzzle as one types it."""
    return f"{' '.join(map(str, one.prompt.row['nums']))} = {one.prompt.row['target']}"


def _one_line(one: GradedCompletion) -> str:
    return " ⏎ ".join(one.completion.text.strip().splitlines())
