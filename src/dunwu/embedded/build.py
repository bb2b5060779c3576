"""Makes the embedded model from nothing: `python -m dunwu.embedded.build --out DIR [--seed 0]` (30 CPU minutes).

A Qwen2 of 271,000 parameters is trained on synthetic search traces in two stages. The first teaches patient search
and arithmetic; the second, short, teaches it to give up after a trial or two. So the model that ships is weak in what
GRPO can teach (to keep searching) and sound in what it cannot teach well (arithmetic, verdicts).

The result is in `dunwu/embedded/model`. It is made on one thread, so that a seed gives the same model again, and from
puzzles of the training split only.
"""

from __future__ import annotations

import argparse
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from dunwu.core.records import Row
from dunwu.embedded import quickstart_task
from dunwu.embedded.synthetic_traces import TraceConfig, trace
from dunwu.embedded.tokenizer import END, make_tokenizer
from dunwu.tasks.countdown import draw_puzzle
from dunwu.tasks.countdown_traces import summarise

__all__ = ["STAGES", "Stage", "make", "make_model"]

BATCH = 32
SORT_WINDOW = 16
"""Batches drawn at once and sorted by length, so that little is padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One schedule of training.

    Example: `Stage(steps=800, rate=2e-3, traces=TraceConfig(insight=0.05, give_up=0.58))`
    """

    steps: int
    """Optimizer steps of 32 traces."""
    rate: float
    """Highest learning rate; it warms up over 5 % of the steps (at most 200) and falls to 0 in a line."""
    traces: TraceConfig
    """What the traces are like."""


STAGES = (
    Stage(steps=12_000, rate=4e-3, traces=TraceConfig(insight=0.1, give_up=0.1)),
    Stage(steps=800, rate=2e-3, traces=TraceConfig(insight=0.05, give_up=0.58)),
)
"""What the shipped model was made with."""


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """Random weights (from torch's seed) in the shape of the embedded model."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def make(out: Path, seed: int = 0, stages: Sequence[Stage] = STAGES, eval_rows: int = 500) -> dict[str, float]:
    """Make the model, write it to a folder, evaluate it and return its scores.

    Args:
        out: the folder, replaced where it exists.
        seed: of weights, puzzles and traces.
        stages: the training schedules, one after the other.
        eval_rows: validation puzzles that are evaluated.

    Returns:
        Shares from 0 to 1, but `… trials` is trials a completion.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    for stage in stages:
        _train(model, tokenizer, stage, rng)
    _save(model, tokenizer, out)
    scores = {}
    for manner, sampled in (("sampled", True), ("greedy", False)):
        for name, value in _evaluate(model, tokenizer, eval_rows, sampled=sampled).items():
            scores[f"{manner} {name}"] = value
    return scores


def _train(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, stage: Stage, rng: random.Random) -> None:
    warm = max(1, min(200, stage.steps // 20))
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.rate, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warm) * (1 - step / stage.steps)
    )
    began, mean = time.monotonic(), 0.0
    model.train()
    for step, (ids_BT, labels_BT) in zip(range(stage.steps), _batches(tokenizer, stage.traces, rng), strict=False):
        hidden_BTH = model.model(ids_BT[:, :-1]).last_hidden_state
        targets_BT = labels_BT[:, 1:]
        learned = (
            targets_BT >= 0
        )  # logits of the completion's tokens only: prompts and padding would cost as much again
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden_BTH[learned]), targets_BT[learned])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
        if step % 200 == 0 or step == stage.steps - 1:
            print(f"step {step:5d}  loss {mean:.4f}  {time.monotonic() - began:.0f} s", flush=True)
    model.train(False)


def _batches(
    tokenizer: PreTrainedTokenizerFast, config: TraceConfig, rng: random.Random
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless ids and labels, shape (B, T); -1 in the labels where nothing is learned."""
    while True:
        texts = [_text(tokenizer, config, rng) for _ in range(BATCH * SORT_WINDOW)]
        prompts, completions = (
            tokenizer(list(side), add_special_tokens=False)["input_ids"] for side in zip(*texts, strict=True)
        )
        pairs = sorted(zip(prompts, completions, strict=True), key=lambda pair: len(pair[0]) + len(pair[1]))
        batches = [pairs[i : i + BATCH] for i in range(0, len(pairs), BATCH)]
        rng.shuffle(batches)
        yield from (_pad(batch, tokenizer) for batch in batches)


def _text(tokenizer: PreTrainedTokenizerFast, config: TraceConfig, rng: random.Random) -> tuple[str, str]:
    """One prompt and one completion for it."""
    task, puzzle = quickstart_task(), None
    while puzzle is None:
        puzzle = draw_puzzle(task, "train", rng)
    nums, target = puzzle
    prompt = _ask(tokenizer, {"nums": list(nums), "target": target})
    return prompt, trace(nums, target, task.limit, config, rng) + END


def _ask(tokenizer: PreTrainedTokenizerFast, row: Row) -> str:
    messages = quickstart_task().prompt(row)
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _pad(batch: list[tuple[list[int], list[int]]], tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) + len(completion) for prompt, completion in batch)
    ids = torch.full((len(batch), longest), int(str(tokenizer.pad_token_id)))
    labels = torch.full_like(ids, -1)
    for row, (prompt, completion) in enumerate(batch):
        end = len(prompt) + len(completion)
        ids[row, :end] = torch.tensor(prompt + completion)
        labels[row, len(prompt) : end] = torch.tensor(completion)
    return ids, labels


def _save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write beside `out`, then move: the folder is never half-written."""
    fresh, stale = out.with_name(f"{out.name}.new"), out.with_name(f"{out.name}.old")
    for folder in (fresh, stale):
        shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    for file in fresh.iterdir():
        file.chmod(0o644)  # safetensors writes 0600, which an installed package must not keep
    if out.exists():
        out.rename(stale)
    fresh.rename(out)
    shutil.rmtree(stale, ignore_errors=True)


@torch.no_grad()
def _evaluate(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int, *, sampled: bool
) -> dict[str, float]:
    """Scores on the validation split: one completion a puzzle, at temperature 1 or greedy, 192 tokens at most."""
    task = quickstart_task()
    rows = task.rows("validation")[:count]
    tokenizer.padding_side = "left"
    encoded = tokenizer(
        [_ask(tokenizer, row) for row in rows], return_tensors="pt", padding=True, add_special_tokens=False
    )
    untyped: Any = model
    ids = untyped.generate(**encoded, do_sample=sampled, top_k=0 if sampled else None, max_new_tokens=192)
    texts = tokenizer.batch_decode(ids[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
    grades = [task.grade(row, text) for row, text in zip(rows, texts, strict=True)]
    thoughts = summarise(texts, [row["target"] for row in rows])
    return {
        "right": sum(grade.strict for grade in grades) / len(rows),
        "right anyhow": sum(grade.lenient for grade in grades) / len(rows),
        "formatted": sum(grade.formatted for grade in grades) / len(rows),
        "trials": thoughts.trials,
        "arithmetic right": thoughts.arithmetic_right or 0.0,
        "verdicts right": thoughts.verdicts_right or 0.0,
        "repeats": thoughts.repeats or 0.0,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m dunwu.embedded.build", description="Make the embedded model.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, replaced where it exists")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, puzzles and traces (default 0)")
    options = parser.parse_args()
    for name, value in make(options.out, options.seed).items():
        print(f"{name:<26} {value:.3f}")


if __name__ == "__main__":
    main()
