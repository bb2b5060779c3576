"""One GPU, Qwen2.5-0.5B's shape with random weights: every row of the speed table that needs a GPU, with its verdict.

    python benchmarks/gpu.py                 # on a GPU: some ten minutes
    python benchmarks/gpu.py --small         # the same code on any machine, in a minute; its figures mean nothing

4 prompts × 16 completions of 200 tokens. Rollouts beside transformers' `generate`; a decoding step beside
the time that moving its bytes takes; the whole step, its memory, and what 1,868 of them add up to (the course's
epoch: 8 h 07 min, 17 GB); TRL's step where TRL is installed; from a fresh process to the first completion.
Also what only a GPU can show of correctness: replayed graphs sample what plain steps sample, still after the weights
have changed. Nothing is learned here: the weights are random.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from _common import QUIET, bare_prompt, commit, embedded_tokenizer, left_padded, table, write_results

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM

    from dunwu import Completion, GRPOTrainer, Prompt, SamplingParams
    from dunwu.engines import FastEngine

COURSE_STEPS = 1868


def main() -> None:
    """Measure every row and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes, for a machine without a GPU")
    parser.add_argument("--first", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tokens-per-micro-batch", type=int, default=4096)
    args = parser.parse_args()
    if not args.small and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here; --small proves that the script runs")
    args.device = "cpu" if args.small else "cuda"
    args.limit = 12 if args.small else 200
    args.repeats = 2 if args.small else 5
    if args.first:
        first_completion(args)
        return
    rows: list[list[str]] = []
    for part in (graphs_are_right, rollouts, decoding_step, whole_step, beside_trl, start):
        rows += part(args)
        print(rows[-1] if rows else part.__name__, flush=True)
    report(rows, args)


def made_model(args: argparse.Namespace) -> Qwen2ForCausalLM:
    """Qwen2.5-0.5B's shape; float32 weights, as the trainer keeps them."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    size = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
    if args.small:
        size = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = Qwen2Config(
        **size,
        num_key_value_heads=2,
        vocab_size=1000 if args.small else 151_936,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        eos_token_id=1,
        pad_token_id=0,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = 1
    return model.to(args.device)


def prompts(args: argparse.Namespace) -> list[Prompt]:
    """Four prompts of 100 to 130 random tokens."""
    dice = torch.Generator().manual_seed(1)
    return [bare_prompt(i, torch.randint(5, 350, (100 + 10 * i,), generator=dice).tolist()) for i in range(4)]


def autocast(args: argparse.Namespace) -> torch.dtype | None:
    """bfloat16 on a GPU, nothing elsewhere."""
    return None if args.small else torch.bfloat16


def made_engine(model: Qwen2ForCausalLM, args: argparse.Namespace) -> FastEngine:
    """The fast engine; on a CPU its torch steps, which are what a GPU runs."""
    from dunwu.engines import FastEngine

    return FastEngine(model, embedded_tokenizer(), autocast=autocast(args), cpu_kernel=False)


def seconds(run: Callable[[], object], args: argparse.Namespace, warm: int = 2) -> float:
    """Median seconds of a call, the device waited for."""
    found = []
    for repeat in range(warm + args.repeats):
        wait(args)
        began = time.perf_counter()
        run()
        wait(args)
        if repeat >= warm:
            found.append(time.perf_counter() - began)
    return statistics.median(found)


def wait(args: argparse.Namespace) -> None:
    """Until the device has done what it was given."""
    if not args.small:
        torch.cuda.synchronize()


def graphs_are_right(args: argparse.Namespace) -> list[list[str]]:
    """The same tokens with and without graphs, before and after the weights change."""
    from dunwu import SamplingParams

    model = made_model(args)
    replayed, plain = made_engine(model, args), made_engine(model, args)
    same = total = 0
    for change in (0.0, 0.01):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight), alpha=change * 0.02)
        sampling = SamplingParams(n=4, max_new_tokens=args.limit, seed=3)
        mine = replayed.generate(prompts(args), sampling)
        theirs = without_graphs(plain, prompts(args), sampling)
        pairs = [(a.ids, b.ids) for x, y in zip(mine, theirs, strict=True) for a, b in zip(x, y, strict=True)]
        same += sum(a == b for a, b in pairs)
        total += len(pairs)
    return [
        ["graphs replayed", "plain steps", "completions alike, weights changed between", f"{same}/{total}", "all"]
    ]


def without_graphs(engine: FastEngine, asked: list[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
    """Completions by plain steps: the buffers of the call are made before it, and their graphs switched off."""
    longest = max(len(prompt.ids) for prompt in asked) + sampling.max_new_tokens
    size = len(asked) * sampling.n, longest, sampling
    buffers, _ = engine.acquire_buffers(engine.decoder(), *size)
    buffers.graphs.enabled = False
    found = engine.generate(asked, sampling)
    assert engine.acquire_buffers(engine.decoder(), *size)[0] is buffers, "the call had other buffers, with graphs"
    return found


def rollouts(args: argparse.Namespace) -> list[list[str]]:
    """4 × 16 completions, beside `generate` as TRL calls it."""
    from transformers import GenerationConfig

    from dunwu import SamplingParams

    model = made_model(args).eval()
    engine = made_engine(model, args)
    sampling = SamplingParams(n=16, max_new_tokens=args.limit)
    ours = seconds(lambda: engine.generate(prompts(args), sampling), args)
    ids, mask = left_padded([p.ids for p in prompts(args) for _ in range(16)], 0, args.device)
    config = GenerationConfig(max_new_tokens=args.limit, do_sample=True, top_k=0, pad_token_id=0, eos_token_id=1)

    def generate() -> None:
        with torch.no_grad(), torch.autocast(args.device, dtype=torch.bfloat16, enabled=not args.small):
            model.generate(input_ids=ids, attention_mask=mask, generation_config=config, disable_compile=True)

    theirs = seconds(generate, args, warm=1)
    tokens = 64 * args.limit
    return [
        ["rollouts", "transformers' generate", f"{tokens / ours:,.0f} beside {tokens / theirs:,.0f} tokens/s",
         f"{theirs / ours:.1f} ×", "≥ 10 ×"]
    ]  # fmt: skip


def decoding_step(args: argparse.Namespace) -> list[list[str]]:
    """One token for 64 rows, beside the time its bytes take at the bandwidth of a copy."""
    from dunwu import SamplingParams

    engine = made_engine(made_model(args).eval(), args)
    config = engine.model.config
    short, long = (SamplingParams(n=16, max_new_tokens=count) for count in (args.limit // 2, args.limit))
    took = [seconds(lambda s=s: engine.generate(prompts(args), s), args) for s in (short, long)]  # type: ignore[misc]
    step = (took[1] - took[0]) / (args.limit - args.limit // 2)
    size = 4 if args.small else 2
    weights = sum(p.numel() for p in engine.model.parameters()) * size
    width = config.hidden_size // config.num_attention_heads
    keys = 2 * config.num_hidden_layers * config.num_key_value_heads * width * size
    moved = weights + 64 * keys * (115 + 0.75 * args.limit)
    block = torch.empty(2**24 if args.small else 2**31, dtype=torch.uint8, device=args.device)
    target = torch.empty_like(block)
    bandwidth = 2 * len(block) / seconds(lambda: target.copy_(block), args)
    limit = moved / bandwidth
    what = f"{step * 1e3:.2f} ms beside {limit * 1e3:.2f} ms ({moved / 1e9:.2f} GB at {bandwidth / 1e12:.2f} TB/s)"
    return [["a decoding step", "bytes moved / bandwidth", what, f"{step / limit:.1f} ×", "≤ 4 ×"]]


def whole_step(args: argparse.Namespace) -> list[list[str]]:
    """The trainer's step, its memory, and an epoch of the course."""
    if not args.small:
        torch.cuda.reset_peak_memory_stats()
    logs = trained(args, steps=4 if args.small else 12)
    pace = statistics.median(entry["step_time"] for entry in logs[2:])
    gap = statistics.fmean(entry["sampling/sampling_logp_difference/mean"] for entry in logs)
    rollout, train = (statistics.median(entry[f"time/{name}"] for entry in logs[2:]) for name in ("rollout", "train"))
    minutes = pace * COURSE_STEPS / 60
    found = [
        ["a whole step", "–", f"{pace:.3f} s ({rollout:.3f} rollouts, {train:.3f} training)", "–", "–"],
        [
            f"{COURSE_STEPS} such steps",
            "the course's 8 h 07 min",
            f"{minutes:.1f} min",
            f"{487 / minutes:.0f} ×",
            "< 20 min",
        ],
        ["sampler's log-probabilities", "the trainer's", f"mean gap {gap:.4f} nats", "–", "–"],
    ]
    if not args.small:
        peak = torch.cuda.max_memory_allocated() / 1e9
        found.append(
            ["peak memory, full fine-tuning", "the course's 17 GB", f"{peak:.1f} GB", f"{17 / peak:.1f} ×", "< 10 GB"]
        )
    return found


def trained(args: argparse.Namespace, steps: int) -> list[dict[str, float]]:
    """The log of some steps of our trainer, one entry a step."""
    from dunwu import GRPOConfig, GRPOTrainer

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            **sizes(args, folder, steps), prompts_per_step=4, tokens_per_micro_batch=args.tokens_per_micro_batch
        )
        trainer = GRPOTrainer(
            made_model(args), some_reward, config, questions(steps), processing_class=embedded_tokenizer()
        )
        trainer.train()
    return step_logs(trainer)


def sizes(args: argparse.Namespace, folder: str, steps: int) -> dict[str, Any]:
    """Options that both trainers are given under one name."""
    size = {"max_steps": steps, "num_generations": 16, "max_completion_length": args.limit}
    return {"output_dir": folder, **size, **QUIET}


def questions(steps: int) -> list[dict[str, str]]:
    """Rows for so many steps of four prompts."""
    return [{"prompt": "12 7 3 = 22 " * 12} for _ in range(4 * steps)]


def step_logs(trainer: GRPOTrainer) -> list[dict[str, float]]:
    """What a trainer, ours or TRL's, logged of each step."""
    return [entry for entry in trainer.state.log_history if "step_time" in entry]


def some_reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Differs within a group, so that every group trains."""
    return [float(sum(ids) % 7) for ids in completion_ids]


def beside_trl(args: argparse.Namespace) -> list[list[str]]:
    """TRL's step on the same model and sizes, where it is installed: with `generate` and with continuous batching."""
    try:
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer
    except ImportError:
        return [["a whole step", "TRL 1.16", "TRL is not installed here", "–", "8 ×, 3 ×"]]
    found = []
    steps = 3 if args.small else 6
    batch = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 4, "logging_steps": 1}
    device = {"use_cpu": args.small, "bf16": not args.small}
    for more in ({}, {"use_transformers_paged": True}):
        row = ["a whole step", f"TRL {more}"]
        with tempfile.TemporaryDirectory() as folder:
            try:
                config = GRPOConfig(**sizes(args, folder, steps), **batch, **device, **more)
                rows = Dataset.from_list(questions(steps))
                trainer = GRPOTrainer(
                    made_model(args), some_reward, config, rows, processing_class=embedded_tokenizer()
                )
                trainer.train()
            except (RuntimeError, ValueError, TypeError, ImportError) as error:
                found.append([*row, f"failed: {str(error).splitlines()[0][:80]}", "–", "3 ×"])
                continue
        pace = statistics.median(entry["step_time"] for entry in step_logs(trainer)[1:])
        found.append([*row, f"{pace:.2f} s", "–", "8 ×, 3 ×"])
    return found


def start(args: argparse.Namespace) -> list[list[str]]:
    """From a fresh process to the first completions of a model on disk."""
    with tempfile.TemporaryDirectory() as folder:
        made_model(args).save_pretrained(folder)
        embedded_tokenizer().save_pretrained(folder)
        began = time.perf_counter()
        command = [sys.executable, __file__, "--first", folder, *(["--small"] if args.small else [])]
        subprocess.run(command, check=True, capture_output=True)
        took = time.perf_counter() - began
    return [["start to first rollout", "–", f"{took:.1f} s", "–", "< 15 s"]]


def first_completion(args: argparse.Namespace) -> None:
    """What `start` times."""
    from dunwu import SamplingParams
    from dunwu.engines import FastEngine
    from dunwu.model.loading import load_model, load_tokenizer

    model = load_model(str(args.first)).to(args.device)
    engine = FastEngine(model, load_tokenizer(str(args.first)), autocast=autocast(args), cpu_kernel=False)
    engine.generate(prompts(args), SamplingParams(n=16, max_new_tokens=args.limit))


def report(rows: list[list[str]], args: argparse.Namespace) -> None:
    """The table, on the screen and, from a GPU, in `benchmarks/results/`."""
    device = platform.machine() if args.small else torch.cuda.get_device_name()
    text = [
        "# One GPU",
        "",
        f"`python benchmarks/gpu.py --tokens-per-micro-batch {args.tokens_per_micro_batch}`, "
        f"commit {commit() or '?'}, {device}, torch {torch.__version__}.",
        "",
        *table(["what", "beside what", "measured", "ratio", "target"], rows),
    ]
    print("\n".join(text))
    if not args.small:
        write_results("gpu", text, rows)


if __name__ == "__main__":
    main()
