"""Dunwu beside TRL 1.16 on the quickstart: seconds a step, and accuracy at equal wall time.

    python benchmarks/vs_trl.py                       # everything: about 25 minutes
    python benchmarks/vs_trl.py --seconds 60 --seeds 1

Both trainers on the same model, rows, rewards, batch, learning rate, sampling and number of threads, in
fresh processes that take turns (A B A B …), because shared machines drift. TRL lives in an environment of its own,
`.venv-trl`, made by this script. Both are judged by the same evaluation on the held-out split. The
settings are the quickstart recipe's, tuned for neither side.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _common import (
    QUIET,
    RESULTS,
    ROOT,
    embedded_tokenizer,
    in_own_process,
    machine,
    quickstart,
    table,
    write_results,
)

ENVIRONMENT = ROOT / ".venv-trl"
TRL = "trl==1.16.0"
WARM = 2
"""Steps left out of the pace: the first ones load and warm caches."""


def main() -> None:
    """Run both sides in turn and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=180.0, help="wall time of training a side and seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rows", type=int, default=500, help="held-out puzzles")
    parser.add_argument(
        "--looks", type=int, default=12, help="evaluations during training (their time is not counted)"
    )
    parser.add_argument("--look-rows", type=int, default=250, help="held-out puzzles of each")
    parser.add_argument(
        "--report", action="store_true", help="only write the table again from the last run's figures"
    )
    parser.add_argument("--side", choices=("dunwu", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "vs_trl", help="where the trained models go")
    args = parser.parse_args()
    if args.side is not None:
        print(json.dumps(work(args)))
        return
    if args.report:
        report(json.loads((RESULTS / "vs_trl.json").read_text()), args)
        return
    python = make_environment()
    runs: list[dict[str, Any]] = []
    for seed in range(args.seeds):
        for side in ("dunwu", "trl"):
            runs.append(run_side(python, args, side, seed))
            print(one_line(runs[-1]), flush=True)
    report(runs, args)


def make_environment() -> Path:
    """The interpreter of an environment with TRL, Dunwu and the pinned torch."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, "torch"], check=True)
        subprocess.run([*pip, TRL, "-e", str(ROOT)], check=True)
        (ENVIRONMENT / ".ready").touch()
    return python


def run_side(python: Path, args: argparse.Namespace, side: str, seed: int) -> dict[str, Any]:
    """One side's training and evaluation in a fresh process."""
    options = ("--side", side, "--seed", seed, "--seconds", args.seconds, "--looks", args.looks, "--out", args.out)
    sizes = ("--look-rows", args.look_rows, "--rows", args.rows, "--threads", args.threads)
    environment = {"OMP_NUM_THREADS": str(args.threads), "TRL_EXPERIMENTAL_SILENCE": "1"}
    return in_own_process(__file__, *options, *sizes, python=python, environment=environment)


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Train one side for `--seconds`, then judge it."""
    import torch
    from transformers import TrainerCallback

    from dunwu import prompt_rows

    torch.set_num_threads(args.threads)
    recipe, task = quickstart()
    rows = prompt_rows(task, task.rows("train"))
    tokenizer = embedded_tokenizer()
    folder = args.out / f"{args.side}-{args.seed}"

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Notes when each step ends, evaluates now and then while it stands still, and stops at the limit."""

        def __init__(self) -> None:
            self.times: list[float] = []
            self.looks: list[tuple[float, float]] = []
            self.paused = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.monotonic()

        def on_step_end(self, arguments: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            now = time.monotonic()
            self.times.append(now - self.began - self.paused)
            if self.times[-1] >= args.seconds * (len(self.looks) + 1) / args.looks:
                figures = judge(model, tokenizer, task, recipe, args.look_rows)
                self.looks.append((self.times[-1], figures["sampled"]))
                self.paused += time.monotonic() - now
            control.should_training_stop = self.times[-1] >= args.seconds

    clock = Clock()
    make = dunwu_trainer if args.side == "dunwu" else trl_trainer
    trainer = make(recipe, task, rows, tokenizer, clock, folder, args)
    trainer.train()
    if len(clock.times) <= WARM:
        raise SystemExit(f"{len(clock.times)} steps in {args.seconds:g} s are too few to time; give more --seconds")
    times = [0.0, *clock.times]
    paces = [b - a for a, b in itertools.pairwise(times)][WARM:]
    logged = [entry for entry in trainer.state.log_history if "completions/mean_length" in entry]
    return {
        "side": args.side,
        "seed": args.seed,
        "steps": len(clock.times),
        "seconds_per_step": statistics.median(paces),
        "mean_tokens": statistics.fmean(entry["completions/mean_length"] for entry in logged),
        # The two sides' answers grow at different speeds; early steps have answers of the same length.
        "early_seconds_per_step": statistics.median(paces[:10]),
        "early_tokens": statistics.fmean(entry["completions/mean_length"] for entry in logged[WARM : WARM + 10]),
        "time_rollout": statistics.fmean(e["time/rollout"] for e in logged) if args.side == "dunwu" else None,
        "looks": clock.looks,
        **judge(trainer.model, tokenizer, task, recipe, args.rows),
    }


def judge(model: Any, tokenizer: Any, task: Any, recipe: Any, count: int) -> dict[str, float]:
    """Greedy and sampled accuracy on the held-out split: the same code for both sides."""
    from dunwu import build_prompts, evaluate, make_engine, prompt_rows

    prompts, _ = build_prompts(prompt_rows(task, task.rows("test")[:count]), tokenizer)
    limit = recipe.train["max_completion_length"]
    figures = evaluate(make_engine(model, tokenizer), task, prompts, samples=4, max_new_tokens=limit).metrics()
    return {"greedy": figures["greedy_strict"], "sampled": figures["sampled_strict"]}


def dunwu_trainer(recipe: Any, task: Any, rows: Any, tokenizer: Any, clock: Any, folder: Path, args: Any) -> Any:
    """Ours, as the recipe says, with a constant learning rate: both sides are stopped by the clock."""
    from dunwu import GRPOTrainer, embedded_model_path, load_model
    from dunwu.recipes.wiring import make_config

    more = {"output_dir": str(folder), "seed": args.seed, "lr_scheduler_type": "constant_with_warmup"}
    config = make_config(recipe, **more, max_steps=100_000, disable_tqdm=True)
    return GRPOTrainer(
        load_model(embedded_model_path()),
        list(task.rewards),
        config,
        rows,
        processing_class=tokenizer,
        callbacks=[clock],
    )


def trl_trainer(recipe: Any, task: Any, rows: Any, tokenizer: Any, clock: Any, folder: Path, args: Any) -> Any:
    """TRL's, with the same numbers under its names; what would slow it here for nothing is off."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from dunwu import embedded_model_path, load_model

    train = {k: v for k, v in recipe.train.items() if k not in ("prompts_per_step", "save_strategy", "output_dir")}
    batch = recipe.train["prompts_per_step"] * recipe.train["num_generations"]
    config = GRPOConfig(
        **{name: value for name, value in train.items() if name not in OURS_ONLY},
        **{"output_dir": str(folder), "lr_scheduler_type": "constant_with_warmup", "max_steps": 100_000},
        per_device_train_batch_size=batch // 4,
        gradient_accumulation_steps=4,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        **QUIET,
    )
    config.seed = args.seed
    return GRPOTrainer(
        load_model(embedded_model_path()),
        list(task.rewards),
        config,
        Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[clock],
    )


OURS_ONLY = {
    "max_steps",
    "lr_scheduler_type",
    "seed",
    "tokens_per_micro_batch",
    "max_prompt_length",
    "overlong_prompts",
}


def one_line(run: dict[str, Any]) -> str:
    """A run in a line."""
    return (
        f"{run['side']:6} seed {run['seed']}: {run['steps']:4} steps, {run['seconds_per_step']:.2f} s/step "
        f"(early: {run['early_seconds_per_step']:.2f} s at {run['early_tokens']:.0f} tokens), "
        f"greedy {run['greedy']:.1%}, sampled {run['sampled']:.1%}"
    )


def report(runs: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """The table, on the screen and in `benchmarks/results/`."""
    ours, theirs = ([run for run in runs if run["side"] == side] for side in ("dunwu", "trl"))
    ratio = [t["early_seconds_per_step"] / o["early_seconds_per_step"] for o, t in zip(ours, theirs, strict=True)]
    rows = [
        [
            *(str(r[name]) for name in ("seed", "side", "steps")),
            *(f"{r['early_seconds_per_step']:.2f}", f"{r['early_tokens']:.0f}", f"{r['seconds_per_step']:.2f}"),
            *(f"{r['greedy']:.1%}", f"{r['sampled']:.1%}"),
        ]
        for r in runs
    ]
    lines = [
        "# Dunwu beside TRL 1.16 on the quickstart",
        "",
        f"`python benchmarks/vs_trl.py --seconds {args.seconds:g} --seeds {args.seeds} --threads {args.threads}`, "
        f"{machine()}.",
        "Wall time of training alone; both judged by the same evaluation; the sides take turns.",
        "",
        *table(["seed", "side", "steps", "s/step, early", "tokens, early", "s/step, all", "greedy", "sampled"], rows),
    ]
    lines += ["", f"TRL's seconds a step over ours, early steps: median {statistics.median(ratio):.2f}."]
    shares = [o["time_rollout"] / o["seconds_per_step"] for o in ours]
    lines.append(
        f"Of our step, rollouts take {statistics.median(shares):.0%}; the rest is forward, backward, optimizer."
    )
    lines += ["", *time_to_best(ours, theirs)]
    write_results("vs_trl", lines, runs)
    print("\n".join(lines))


def first_time(looks: list[tuple[float, float]], accuracy: float) -> float:
    """Seconds at which a side first had an accuracy, on straight lines between its evaluations."""
    earlier = (0.0, 0.0)
    for seconds, reached in looks:
        if reached >= accuracy:
            share = (accuracy - earlier[1]) / (reached - earlier[1])
            return earlier[0] + share * (seconds - earlier[0])
        earlier = (seconds, reached)
    return float("inf")


def time_to_best(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[str]:
    """When each side first had the best accuracy that TRL reached."""
    rows, ratios = [], []
    for our, their in zip(ours, theirs, strict=True):
        best = max(accuracy for _, accuracy in their["looks"])
        needed = [first_time(run["looks"], best) for run in (their, our)]
        ratios.append(needed[0] / needed[1])
        rows.append(
            [str(our["seed"]), f"{best:.1%}", f"{needed[0]:.0f}", f"{needed[1]:.0f}", f"{needed[0] / needed[1]:.1f}"]
        )
    return [
        *table(["seed", "TRL's best sampled accuracy", "TRL's seconds to it", "ours", "ratio"], rows),
        "",
        "Wall time to TRL's best accuracy (straight lines between looks), theirs over ours: "
        f"median {statistics.median(ratios):.1f}.",
    ]


if __name__ == "__main__":
    main()
