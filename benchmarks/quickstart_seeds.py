"""The quickstart on several seeds: accuracy before and after, and how true the thoughts are.

    python benchmarks/quickstart_seeds.py [--recipe quickstart_long] [--seeds 42 43 44] [--split test]

`dunwu train quickstart` in fresh processes one after the other, and a table of their summaries. Settings are
chosen with `--split validation`; what is reported is the test split. Every seed that was run is in the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from _common import ROOT, machine, table, write_results

COLUMNS = {
    "sampled": "sampled",
    "greedy": "greedy",
    "format": "format",
    "thought_tokens": "thought tokens",
    "trials": "trials",
    "arithmetic_right": "arithmetic right",
    "verdicts_right": "verdicts right",
    "repeats": "repeats",
    "sampled_cut": "cut, sampled",
    "greedy_cut": "cut, greedy",
}


def main() -> None:
    """Run the seeds and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", choices=("quickstart", "quickstart_long"), default="quickstart")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--out", type=Path, help="where the runs go (default: runs/RECIPE_seeds)")
    args, overrides = parser.parse_known_args()
    args.out = args.out or ROOT / "runs" / f"{args.recipe}_seeds"
    summaries = [run(seed, args, overrides) for seed in args.seeds]
    lines = report(summaries, args, overrides)
    print("\n".join(lines))
    if args.split == "test" and not overrides:
        write_results(args.recipe, lines, summaries)


def run(seed: int, args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """One seed in a process of its own."""
    folder = args.out / f"{args.split}-{seed}"
    own = {"train.seed": str(seed), "train.output_dir": str(folder), "evaluate.split": args.split}
    words = [word for name, value in own.items() for word in (f"--{name}", value)]
    subprocess.run(
        [sys.executable, "-m", "dunwu", "train", args.recipe, "--overwrite", *words, *overrides], check=True
    )
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {"seed": seed, **found}


def report(summaries: list[dict[str, Any]], args: argparse.Namespace, overrides: list[str]) -> list[str]:
    """A table: each seed before and after, and the change in points."""
    seeds, more = " ".join(map(str, args.seeds)), "".join(f" {word}" for word in overrides)
    after = summaries[0]["after"]
    rows = []
    for summary in summaries:
        seed = str(summary["seed"])
        for when in ("before", "after"):
            seconds = f"{summary['seconds']:.0f}" if when == "after" else ""
            rows.append([seed, when, seconds, *(shown(name, summary[when][name]) for name in COLUMNS)])
        change = [difference(name, summary["after"][name] - summary["before"][name]) for name in COLUMNS]
        rows.append([seed, "change", "", *change])
    which = "" if args.recipe == "quickstart" else f" --recipe {args.recipe}"
    return [
        f"# `{args.recipe}` on {len(args.seeds)} seed{'s' * (len(args.seeds) > 1)}",
        "",
        f"`python benchmarks/quickstart_seeds.py{which} --seeds {seeds} --split {args.split}{more}`, {machine()}.",
        f"{int(after['prompts'])} held-out puzzles of the {args.split} split, {int(after['samples'])} samples each; "
        "accuracy: right and in the demanded format.",
        "",
        *table(["seed", "", "seconds of training", *COLUMNS.values()], rows),
    ]


def shown(name: str, value: float) -> str:
    """A figure: counts plain, shares in per cent."""
    return f"{value:.1f}" if name in ("thought_tokens", "trials") else f"{value:.1%}"


def difference(name: str, value: float) -> str:
    """A change: counts plain, shares in points."""
    return f"{value:+.1f}" if name in ("thought_tokens", "trials") else f"{100 * value:+.1f}"


if __name__ == "__main__":
    main()
