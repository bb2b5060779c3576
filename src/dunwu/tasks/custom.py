"""Your own data: a JSONL, JSON, CSV or Parquet file, a `datasets` folder, or a hub name.

A prompt column, an optional answer column, an optional system prompt, and splits that never move. Without an answer
column, or with answers that are no numbers, you give the rewards yourself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from dunwu.core.protocols import RewardFunction
from dunwu.core.records import Grade, Message, Row
from dunwu.errors import ConfigError, DataError
from dunwu.rewards.formats import answer_in_tags
from dunwu.rewards.numbers import lenient_correct, number_matches_anywhere, parse_number, strict_correct
from dunwu.tasks.read_rows import need_columns, read_rows

__all__ = ["Own"]


@dataclass(frozen=True, kw_only=True)
class Own:
    """The task. Other columns of the data stay in the row and reach the reward functions.

    Example: `Own(source="sums.jsonl", prompt_column="question", answer_column="result")`
    """

    source: str
    """File, folder or hub name of the training data."""
    test_source: str | None = None
    """The same for the test split; None: cut from `source`."""
    prompt_column: str = "prompt"
    """Column of the prompt: text, or a list of messages."""
    answer_column: str | None = None
    """Column of the gold answer, passed on as `answer`; None: there is none."""
    system: str | None = None
    """System message before the prompt; text prompts then become a chat."""
    chat: bool = False
    """Whether a text prompt becomes a user's message, so that the chat template applies."""
    held_out: float = 0.1
    """Share of the rows (0 to 0.4) that goes to validation, and the same again to test, by a hash of the prompt."""
    rewards: Sequence[RewardFunction] = ()
    """Reward functions; empty with an answer column: 1.0 where the last number, or the tagged one, equals it."""
    max_reward: float | None = None
    """Sum that a gold answer must reach; 1.0 with the default reward."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out <= 0.4:
            raise ConfigError(f"held_out={self.held_out} must be a share from 0 to 0.4, such as 0.1")
        if not self.rewards and self.answer_column is not None:
            object.__setattr__(self, "rewards", (number_matches_anywhere,))
            object.__setattr__(self, "max_reward", 1.0)

    @property
    def name(self) -> str:
        """`own`."""
        return "own"

    @property
    def has_answers(self) -> bool:
        """Whether there are gold answers; without, only the rewards say how good a completion is."""
        return self.answer_column is not None

    def rows(self, split: Literal["train", "validation", "test"]) -> Sequence[Row]:
        """Rows of one split.

        Raises:
            DataError: for missing columns, an empty split, or answers none of which the default reward can read.
        """
        if split == "test" and self.test_source is not None:
            rows = _read(self.test_source, "test", self.prompt_column, self.answer_column)
            self._refuse_unreadable_answers(rows)
            return rows
        rows = _read(self.source, "train", self.prompt_column, self.answer_column)
        self._refuse_unreadable_answers(rows)
        chosen = tuple(row for row in rows if self._split_of(row) == split)
        if not chosen:
            raise DataError(
                f"no row of {self.source!r} falls into the {split} split (of {len(rows)}, with "
                f"held_out={self.held_out}); change held_out, add rows, or name a test_source"
            )
        return chosen

    def prompt(self, row: Row) -> str | list[Message]:
        """The prompt column, as a chat where it is one, where `chat` is set, or where a system message is."""
        given = row[self.prompt_column]
        if isinstance(given, str) and not self.chat and self.system is None:
            return given
        turns = [{"role": "user", "content": given}] if isinstance(given, str) else [dict(turn) for turn in given]
        return turns if self.system is None else [{"role": "system", "content": self.system}, *turns]

    def row_of(self, text: str) -> Row:
        """A prompt whose answer nobody knows."""
        return {self.prompt_column: text}

    def gold_completion(self, row: Row) -> str | None:
        """The answer in answer tags; None without an answer that is a number."""
        answer = row.get("answer") if self.answer_column is not None else None
        return None if answer is None or parse_number(str(answer)) is None else f"<answer>{answer}</answer>"

    def grade(self, row: Row, text: str) -> Grade:
        """Strict: the answer in its tags. Lenient: the last number, too. All false without an answer column."""
        tagged = answer_in_tags(text)
        gold = None if self.answer_column is None else row.get("answer")
        if gold is None:
            return Grade(strict=False, lenient=False, formatted=tagged is not None)
        strict = tagged == str(gold).strip() or strict_correct(text, str(gold))
        return Grade(strict=strict, lenient=strict or lenient_correct(text, str(gold)), formatted=tagged is not None)

    def _refuse_unreadable_answers(self, rows: Sequence[Row]) -> None:
        """The default reward compares numbers: where no answer is one, it would score nothing."""
        if self.rewards != (number_matches_anywhere,) or any(self.gold_completion(row) is not None for row in rows):
            return
        some = ", ".join(f"{row['answer']!r:.30}" for row in rows[:3])
        raise DataError(
            f"no answer in column {self.answer_column!r} of {self.source!r} is a number ({some} …), and the default "
            "reward compares numbers; name another answer_column, or list rewards of your own"
        )

    def _split_of(self, row: Row) -> str:
        prompt = row[self.prompt_column]
        key = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False, sort_keys=True)
        share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
        if share < self.held_out:
            return "validation"
        return "test" if self.test_source is None and share < 2 * self.held_out else "train"


@lru_cache(maxsize=8)
def _read(source: str, split: str, prompt_column: str, answer_column: str | None) -> tuple[Row, ...]:
    table = read_rows(source, split=split)
    need_columns(table, (prompt_column, *((answer_column,) if answer_column else ())), source)
    if answer_column is None:
        return tuple(table)
    return tuple({**row, "answer": row[answer_column]} for row in table)
