"""A small weight on an easy reward: what dividing by the group's standard deviation makes of it.

    python benchmarks/small_weight.py [--seeds 42 43]

What it is: `examples/your_own.py` in fresh processes, with and without a length penalty of weight 0.1, with and
without the division; held-out accuracy before and after. The table of `examples/*/your_own.md`.
What it is not: a rule for every task.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARMS = {
    "no penalty, divided": ("--scale", "group", "--short", "0"),
    "penalty × 0.1, divided": ("--scale", "group"),
    "penalty × 0.1, not divided": ("--scale", "none"),
}


def main() -> None:
    """Run all arms on all seeds and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43])
    seeds = parser.parse_args().seeds
    found = {arm: [run(options, seed) for seed in seeds] for arm, options in ARMS.items()}
    lines = [f"| | {' | '.join(f'seed {seed}' for seed in seeds)} |", "|---" * (1 + len(seeds)) + "|"]
    for arm, figures in found.items():
        cells = [f"{100 * b:.1f} → {100 * a:.1f} %, {t0:.0f} → {t1:.0f} tokens" for (b, a), (t0, t1) in figures]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    title = "# A small weight on an easy reward\n\n"
    title += "Held-out puzzles right (100 × 8 answers) and tokens, before → after 100 steps."
    machine = (
        f"`python benchmarks/small_weight.py`, {os.cpu_count()} CPU cores, {platform.machine()}, {commit.strip()}."
    )
    text = "\n\n".join([title, "\n".join(lines), machine])
    print(text)
    (ROOT / "benchmarks" / "results" / "small_weight.md").write_text(text + "\n", encoding="utf-8")


def run(options: tuple[str, ...], seed: int) -> list[tuple[float, float]]:
    """Accuracy and tokens, each before and after."""
    command = [sys.executable, "examples/your_own.py", *options, "--seed", str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    pairs = re.findall(r"held out, [^:]+: ([\d.]+) → ([\d.]+)", done.stdout)
    return [(float(before), float(after)) for before, after in pairs]


if __name__ == "__main__":
    main()
