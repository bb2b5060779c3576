"""GSM8K: grade-school mathematics, prompted and rewarded as in the course (T1), graded with numbers read as numbers.

Rows from a folder with `train.jsonl` and `test.jsonl`, or from the hub; T1's prompt; T1's rewards or the repaired
ones. `test` is the real test split, and `validation` is cut from train.

T1 states that its rewards sum to 4.0, but no text earns that: soft wants the reasoning on the tag's own line, strict
below it, so 3.5 is the most, and 3.0 where the answer has a sign or a comma (`isdigit`): see `Gsm8k.max_reward_of`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from dunwu.core.protocols import RewardFunction
from dunwu.core.records import Grade, Message, Row
from dunwu.errors import ConfigError
from dunwu.rewards import tutorials
from dunwu.rewards.formats import has_format, reasoning_answer_format, reasoning_answer_tags
from dunwu.rewards.numbers import answer_is_number, lenient_correct, number_matches, parse_number, strict_correct
from dunwu.tasks.read_rows import need_columns, read_rows

__all__ = ["SYSTEM_PROMPT", "XML_COT_FORMAT", "Gsm8k"]

SYSTEM_PROMPT = """
Respond in the following format:
<reasoning>
...
</reasoning>
<answer>
...
</answer>
"""
"""T1's system prompt, line breaks at both ends included."""

XML_COT_FORMAT = """\
<reasoning>
{reasoning}
</reasoning>
<answer>
{answer}
</answer>
"""
"""T1's template of a full response."""

_TUTORIAL: tuple[RewardFunction, ...] = (
    tutorials.xmlcount_reward_func,
    tutorials.soft_format_reward_func,
    tutorials.strict_format_reward_func,
    tutorials.int_reward_func,
    tutorials.correctness_reward_func,
)
_FIXED: tuple[RewardFunction, ...] = (
    reasoning_answer_tags,
    reasoning_answer_format,
    answer_is_number,
    number_matches,
)


@dataclass(frozen=True, kw_only=True)
class Gsm8k:
    """The task.

    Example: `Gsm8k(source="data/gsm8k", marking="fixed").max_reward` is `3.5`. A row has the columns `question`
    ("Natalia sold clips to 48 …"), `answer` ("72") and `solution` ("Natalia sold 48/2 = …").
    """

    source: str = "openai/gsm8k"
    """A folder with `train.jsonl` and `test.jsonl`, or a hub name (config `main`)."""
    marking: Literal["tutorial", "fixed"] = "tutorial"
    """T1's five rewards in T1's order, or the repaired ones (tags 1.0, format 1.0, number 0.5, right 1.0)."""
    validation: int = 0
    """Rows to cut from train for a validation split, chosen by a hash of the question."""
    system: str | None = SYSTEM_PROMPT
    """The system message; None leaves it out."""
    rewards: Sequence[RewardFunction] = ()
    """Own reward functions in place of `marking`'s."""
    max_reward: float | None = None
    """Sum that a gold answer must reach: 4.0 (`tutorial`, in name: see `max_reward_of`) or 3.5 (`fixed`)."""

    def __post_init__(self) -> None:
        if self.marking not in ("tutorial", "fixed"):
            raise ConfigError(f"marking={self.marking!r} is unknown; choose 'tutorial' or 'fixed'")
        if self.validation < 0:
            raise ConfigError(f"validation={self.validation} must be a number of rows, 0 or more")
        if not self.rewards:
            tutorial = self.marking == "tutorial"
            object.__setattr__(self, "rewards", _TUTORIAL if tutorial else _FIXED)
            object.__setattr__(self, "max_reward", 4.0 if tutorial else 3.5)

    @property
    def name(self) -> str:
        """`gsm8k`."""
        return "gsm8k"

    def rows(self, split: Literal["train", "validation", "test"]) -> Sequence[Row]:
        """Rows with `question`, `answer` (what follows `####`, or None) and `solution` (the whole gold text).

        Raises:
            ConfigError: for `validation` where none was asked for.
            DataError: for data that cannot be read.
        """
        if split == "test":
            return _read(self.source, "test")
        rows = _read(self.source, "train")
        if split == "train" and not self.validation:
            return rows
        if not 0 < self.validation < len(rows):
            raise ConfigError(
                f"GSM8K has no validation split of {self.validation} rows (train has {len(rows)}); "
                "cut one from train with the option validation=500"
            )
        validation = set(sorted(range(len(rows)), key=lambda i: _hash(rows[i]["question"]))[: self.validation])
        return tuple(row for i, row in enumerate(rows) if (i in validation) is (split == "validation"))

    def prompt(self, row: Row) -> list[Message]:
        """T1's two messages: system prompt and question."""
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        return [*system, {"role": "user", "content": row["question"]}]

    def row_of(self, text: str) -> Row:
        """A question whose answer nobody knows."""
        return {"question": text, "answer": None, "solution": ""}

    def gold_completion(self, row: Row) -> str | None:
        """The gold solution on one line in T1's template; None where the answer is not a number."""
        if row["answer"] is None or parse_number(row["answer"]) is None:
            return None
        text = row["solution"].split("####")[0]
        reasoning = " ".join(re.sub(r"<<[^>]*>>", "", text).split())  # drops the calculator's notes
        return XML_COT_FORMAT.format(reasoning=reasoning, answer=row["answer"])

    def max_reward_of(self, row: Row) -> float | None:
        """The most that any text can earn on this row: `max_reward`, less what T1's own defects forbid."""
        if self.rewards != _TUTORIAL or self.max_reward is None:
            return self.max_reward
        exclusive = 0.5  # soft and strict never pass together
        return self.max_reward - exclusive - (0.0 if str(row["answer"]).isdigit() else 0.5)

    def grade(self, row: Row, text: str) -> Grade:
        """Strict: the gold number in the answer tags, in the right format. Lenient: the last number of the text."""
        formatted, gold = has_format(text), row["answer"]
        if gold is None:
            return Grade(strict=False, lenient=False, formatted=formatted)
        strict = formatted and strict_correct(text, gold)
        return Grade(strict=strict, lenient=lenient_correct(text, gold), formatted=formatted)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=4)
def _read(source: str, split: str) -> tuple[Row, ...]:
    table = read_rows(source, split=split, config="main")
    need_columns(table, ("question", "answer"), source)
    return tuple(
        {
            "question": row["question"],
            "answer": tutorials.extract_hash_answer(row["answer"]),
            "solution": row["answer"],
        }
        for row in table
    )
