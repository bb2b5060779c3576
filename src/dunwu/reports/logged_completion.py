"""One completion that a run kept: a line of its rollouts or of an evaluation, as far as the line goes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["LoggedCompletion"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedCompletion:
    """One line of a file of completions; what the line lacks has its default.

    Example: `LoggedCompletion(entry={"row": 3, "completion": "51", "reward": 1.5}).reward` is `1.5`.
    """

    entry: Mapping[str, Any]
    """The line's object."""

    @property
    def step(self) -> int | None:
        """The step that it was sampled for; None in evaluations before and after."""
        step = self.entry.get("step")
        return int(step) if isinstance(step, int | float) else None

    @property
    def row(self) -> int | None:
        """The prompt's row."""
        row = self.entry.get("row")
        return row if isinstance(row, int) else None

    @property
    def sample(self) -> int | None:
        """Which of the prompt's samples; None for a greedy completion."""
        return self.entry.get("sample")

    @property
    def prompt(self) -> str:
        """As the model saw it."""
        return str(self.entry.get("prompt", ""))

    @property
    def text(self) -> str:
        """The completion; of a conversation all turns that followed the prompt."""
        return str(self.entry.get("completion", ""))

    @property
    def tokens(self) -> int:
        """Tokens sampled."""
        return int(self.entry.get("tokens") or 0)

    @property
    def is_cut(self) -> bool:
        """Whether the token limit ended it."""
        return self.entry.get("finish_reason") == "length"

    @property
    def is_right(self) -> bool | None:
        """The task's strict grade; None for what was only trained on."""
        return self.entry.get("strict")

    @property
    def reward(self) -> float | None:
        """Weighted sum of the scores; None where no reward function scored it."""
        return _finite(self.entry.get("reward"))

    @property
    def advantage(self) -> float | None:
        """None in evaluations."""
        return _finite(self.entry.get("advantage"))

    @property
    def scores(self) -> Mapping[str, float | None]:
        """Reward function to its value."""
        scores = self.entry.get("scores")
        return {name: _finite(value) for name, value in scores.items()} if isinstance(scores, dict) else {}

    @property
    def columns(self) -> Mapping[str, Any]:
        """The row's other columns; empty where the line has none."""
        columns = self.entry.get("columns")
        return columns if isinstance(columns, dict) else {}


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
