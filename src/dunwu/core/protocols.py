"""Everything that can be plugged in: each a small interface, with its caller named.

A plug is any object that fits; it can be named from outside as `package.module:object`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch

from dunwu.core.records import Completion, Grade, Message, Prompt, RewardScores, Row, SamplingParams, StepResult

__all__ = ["Engine", "Observer", "RewardFunction", "Scorer", "Task"]

RewardFunction: TypeAlias = Callable[..., Any]
"""Called with keyword arguments `prompts`, `completions`, `completion_ids` and every dataset column; returns one
float or None a completion (None: this function does not apply to this row). May be `async`."""


@runtime_checkable
class Engine(Protocol):
    """Makes completions. Built-in: `dunwu.engines`."""

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt, in order."""
        ...

    def load(self, weights: torch.nn.Module) -> None:
        """Take the policy's current weights; called after every optimizer step. Shared weights: forget any cache."""
        ...

    def session(self) -> AbstractContextManager[object]:
        """A context in which the engine may hold memory for generation; outside it, it holds none."""
        ...


@runtime_checkable
class Task(Protocol):
    """Rows, a prompt for each, rewards, and a gold answer that must score full marks. Built-in: `dunwu.tasks`."""

    @property
    def name(self) -> str:
        """Short name, as in `--task NAME`."""
        ...

    @property
    def rewards(self) -> Sequence[RewardFunction]:
        """The task's own reward functions, summed."""
        ...

    @property
    def max_reward(self) -> float | None:
        """Sum of rewards that a gold answer must reach; None where no gold answer exists."""
        ...

    def rows(self, split: Literal["train", "validation", "test"]) -> Sequence[Row]:
        """Rows of one split; splits never overlap and do not change between runs."""
        ...

    def prompt(self, row: Row) -> str | list[Message]:
        """What the model is asked: text, or messages (a last message by `assistant` is continued)."""
        ...

    def gold_completion(self, row: Row) -> str | None:
        """A completion that deserves full marks, or None where the row's answer cannot be parsed."""
        ...

    def grade(self, row: Row, text: str) -> Grade:
        """Whether `text`, a completion, is right: the truth that rewards only approximate."""
        ...


@runtime_checkable
class Observer(Protocol):
    """Watches a run. Built-in: `dunwu.observers`."""

    def on_step(self, step: StepResult) -> None:
        """Called once after every optimizer step, on the main process."""
        ...


class Scorer(Protocol):
    """What `collect` needs of the rewards; `dunwu.rewards.RewardRunner` is one."""

    def score(
        self,
        *,
        prompts: list[Any],
        completions: list[Any],
        completion_ids: list[list[int]],
        columns: dict[str, list[Any]],
    ) -> RewardScores:
        """Scores of each completion."""
        ...

    def total(self, scores: RewardScores) -> list[float | None]:
        """Weighted sum of each completion's scores; None where nothing could score it."""
        ...
