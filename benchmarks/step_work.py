"""What a training step does not do: dead groups, prompts computed twice, full logits.

    python benchmarks/step_work.py                     # all three: about six minutes
    python benchmarks/step_work.py --only memory

Three comparisons of our own step with itself, one thing switched. `dead`: half of the groups have equal rewards,
beside none. `prefix`: 16 completions of a 200-token prompt, the prompt shared, beside every row on its own, padded.
`memory`: the highest memory of a forward and backward pass at 151,936 words and 16 × 512 tokens, beside a head that
holds all logits; each in a process of its own, because a process never gives its highest mark back. (`vs_trl.py`
compares with another library.)
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _common import bare_prompt, in_own_process, machine, table, write_results

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from dunwu import Group


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
    report([row for name in chosen for row in compare[name](args)], args)


def made_groups(
    prompts: int, completions: int, prompt_tokens: int, mean: int, limit: int, dead: float = 0.0
) -> list[Group]:
    """Groups of random tokens; the first `dead` share of them has advantage 0 throughout."""
    from dunwu import Completion, Group, Rollout

    dice = random.Random(0)

    def completion() -> Completion:
        length = max(1, min(limit, int(dice.gammavariate(4, mean / 4))))
        return Completion(ids=tokens(length), sampler_logps=(0.0,) * length, finish_reason="stop", text="")

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(dice.randrange(5, 350) for _ in range(count))

    return [
        Group(
            prompt=bare_prompt(key, tokens(prompt_tokens)),
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


def step(model: PreTrainedModel, groups: list[Group], *, shared: bool = True) -> Callable[[], int]:
    """A step's packing, forward and backward passes; gives the tokens that were trained on."""
    from dunwu import forward_logps, make_micro_batches
    from dunwu.model.logprobs import packed_attention_context, padded_logps

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


def dead_groups(args: argparse.Namespace) -> list[list[str]]:
    """Half of the groups without advantage."""
    from dunwu import embedded_model_path, load_model

    model = load_model(embedded_model_path())
    shape = {"prompts": 16, "completions": 8, "prompt_tokens": 12, "mean": 40, "limit": 120}
    (all_live, _), (half, _) = in_turn(
        args, step(model, made_groups(**shape)), step(model, made_groups(**shape, dead=0.5))
    )
    return [["half of the groups dead", "none dead", "training time", f"{half / all_live:.2f}", "≤ 0.6"]]


def shared_prefix(args: argparse.Namespace) -> list[list[str]]:
    """16 completions of a 200-token prompt."""
    from dataclasses import replace

    from dunwu import embedded_model_path, load_model

    model = load_model(embedded_model_path())
    groups = made_groups(prompts=4, completions=16, prompt_tokens=200, mean=60, limit=200)
    lonely = [replace(group, rollouts=(rollout,)) for group in groups for rollout in group.rollouts]
    (together, tokens), (apart, same), (padded, again) = in_turn(
        args, step(model, groups), step(model, lonely), step(model, groups, shared=False)
    )
    assert tokens == same == again
    return [
        ["prompt shared", "the same, packed, not shared", "trained tokens/s", f"{apart / together:.2f}", "≥ 1.5"],
        ["prompt shared", "padded rows", "trained tokens/s", f"{padded / together:.2f}", "–"],
    ]


def memory(args: argparse.Namespace) -> list[list[str]]:
    """Highest resident memory above that before the step, each side in its own process."""
    found = []
    for more in ([], ["--full-logits"]):
        found.append(in_own_process(__file__, "--measure", "--threads", args.threads, *more))
        print(found[-1], flush=True)
    ours, full = found
    sides = [f"chunked head, {ours['peak_gb']:.2f} GB", f"full logits, {full['peak_gb']:.2f} GB"]
    return [[*sides, "peak memory of the step", f"{ours['peak_gb'] / full['peak_gb']:.2f}", "≤ 0.35"]]


def peak_memory(args: argparse.Namespace) -> dict[str, Any]:
    """One step on 16 × 512 tokens with 151,936 words; the model is small, so that the head is what counts."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    import dunwu.model.lm_head
    from dunwu import forward_logps, make_micro_batches
    from dunwu.model.logprobs import packed_attention_context

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


def full_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """What most trainers do: logits of all tokens, a log-softmax, a selection, and the entropy of the same logits."""
    import torch

    logits = (hidden @ weight.t()).float() / temperature
    picked = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(dim=-1)
    with torch.no_grad():
        every = logits.log_softmax(dim=-1)
        entropy = -(every.exp() * every).sum(dim=-1)
    return picked, entropy


def report(rows: list[list[str]], args: argparse.Namespace) -> None:
    """The table, on the screen and in `benchmarks/results/`."""
    only = "".join(f" --only {name}" for name in args.only or [])
    text = [
        "# What a step does not do",
        "",
        f"`python benchmarks/step_work.py --threads {args.threads}{only}`, {machine()}. Sides take turns, medians of "
        f"{args.repeats}.",
        "",
        *table(["ours", "beside", "what", "ratio", "target"], rows),
    ]
    print("\n".join(text))
    write_results("step_work", text)


if __name__ == "__main__":
    main()
