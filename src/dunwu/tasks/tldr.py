"""TL;DR: the trainer's quick start (T4): posts to summarise, rewarded by length alone.

`trl-lib/tldr` (columns `prompt`, `completion`) or a file like it, with the repaired length reward. It does not
measure how good a summary is: there is no gold answer, only a length to come near.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

from dunwu.core.protocols import RewardFunction
from dunwu.core.records import Grade, Row
from dunwu.errors import ConfigError
from dunwu.rewards.text import length_near
from dunwu.tasks.read_rows import need_columns, read_rows

__all__ = ["Tldr"]


@dataclass(frozen=True, kw_only=True)
class Tldr:
    """The task.

    Example: `Tldr(characters=10).rewards[0](completions=["x" * 7])` is `[-3.0]`. A row of the data has the columns
    `prompt` ("SUBREDDIT: r/… TL;DR:") and `completion`.
    """

    source: str = "trl-lib/tldr"
    """A hub name, or a folder with a file for each of `train`, `validation`, `test`."""
    characters: int = 20
    """The length that scores best, in characters."""
    rewards: Sequence[RewardFunction] = ()
    """Own reward functions; empty: minus the distance from `characters`."""
    max_reward: float | None = None
    """None: no gold answer exists."""

    def __post_init__(self) -> None:
        if self.characters < 1:
            raise ConfigError(f"characters={self.characters} must be 1 or more")
        if not self.rewards:
            near = length_near if self.characters == 20 else partial(length_near, characters=self.characters)
            object.__setattr__(self, "rewards", (near,))

    @property
    def name(self) -> str:
        """`tldr`."""
        return "tldr"

    def rows(self, split: Literal["train", "validation", "test"]) -> Sequence[Row]:
        """Rows of the data's own split. Raises `DataError` for data that cannot be read."""
        return _read(self.source, split)

    def prompt(self, row: Row) -> str:
        """The post as it stands, which ends with `TL;DR:`."""
        return str(row["prompt"])

    def row_of(self, text: str) -> Row:
        """A post."""
        return {"prompt": text}

    def gold_completion(self, row: Row) -> str | None:
        """None: nothing here is right or wrong."""
        return None

    def grade(self, row: Row, text: str) -> Grade:
        """Strict: exactly the wanted length. Lenient: within a quarter of it. Formatted: not blank."""
        away = abs(len(text) - self.characters)
        return Grade(strict=away == 0, lenient=4 * away <= self.characters, formatted=bool(text.strip()))


@lru_cache(maxsize=4)
def _read(source: str, split: str) -> tuple[Row, ...]:
    table = read_rows(source, split=split)
    need_columns(table, ("prompt",), source)
    return tuple(table)
