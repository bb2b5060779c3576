"""Your own data and your own rewards: `python examples/your_own.py` (your_own.md explains it).

What it is: 300 puzzles in a file, two rewards, and the embedded model trained on them for a minute on a CPU, offline.
What it is not: the quickstart, which trains longer and says how true the thoughts are.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dunwu.rewards import answer_in_tags, completion_text, solves

PUZZLES = Path(__file__).with_name("puzzles.jsonl")


def right(
    completions: Sequence[Any], numbers: Sequence[list[int]], target: Sequence[int], **columns: object
) -> list[float]:
    """1.0 where the answer uses every number once and comes to the target, else 0.0."""
    answers = [answer_in_tags(completion_text(completion)) for completion in completions]
    rows = zip(answers, numbers, target, strict=True)
    return [float(answer is not None and solves(answer, n, t)) for answer, n, t in rows]


def short(completion_ids: Sequence[Sequence[int]], **columns: object) -> list[float]:
    """Minus a hundredth for every token."""
    return [-len(ids) / 100 for ids in completion_ids]


def coin(completions: Sequence[Any], **columns: object) -> list[float]:
    """Heads or tails, whatever the model wrote: a control, see not_learning.md."""
    return [float(random.random() < 0.5) for _ in completions]


def main(given: argparse.Namespace) -> None:
    """Train on 200 of the puzzles; the other 100 say whether it learned."""
    from dunwu import GRPOConfig, GRPOTrainer
    from dunwu.embedded import embedded_model_path
    from dunwu.tasks.read_rows import read_rows

    table = read_rows(PUZZLES)
    rows = [{**row, "prompt": [{"role": "user", "content": row["question"]}]} for row in table]
    config = GRPOConfig(
        output_dir=given.output,
        max_steps=given.steps,
        prompts_per_step=16,
        num_generations=8,
        max_completion_length=120,
        learning_rate=2.5e-4,
        beta=0.008,
        reward_weights=[1.0, given.short],
        scale_rewards=given.scale,
        seed=given.seed,
        logging_steps=10,
        save_strategy="no",
    )
    trainer = GRPOTrainer(
        embedded_model_path(), [right, short], config, train_dataset=rows[:200], eval_dataset=rows[200:]
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    for name in ("rewards/right/mean", "completions/mean_length"):
        print(f"held out, {name}: {before[f'eval_{name}']:.3f} → {after[f'eval_{name}']:.3f}")
    trainer.save_model()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--short", type=float, default=0.1, help="weight of the second reward (default: 0.1)")
    parser.add_argument("--scale", default="none", choices=("group", "batch", "none"), help="(default: none)")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--output", default="runs/your_own")
    main(parser.parse_args())
