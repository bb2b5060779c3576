"""`dunwu quickstart`: train the embedded model on Countdown and show what it learned."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dunwu.cli.train import before_and_after
from dunwu.recipes.recipe import load_recipe

if TYPE_CHECKING:
    from dunwu.recipes.experiment import ExperimentResult

__all__ = ["TAKES_OVERRIDES", "add_arguments", "run"]

TAKES_OVERRIDES = True

_PUZZLES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--output", default="runs/quickstart", help="the run's folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="of sampling and order (default: %(default)s)")
    parser.epilog = "Any option of the recipe can be overridden: --train.max_steps 40 --evaluate.rows 100"


def run(args: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Train, then the table, three puzzles and the picture."""
    given = {"train.output_dir": args.output, "train.seed": str(args.seed), **overrides}
    recipe = load_recipe("quickstart", given)
    from dunwu.recipes.experiment import Experiment

    print("Countdown: use each number once to reach the target. Watch equation_solves and the tokens grow.")
    result = Experiment(recipe, log_every=10).run()
    print(f"\n{_table(result)}\n\n{_puzzles(result)}\n")
    print(f"{len(result.steps)} steps in {result.seconds / 60:.1f} minutes of training, all on this machine.")
    print(f"The curves are in {result.folder / 'curves.png'}, all completions in rollouts.jsonl beside it.")
    print(f"Ask it yourself: dunwu chat {result.folder}   (a puzzle reads: 3 14 17 = 51)")
    return 0


def _table(result: ExperimentResult) -> str:
    if result.before is None or result.after is None:
        return "no evaluation was asked for"
    summary = json.loads((result.folder / "summary.json").read_text(encoding="utf-8"))
    before, after = summary["before"], summary["after"]
    rows = [before_and_after(result.before, result.after)]
    for label, name, form in (
        ("tokens a thought", "thought_tokens", "{:.1f}"),
        ("trials a thought", "trials", "{:.1f}"),
        ("arithmetic right", "arithmetic_right", "{:.1%}"),
        ("verdicts right", "verdicts_right", "{:.1%}"),
        ("trials repeated", "repeats", "{:.1%}"),
    ):
        if name in before and name in after:
            rows.append(f"{label:28}{form.format(before[name]):>16}{form.format(after[name]):>16}")
    return "\n".join(rows)


def _puzzles(result: ExperimentResult) -> str:
    """Three puzzles, those first that it could not solve before and can now, with both completions."""
    if result.before is None or result.after is None:
        return ""
    pairs = list(zip(result.before.greedy, result.after.greedy, strict=True))
    ordered = sorted(pairs, key=lambda pair: pair[0].grade.strict - pair[1].grade.strict)
    blocks = []
    for old, new in ordered[:_PUZZLES]:
        row = new.prompt.row
        blocks.append(
            f"{row['nums']} → {row['target']}\n"
            f"  before ({'right' if old.grade.strict else 'wrong'}): {_one_line(old.completion.text)}\n"
            f"  after  ({'right' if new.grade.strict else 'wrong'}): {_one_line(new.completion.text)}"
        )
    return "\n".join(["Three puzzles, chosen among those where the answer changed for the better:", *blocks])


def _one_line(text: str) -> str:
    return " ⏎ ".join(text.strip().splitlines())
