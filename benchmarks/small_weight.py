"""A small weight on an easy reward: what dividing by the group's standard deviation makes of it.

    python benchmarks/small_weight.py [--seeds 42 43] [--steps 100]

`examples/your_own.py` in fresh processes, with and without a length penalty of weight 0.1, with and without the
division; held-out accuracy before and after. The table of `examples/*/your_own.md`; other tasks may differ.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys

from _common import ROOT, commit, table, write_results

ARMS = {
    "no penalty, divided": ("--scale", "group", "--short", "0"),
    "penalty × 0.1, divided": ("--scale", "group"),
    "penalty × 0.1, not divided": ("--scale", "none"),
}


def main() -> None:
    """Run all arms on all seeds and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43])
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    rows = []
    for arm, options in ARMS.items():
        figures = [run(("--steps", str(args.steps), *options), seed) for seed in args.seeds]
        cells = [f"{100 * b:.1f} → {100 * a:.1f} %, {t0:.0f} → {t1:.0f} tokens" for (b, a), (t0, t1) in figures]
        rows.append([arm, *cells])
    text = [
        "# A small weight on an easy reward",
        "",
        f"Held-out puzzles right (100 × 8 answers) and tokens, before → after {args.steps} steps.",
        "",
        *table(["", *(f"seed {seed}" for seed in args.seeds)], rows),
        "",
        f"`python benchmarks/small_weight.py`, {os.cpu_count()} CPU cores, {platform.machine()}, {commit()}.",
    ]
    print("\n".join(text))
    write_results("small_weight", text)


def run(options: tuple[str, ...], seed: int) -> list[tuple[float, float]]:
    """Accuracy and tokens, each before and after."""
    command = [sys.executable, "examples/your_own.py", *options, "--seed", str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    pairs = re.findall(r"held out, [^:]+: ([\d.]+) → ([\d.]+)", done.stdout)
    return [(float(before), float(after)) for before, after in pairs]


if __name__ == "__main__":
    main()
