"""The GSM8K recipe (T1) end to end on the real rows, with a tiny random model.

    python benchmarks/gsm8k_pipeline.py --source DIR [--steps 20]            # T1's own lengths
    python benchmarks/gsm8k_pipeline.py --source DIR --steps 1868 --length 24   # a whole epoch, every row once

A proof of the pipeline, not of learning. DIR holds the real `train.jsonl` and `test.jsonl`; a random Llama of 100,000
parameters with a tokenizer trained on the questions stands for Qwen2.5-0.5B-Instruct. Afterwards every reward of
every rollout is computed again from its text alone, by other code than the trainer's, and compared.
A random model earns next to nothing, and learns nothing here.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dunwu import Experiment, load_recipe
from dunwu._utils.logging import set_verbosity

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def main() -> None:
    """Make the model, run the recipe, check every reward."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="folder with GSM8K's train.jsonl and test.jsonl")
    parser.add_argument("--out", type=Path, default=Path("runs/gsm8k_pipeline"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--length", type=int, default=200, help="completion tokens (the course's: 200)")
    args = parser.parse_args()
    set_verbosity(True)  # the whole first prompt
    stand_in(args.source, args.out / "model")
    overrides = {
        "model": str(args.out / "model"),
        "task.source": args.source,
        "train.output_dir": str(args.out / "run"),
        "train.max_steps": str(args.steps),
        "train.max_completion_length": str(args.length),
        "train.save_strategy": "no",
        "evaluate.rows": "20",
    }
    began = time.monotonic()
    outcome = Experiment(load_recipe("gsm8k", overrides), log_every=max(1, args.steps // 20), overwrite=True).run()
    checked, prompts = check(args.out / "run" / "rollouts.jsonl", args.source)
    assert outcome.after is not None
    print(
        f"{len(outcome.steps)} steps, {prompts} different prompts and {checked} rollouts in "
        f"{time.monotonic() - began:.0f} s; all {checked * 5} reward values equal those computed from the texts alone"
    )


def stand_in(source: str, folder: Path) -> None:
    """A random model and a tokenizer that reads the questions well, saved as any model is."""
    lines = (Path(source) / "train.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    inner.train_from_iterator(questions, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def check(path: Path, source: str) -> tuple[int, int]:
    """Compare every logged score with the rules of the course, written down once more here."""
    lines = (Path(source) / "train.jsonl").read_text(encoding="utf-8").splitlines()
    gold = [json.loads(line)["answer"].split("####")[1].strip() for line in lines]
    checked, prompts = 0, set()
    with path.open(encoding="utf-8") as rollouts:
        for line in rollouts:
            entry = json.loads(line)
            wanted = by_the_rules(entry["completion"], gold[entry["row"]])
            for name, value in wanted.items():
                assert abs(entry["scores"][name] - value) < 1e-9, (name, value, entry)
            checked += 1
            prompts.add(entry["row"])
    return checked, len(prompts)


def by_the_rules(text: str, gold: str) -> dict[str, float]:
    """The five rewards, from their description."""
    answer = text.rpartition("<answer>")[2].partition("</answer>")[0].strip()
    strict = r"<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n\Z"
    return {
        "correctness_reward_func": 2.0 * (answer == gold),
        "int_reward_func": 0.5 * answer.isdigit(),
        "strict_format_reward_func": 0.5 * bool(re.match(strict, text)),
        "soft_format_reward_func": 0.5 * bool(re.match(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>", text)),
        "xmlcount_reward_func": _tags(text),
    }


def _tags(text: str) -> float:
    total = 0.0
    for tag in ("<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>"):
        total += 0.125 * (text.count(tag) == 1)
    if text.count("\n<answer>\n") == 1:
        total -= 0.001 * len(text.split("\n</answer>\n")[-1])
    if text.count("\n</answer>") == 1:
        total -= 0.001 * (len(text.split("\n</answer>")[-1]) - 1)
    return total


if __name__ == "__main__":
    main()
