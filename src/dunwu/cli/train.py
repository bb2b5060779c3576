"""`dunwu train RECIPE [--section.option value]`: train what a recipe describes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dunwu.recipes.recipe import built_in_recipes, load_recipe

if TYPE_CHECKING:
    from dunwu.recipes.evaluation import Evaluation, GradeKind
    from dunwu.recipes.experiment import ExperimentResult

__all__ = ["TAKES_OVERRIDES", "add_arguments", "before_and_after", "report", "run"]

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("recipe", metavar="RECIPE", help=f"a YAML file, or one of: {', '.join(built_in_recipes())}")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in train.output_dir")
    parser.epilog = "Any option of the recipe: --train.learning_rate 1e-5 --task.source data/gsm8k"


def run(args: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Train, evaluate where the recipe asks for it, and print where everything is."""
    recipe = load_recipe(args.recipe, {**overrides, **({"resume": "true"} if args.resume else {})})
    from dunwu.recipes.experiment import Experiment

    experiment = Experiment(recipe)
    result = experiment.run()
    if experiment.is_main:
        print(report(result))
    return 0


_ROWS: tuple[tuple[str, GradeKind, bool], ...] = (
    ("right, greedy", "strict", True),
    ("right, sampled", "strict", False),
    ("right anywhere, greedy", "lenient", True),
    ("format, sampled", "formatted", False),
)
"""Label, kind of grade, and whether it is of the greedy completions."""


def report(result: ExperimentResult) -> str:
    """What is printed at the end of a run."""
    lines = [f"trained {len(result.steps)} steps in {result.seconds:.0f} s"]
    if result.before is not None and result.after is not None:
        lines.append(before_and_after(result.before, result.after))
    lines.append(f"model, tokenizer, summary.json, rollouts.jsonl and curves.png are in {result.folder}")
    return "\n".join(lines)


def before_and_after(before: Evaluation, after: Evaluation) -> str:
    """A table of the two, ± one standard error."""
    rows = [f"{f'{len(after.greedy)} held-out prompts':28}{'before':>16}{'after':>16}"]
    for label, kind, greedy in _ROWS:
        shares = [str(evaluation.share(kind, greedy=greedy)) for evaluation in (before, after)]
        rows.append(f"{label:28}{shares[0]:>16}{shares[1]:>16}")
    tokens = [f"{evaluation.mean_tokens(greedy=False):.1f}" for evaluation in (before, after)]
    rows.append(f"{'tokens an answer, sampled':28}{tokens[0]:>16}{tokens[1]:>16}")
    return "\n".join(rows)
