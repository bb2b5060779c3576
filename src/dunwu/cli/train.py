"""`dunwu train RECIPE [--section.option value]`: train what a recipe describes, or go on with a run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dunwu._utils.commands import dunwu_command
from dunwu._utils.language import translated
from dunwu._utils.logging import set_verbosity
from dunwu._utils.terminal_text import pad_left, pad_right
from dunwu.recipes.recipe import Recipe, built_in_recipes, load_recipe

if TYPE_CHECKING:
    from dunwu.recipes.evaluation import Evaluation, GradeKind
    from dunwu.recipes.experiment import ExperimentResult

__all__ = [
    "LISTS_OPTIONS",
    "TAKES_OVERRIDES",
    "add_arguments",
    "add_run_arguments",
    "before_and_after",
    "closing_lines",
    "run",
    "run_one",
    "table_row",
]

TAKES_OVERRIDES = True
LISTS_OPTIONS = ("recipe", "task", "evaluate", "train")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        help=f"a YAML file, a run's folder (its recipe again), or one of: {', '.join(built_in_recipes())}",
    )
    add_run_arguments(parser)
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="run N seeds one after the other, and compare: --seeds 3"
    )
    parser.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="OPTION=A,B",
        help="run each value one after the other, and compare: --sweep train.loss_type=grpo,dapo",
    )
    parser.epilog = "Any option of the recipe: --train.learning_rate 1e-5 --task.source data/gsm8k --lora.r 16"


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command takes that trains."""
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the run's folder")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is in the folder already")
    parser.add_argument("--verbose", action="store_true", help="also log what only matters when something is wrong")


def run(args: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Train, evaluate where the recipe asks for it, and print where everything is."""
    given = {**overrides, **({"resume": "true"} if args.resume else {})}
    if args.seeds is not None or args.sweep:
        return _run_several(args, overrides)
    recipe = load_recipe(args.recipe, given)
    result = run_one(recipe, args)
    if result is not None:
        print(closing_lines(result))
    return 0


def _run_several(args: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Seeds or a sweep, and then the comparison."""
    from dunwu.recipes.sweep import plan_runs, run_all
    from dunwu.reports.comparison import compare_runs

    planned = plan_runs(args.recipe, overrides, seeds=args.seeds, swept=args.sweep)
    folders = run_all(args.recipe, planned, overwrite=args.overwrite)
    above = folders[0].parent
    comparison = compare_runs(folders)
    (above / "comparison.md").write_text(comparison.markdown() + "\n", encoding="utf-8")
    comparison.draw(above / "comparison.png")
    where = translated(f"{above / 'comparison.md'} has the same, comparison.png the curves")
    print(f"\n{comparison.table()}\n\n{where}")
    return 0


def run_one(recipe: Recipe, args: argparse.Namespace, *, log_every: int = 5) -> ExperimentResult | None:
    """Run a recipe; None on every process but the main one.

    Ctrl-C: what is saved where, and the command that goes on, are the message of the KeyboardInterrupt.
    """
    from dunwu.recipes.experiment import Experiment
    from dunwu.training.interruption import RunInterrupted

    set_verbosity(args.verbose)
    experiment = Experiment(recipe, log_every=log_every, overwrite=args.overwrite)
    again = dunwu_command("train", experiment.folder, "--resume")
    try:
        result = experiment.run()
    except RunInterrupted as stopped:
        raise KeyboardInterrupt(
            f"stopped after step {stopped.step} of {stopped.total}. Model, checkpoint, metrics and picture are in "
            f"{experiment.folder}; this goes on:\n  {again}"
        ) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_stopped_at_once(experiment.folder, again)) from None
    return result if experiment.is_main else None


def _stopped_at_once(folder: object, again: str) -> str:
    from pathlib import Path

    from dunwu.training.checkpoint import last_complete_checkpoint

    last = last_complete_checkpoint(Path(str(folder)))
    if last is None:
        return f"stopped before anything was saved; what was logged is in {folder}"
    return f"stopped; the last checkpoint is {last}, and this goes on from it:\n  {again}"


_ROWS: tuple[tuple[str, GradeKind, bool], ...] = (
    ("correct, greedy", "strict", True),
    ("correct, sampled", "strict", False),
    ("correct anywhere, greedy", "lenient", True),
    ("format, sampled", "formatted", False),
)
"""Label, kind of grade, and whether it is of the greedy completions."""


def closing_lines(result: ExperimentResult) -> str:
    """What is printed at the end of a run."""
    steps = int(result.steps[-1]["step"]) if result.steps else 0
    lines = [translated(f"trained {steps:,} step{'' if steps == 1 else 's'} in {_duration(result.seconds)}")]
    if result.before is not None and result.after is not None:
        lines.append(before_and_after(result.before, result.after))
    ends = [
        f"model, summary.json, metrics.jsonl, rollouts.jsonl and curves.png are in {result.folder}",
        f"talk to it:           {dunwu_command('chat', result.folder)}",
        f"read what it said:    {dunwu_command('rollouts', result.folder)}",
    ]
    return "\n".join([*lines, *map(translated, ends)])


def before_and_after(before: Evaluation, after: Evaluation) -> str:
    """A table of the two, with 95 % intervals."""
    rows = [table_row(f"{len(after.greedy)} held-out prompts", translated("before"), translated("after"))]
    for label, kind, greedy in _ROWS if after.has_answers else ():
        shares = [str(evaluation.share(kind, greedy=greedy)) for evaluation in (before, after)]
        rows.append(table_row(label, *shares))
    then, now = before.mean_rewards(greedy=False), after.mean_rewards(greedy=False)
    for name in now:
        if name in then:
            label = "reward, sampled" if name == "reward" else f"  {name.removeprefix('reward/')}"
            rows.append(table_row(label[:27], f"{then[name]:.3f}", f"{now[name]:.3f}"))
    tokens = [f"{evaluation.mean_tokens(greedy=False):.1f}" for evaluation in (before, after)]
    rows.append(table_row("tokens an answer, sampled", *tokens))
    return "\n".join(rows)


def table_row(label: str, before: str, after: str) -> str:
    """A line of the table of before and after."""
    return pad_right(translated(label), 28) + pad_left(before, 22) + pad_left(after, 22)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return translated("{seconds:.0f} s", seconds=seconds)
    return translated("{minutes:.1f} min", minutes=seconds / 60)
