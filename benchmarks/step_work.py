"""What a training step does not do: dead groups, prompts computed twice, full logits.

    python benchmarks/step_work.py                     # all three: about six minutes
    python benchmarks/step_work.py --only memory

What it is: three comparisons of our own step with itself, one thing switched. `dead`: half of the groups have equal
rewards, beside none. `prefix`: 16 completions of a 200-token prompt, the prompt shared, beside every row on its own,
padded. `memory`: the highest memory of a forward and backward pass at 151,936 words and 16 × 512 tokens, beside a
head that holds all logits; each in a process of its own, because a process never gives its highest mark back.
What it is not: a comparison with another library (`vs_trl.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    """Run the comparisons and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("dead", "prefix", "memory"), action="append")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--full-logits", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(peak_memory(args)))
        return
    import torch

    torch.set_num_threads(args.threads)
    chosen = args.only or ["dead", "prefix", "memory"]
    compare = {"dead": dead_groups, "prefix": shared_prefix, "memory": memory}
    lines = [line for name in chosen for line in compare[name](args)]
    report(lines, args)


def made_groups(prompts: int, completions: int, prompt_tokens: int, mean: int, limit: int, dead: float = 0.0) -> Any:
    """Groups of random tokens; the first `dead` share of them has advantage 0 throughout."""
    from dunwu.core.records import Completion, Group, Prompt, Rollout

    dice = random.Random(0)

    def completion() -> Completion:
        length = max(1, min(limit, int(dice.gammavariate(4, mean / 4))))
        return Completion(ids=tokens(length), sampler_logps=(0.0,) * length, finish_reason="stop", text="")

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(dice.randrange(5, 350) for _ in range(count))

    return [
        Group(
            prompt=Prompt(row_index=key, row={}, original="", text="", ids=tokens(prompt_tokens)),
            rollouts=tuple(
                Rollout(
                    completion=completion(),
                    reward=0.0,
                    scores={},
                    advantage=0.0 if key < dead * prompts else dice.gauss(0, 1),
                )
                for _ in range(completions)
            ),
        )
        for key in range(prompts)
    ]


def embedded_model() -> Any:
    """The model that the package carries."""
    from dunwu.embedded import embedded_model_path
    from dunwu.model.loading import load_model

    return load_model(str(embedded_model_path()))


def step(model: Any, groups: Any, *, shared: bool = True) -> Callable[[], int]:
    """A step's packing, forward and backward passes; gives the tokens that were trained on."""
    from dunwu.model.logprobs import forward_logps, packed_attention_context, padded_logps
    from dunwu.rollout.micro_batches import make_micro_batches

    def run() -> int:
        batches = make_micro_batches(
            groups, loss_aggregation="token_mean", tokens=8192, skip_zero_advantage=True, shared_prompts=shared
        )
        model.zero_grad()
        for batch in batches:
            if shared:
                with packed_attention_context(model):
                    logps, _ = forward_logps(model, batch)
                    (logps * batch.weights_BC * batch.advantages_B[:, None]).sum().backward()
            else:
                logps, _ = padded_logps(model, batch)
                (logps * batch.weights_BC * batch.advantages_B[:, None]).sum().backward()
        return int(sum(batch.mask_BC.sum() for batch in batches))

    return run


def in_turn(args: argparse.Namespace, *runs: Callable[[], int]) -> list[tuple[float, int]]:
    """Median seconds and tokens of each, taking turns."""
    seconds: list[list[float]] = [[] for _ in runs]
    tokens = [0] * len(runs)
    for repeat in range(args.repeats + 3):
        for i, run in enumerate(runs):
            began = time.perf_counter()
            tokens[i] = run()
            if repeat >= 3:
                seconds[i].append(time.perf_counter() - began)
    return [(statistics.median(each), count) for each, count in zip(seconds, tokens, strict=True)]


def dead_groups(args: argparse.Namespace) -> list[str]:
    """Half of the groups without advantage."""
    model = embedded_model()
    shape = {"prompts": 16, "completions": 8, "prompt_tokens": 12, "mean": 40, "limit": 120}
    (all_live, _), (half, _) = in_turn(
        args, step(model, made_groups(**shape)), step(model, made_groups(**shape, dead=0.5))
    )
    return [f"| half of the groups dead | none dead | training time | {half / all_live:.2f} | ≤ 0.6 |"]


def shared_prefix(args: argparse.Namespace) -> list[str]:
    """16 completions of a 200-token prompt."""
    from dataclasses import replace

    model = embedded_model()
    groups = made_groups(prompts=4, completions=16, prompt_tokens=200, mean=60, limit=200)
    lonely = [replace(group, rollouts=(rollout,)) for group in groups for rollout in group.rollouts]
    (together, tokens), (apart, same), (padded, again) = in_turn(
        args, step(model, groups), step(model, lonely), step(model, groups, shared=False)
    )
    assert tokens == same == again
    return [
        f"| prompt shared | the same, packed, not shared | trained tokens/s | {apart / together:.2f} | ≥ 1.5 |",
        f"| prompt shared | padded rows | trained tokens/s | {padded / together:.2f} | – |",
    ]


def memory(args: argparse.Namespace) -> list[str]:
    """Highest resident memory above that before the step, each side in its own process."""
    found = []
    for more in ([], ["--full-logits"]):
        command = [sys.executable, __file__, "--measure", "--threads", str(args.threads), *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
        found.append(json.loads(done.stdout.strip().splitlines()[-1]))
        print(found[-1], flush=True)
    ours, full = found
    ratio = ours["peak_gb"] / full["peak_gb"]
    return [
        f"| chunked head, {ours['peak_gb']:.2f} GB | full logits, {full['peak_gb']:.2f} GB | peak memory of the step "
        f"| {ratio:.2f} | ≤ 0.35 |"
    ]


def peak_memory(args: argparse.Namespace) -> dict[str, Any]:
    """One step on 16 × 512 tokens with 151,936 words; the model is small, so that the head is what counts."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    import dunwu.model.lm_head
    from dunwu.model.logprobs import forward_logps, packed_attention_context
    from dunwu.rollout.micro_batches import make_micro_batches

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=151_936,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
        )
    )
    if args.full_logits:
        dunwu.model.lm_head.linear_logps = full_logits  # type: ignore[assignment]
    groups = made_groups(prompts=2, completions=8, prompt_tokens=64, mean=100_000, limit=512)
    batches = make_micro_batches(groups, loss_aggregation="token_mean", tokens=100_000)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts again from here (Linux)
    with packed_attention_context(model):
        for batch in batches:
            logps, _ = forward_logps(model, batch)
            (logps * batch.weights_BC).sum().backward()
    tokens = sum(sum(batch.lengths) for batch in batches)
    return {"peak_gb": (resident("VmHWM") - before) / 1e9, "tokens": tokens, "full_logits": args.full_logits}


def resident(which: str) -> int:
    """Bytes of this process in memory: now (VmRSS), or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which))


def full_logits(hidden: Any, weight: Any, bias: Any, targets: Any, temperature: float) -> Any:
    """What most trainers do: logits of all tokens, a log-softmax, a selection, and the entropy of the same logits."""
    import torch

    logits = (hidden @ weight.t()).float() / temperature
    picked = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(dim=-1)
    with torch.no_grad():
        every = logits.log_softmax(dim=-1)
        entropy = -(every.exp() * every).sum(dim=-1)
    return picked, entropy


def report(lines: list[str], args: argparse.Namespace) -> None:
    """The table, on the screen and in `benchmarks/results/`."""
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    only = "".join(f" --only {name}" for name in args.only or [])
    text = [
        "# What a step does not do",
        "",
        f"`python benchmarks/step_work.py --threads {args.threads}{only}`, commit {commit}, {platform.machine()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}. Sides take turns, medians of {args.repeats}.",
        "",
        "| ours | beside | what | ratio | target |",
        "|---|---|---|---|---|",
        *lines,
    ]
    print("\n".join(text))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "step_work.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
