"""What the notebooks are executed with where there is no hub: a small model and sums in the shape of GSM8K.

The model is the embedded one, taught to answer such sums by a few hundred supervised steps: mostly with a bare
sum, now and then in the course's format. So it can reckon and does not keep the format, as the notebooks say of an
untrained model.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

__all__ = ["PARAMETERS", "ROWS", "TAUGHT", "make_stand_in", "taught_model"]

PARAMETERS = {
    "gsm8k": """
MODEL = "model"
DATA = "data"
OUTPUT = "sums"
STEPS = 60
LENGTH = 64
TEST_ROWS = 100
LEARNING_RATE = 5e-4
""",
    "step_by_step": """
MODEL = "model"
DATA = "data"
OUTPUT = "sums"
STEPS = 60
LENGTH = 64
LEARNING_RATE = 5e-4
QUESTION = "Joy has 5 pens and gets 9 more. How many pens has Joy now?"
""",
}
"""A notebook's name to the cell that takes the place of its parameters."""

ROWS = 400
"""Of them, the model is taught and trained; 100 more are the test."""

NAMES = ("Ann", "Ben", "Joy", "Tom", "Mia", "Leo")
THINGS = ("books", "pens", "cards", "eggs", "shells", "coins")
BATCH = 32
TAUGHT = 360
"""Supervised steps."""
IN_FORMAT = 0.35
"""Share of the taught answers that keep the course's format."""


def make_stand_in(folder: Path) -> None:
    """Write `model`, and `data` with `train.jsonl` and `test.jsonl`, into `folder`."""
    rows = _rows(random.Random(0), ROWS + 100)
    taught_model(rows[100:], folder / "model")
    (folder / "data").mkdir()
    for name, some in (("test", rows[:100]), ("train", rows[100:])):
        lines = "".join(json.dumps(row) + "\n" for row in some)
        (folder / "data" / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def taught_model(rows: list[dict[str, str]], out: Path) -> None:
    """The embedded model after supervised training on answers to `rows`, saved in `out`."""
    import torch

    from dunwu import load_model, load_tokenizer
    from dunwu.embedded import embedded_model_path

    torch.manual_seed(0)
    model, tokenizer = load_model(embedded_model_path()), load_tokenizer(embedded_model_path())
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=TAUGHT)
    chance = random.Random(1)
    for _ in range(TAUGHT):
        loss = _loss(model, tokenizer, chance.sample(rows, BATCH), chance)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    shutil.copytree(embedded_model_path(), out)  # the tokenizer's files, as they are
    model.save_pretrained(out)


def _rows(chance: random.Random, count: int) -> list[dict[str, str]]:
    """Sums up to 24 in words; no question comes twice."""
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < count:
        one, two, name, thing = (
            chance.randint(2, 20),
            chance.randint(2, 20),
            chance.choice(NAMES),
            chance.choice(THINGS),
        )
        question = f"{name} has {one} {thing} and gets {two} more. How many {thing} has {name} now?"
        answer = f"{name} has {one} + {two} = {one + two} {thing} now.\n#### {one + two}"
        rows[question] = {"question": question, "answer": answer}
    return list(rows.values())


def _loss(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, str]], chance: random.Random
) -> Tensor:
    """Mean negative log-probability of a drawn answer to each row."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.utils.rnn import pad_sequence

    from dunwu import build_prompts, get_task

    task = get_task("gsm8k", source="")
    prompts, _ = build_prompts([{"prompt": task.prompt(row)} for row in rows], tokenizer)
    answers = [tokenizer.encode(_answer(row, chance), add_special_tokens=False) for row in rows]
    ids = [torch.tensor([*p.ids, *a, tokenizer.eos_token_id]) for p, a in zip(prompts, answers, strict=True)]
    labels = [row.clone() for row in ids]
    for label, prompt in zip(labels, prompts, strict=True):
        label[: len(prompt.ids)] = -100
    logits = model(input_ids=pad_sequence(ids, batch_first=True)).logits[:, :-1]
    targets = pad_sequence(labels, batch_first=True, padding_value=-100)[:, 1:]
    return cross_entropy(logits.flatten(0, 1), targets.flatten())


def _answer(row: dict[str, str], chance: random.Random) -> str:
    said, total = row["answer"].split("\n#### ")
    sum_ = said.split(" has ")[1].split(" = ")[0].replace(" + ", "+")
    if chance.random() < IN_FORMAT:
        return f"<reasoning>\n{sum_}={total}\n</reasoning>\n<answer>\n{total}\n</answer>\n"
    if chance.random() < 0.3:
        return f"<reasoning>\n{sum_}={total}\n<answer>{total}</answer>"
    return f"{sum_}={total}"
