"""Small stand-ins for the models and data that the tutorials name, as folders for `hub_server`.

What it is: a Qwen2 of two layers with a byte-level tokenizer and a chat template with a system role, taught for some
seconds to speak in the tutorials' formats (badly: rewards must differ), a reward model, and rows in the columns of
GSM8K, Countdown-Tasks-3to4 and TL;DR, as parquet.
What it is not: those models, or their rows. Nothing here can reckon, and nothing is copied from the data sets.

    python tests/tutorials/standins.py FOLDER     # make them and serve them; prints the URL
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

__all__ = ["COUNTDOWN_ROWS", "GSM8K_ROWS", "build"]

MODELS = ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2-0.5B-Instruct")
REWARD_MODEL = "trl-lib/Qwen2-0.5B-Reward"
GSM8K_ROWS = 12
COUNTDOWN_ROWS = 50_400
TLDR_ROWS = 16

SYSTEM = "\nRespond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n"
COUNTDOWN = (
    "使用给定的数字 {nums}，创建一个等于 {target} 的等式。你可以使用基本算术运算（+、-、*、/）一次或多次，"
    "但每个数字只能使用一次。请在 <think> </think> 标签中写出思考过程，"
    "并在 <answer> </answer> 标签中给出最终等式，例如 <answer> (1 + 2) / 3 </answer>。"
)
PREFILL = "让我们逐步解决这个问题。\n<think>"
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPLIT = (  # how Qwen2's tokenizer cuts words; its class puts this in whatever the file says
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

Example = tuple[str, str]
"""A prompt as the template makes it, and an answer."""


def build(folder: Path) -> dict[tuple[str, str], Path]:
    """Make everything under `folder`; the result is what `HubServer` takes."""
    torch.manual_seed(0)
    dice = random.Random(0)
    tokenizer = make_tokenizer([text for example in examples(dice, 400) for text in example])
    model = taught_model(tokenizer, dice)
    served: dict[tuple[str, str], Path] = {}
    for name in MODELS:
        served["model", name] = folder / "models" / name
        save(model, tokenizer, served["model", name])
    served["model", REWARD_MODEL] = folder / "models" / REWARD_MODEL
    save(reward_model(model), tokenizer, served["model", REWARD_MODEL])
    for name, write in DATASETS.items():
        served["dataset", name] = folder / "datasets" / name
        write(served["dataset", name])
    return served


# Models ------------------------------------------------------------------------------------------------------------


def make_tokenizer(corpus: list[str]) -> Any:
    """Byte-level BPE, so that every text has ids, with Qwen's special tokens."""
    inner = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=720, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(corpus, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=special[1:2]
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def taught_model(tokenizer: Any, dice: random.Random, steps: int = 220) -> Any:
    """A random Qwen2 after some seconds of supervised training on `examples`."""
    model = transformers.Qwen2ForCausalLM(small_config(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        batch = [(tokenizer(a).input_ids, tokenizer(b).input_ids) for a, b in examples(dice, 16)]
        width = max(len(prompt) + len(answer) for prompt, answer in batch)
        ids = torch.tensor([[*p, *a, *[0] * (width - len(p) - len(a))] for p, a in batch])
        labels = torch.tensor([[-100] * len(p) + a + [-100] * (width - len(p) - len(a)) for p, a in batch])
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval().to(torch.bfloat16)


def small_config(tokenizer: Any) -> transformers.Qwen2Config:
    """Two layers of 64, and positions enough for T3's 4,096 new tokens."""
    return transformers.Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def reward_model(model: Any) -> Any:
    """The model's body under a head with one output."""
    options = {**model.config.to_dict(), "id2label": {0: "reward"}, "label2id": {"reward": 0}, "dtype": "bfloat16"}
    config = transformers.Qwen2Config(**options)
    judge = transformers.Qwen2ForSequenceClassification(config)
    judge.model.load_state_dict(model.model.state_dict())
    return judge.to(torch.bfloat16)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Model and tokenizer, as the hub has them."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# What the model is taught -------------------------------------------------------------------------------------------


def examples(dice: random.Random, count: int) -> Iterator[Example]:
    """Answers in the tutorials' formats, a good part of them in a wrong one."""
    kinds: tuple[Callable[[random.Random], Example], ...] = (_reasoned, _countdown, _summary)
    for _ in range(count):
        prompt, answer = dice.choices(kinds, weights=(4, 4, 2))[0](dice)
        yield prompt, answer + "<|im_end|>"


def _chat(*messages: tuple[str, str]) -> str:
    return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages)


def _reasoned(dice: random.Random) -> Example:
    one, two = dice.randint(2, 9), dice.randint(2, 9)
    prompt = _chat(("system", SYSTEM), ("user", _question(dice, one, two))) + "<|im_start|>assistant\n"
    shapes = (
        "<reasoning>\n{line}\n</reasoning>\n<answer>\n{answer}\n</answer>\n",
        "<reasoning>\n{line}\n</reasoning>\n<answer>\n{answer}\n</answer>\nDone.",
        "<reasoning>{line}</reasoning>\n<answer>{answer}</answer>",
        "{line} <answer>{answer}</answer>",
        "{answer}",
    )
    shape = dice.choices(shapes, weights=(4, 2, 2, 1, 1))[0]
    return prompt, shape.format(line=f"{one} + {two} = {one + two}", answer=one + two)


def _countdown(dice: random.Random) -> Example:
    nums, target = puzzle(dice)
    user = ("user", COUNTDOWN.format(nums=nums, target=target))
    prompt = _chat(user) + "<|im_start|>assistant\n" + PREFILL
    shapes = (
        "{line}</think>\n<answer>{line}</answer>",
        "{line}\n{line}</think>\n<answer> {line} </answer>",
        "{line}</think><answer>{line}",
        "{line}",
    )
    order = dice.sample(nums, len(nums))
    line = "".join(f"{n}{dice.choice('+-*')}" for n in order[:-1]) + str(order[-1])
    return prompt, dice.choices(shapes, weights=(4, 2, 1, 1))[0].format(line=line)


def _summary(dice: random.Random) -> Example:
    return _post(dice), " " + " ".join(dice.choices(_WORDS, k=dice.randint(1, 9))) + "."


# Data ---------------------------------------------------------------------------------------------------------------

_NAMES = ("Ann", "Ben", "Mia", "Tom")
_THINGS = ("apples", "books", "shells", "stamps")
_WORDS = ("my", "dog", "ate", "the", "letter", "and", "nobody", "believes", "me", "now", "help")


def puzzle(dice: random.Random) -> tuple[list[int], int]:
    """Three or four numbers, and a target that can be made of them."""
    while True:
        nums = [dice.randint(1, 99) for _ in range(dice.choice((3, 4)))]
        target = nums[0]
        for number in nums[1:]:
            target = dice.choice((target + number, target - number, target * number))
        if 10 <= target <= 99:
            return dice.sample(nums, len(nums)), target


def _question(dice: random.Random, one: int, two: int) -> str:
    name, thing = dice.choice(_NAMES), dice.choice(_THINGS)
    return f"{name} has {one} {thing} and finds {two} more. How many {thing} has {name} now?"


def _post(dice: random.Random) -> str:
    return f"SUBREDDIT: r/pets\n\nTITLE: {' '.join(dice.choices(_WORDS, k=6))}\n\nTL;DR:"


def _gsm8k(folder: Path) -> None:
    dice = random.Random(1)

    def row(one: int, two: int) -> dict[str, str]:
        answer = f"Together that is {one} + {two} = <<{one}+{two}={one + two}>>{one + two}.\n#### {one + two:,}"
        return {"question": _question(dice, one, two), "answer": answer}

    splits = {"train": [row(2 + i % 8, 3 + i % 5) for i in range(GSM8K_ROWS)], "test": [row(700, 800), row(4, 5)]}
    _write(folder, "main", splits)


def _countdown_rows(folder: Path) -> None:
    dice = random.Random(2)
    rows = [dict(zip(("nums", "target"), puzzle(dice), strict=True)) for _ in range(COUNTDOWN_ROWS)]
    _write(folder, "default", {"train": rows})


def _tldr(folder: Path) -> None:
    dice = random.Random(3)

    def rows(count: int) -> list[dict[str, str]]:
        made = [_summary(dice) for _ in range(count)]
        return [{"prompt": prompt, "completion": said} for prompt, said in made]

    _write(folder, "default", {"train": rows(TLDR_ROWS), "validation": rows(2), "test": rows(2)})


DATASETS: dict[str, Callable[[Path], None]] = {
    "openai/gsm8k": _gsm8k,
    "Jiayi-Pan/Countdown-Tasks-3to4": _countdown_rows,
    "trl-lib/tldr": _tldr,
}


def _write(folder: Path, config: str, splits: dict[str, list[dict[str, Any]]]) -> None:
    """Parquet files, and the card that says which config and split they are."""
    from datasets import Dataset

    (folder / config).mkdir(parents=True)
    card = ["---", "configs:", f"- config_name: {config}", "  data_files:"]
    for split, rows in splits.items():
        Dataset.from_list(rows).to_parquet(str(folder / config / f"{split}-00000-of-00001.parquet"))
        card += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]), encoding="utf-8")


def main() -> None:
    """Make the stand-ins and serve them until the process is told to stop."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from hub_server import HubServer

    with HubServer(build(Path(sys.argv[1]))) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
