"""Everything that can be plugged in: each a small interface, with its caller named.

A plug is any object that fits. It can be given in Python, or named in a recipe or option as `package.module:object`
(`_utils.objects.import_object` finds it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch

from dunwu.core.records import (
    Completion,
    Grade,
    Group,
    Message,
    Prompt,
    RewardScores,
    Row,
    RunInfo,
    SamplingParams,
    StepResult,
)

if TYPE_CHECKING:
    from dunwu.core.policy_losses import LossInputs, LossOutputs

__all__ = ["Engine", "Environment", "Observer", "PolicyLoss", "RewardFunction", "Scorer", "Task"]

RewardFunction: TypeAlias = Callable[..., Any]
"""Called with keyword arguments `prompts`, `completions`, `completion_ids` and every dataset column, and, where it
takes them, `log_metric(name, value)`, `log_extra(column, values)` and `trainer_state`; returns one float or None a
completion (None: this function does not apply to this row). May be `async`. Caller: `rewards.RewardRunner`."""


@runtime_checkable
class Engine(Protocol):
    """Makes completions. Built-in: `dunwu.engines`. Caller: `engines.ready`, and `generate` inside of it."""

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt, in order."""
        ...

    def sync_weights(self, policy: torch.nn.Module, *, version: int) -> None:
        """Take the policy's weights as they are now; `version` is the number of optimizer steps they have seen.

        Called before a generation whenever the policy has moved since the last one. An engine that shares the
        policy's tensors has nothing to copy; one with weights of its own reads `model.weights.named_weights`.
        """
        ...

    def session(self) -> AbstractContextManager[object]:
        """A context in which the engine may use memory for generation; outside of it, it uses none."""
        ...


@runtime_checkable
class Environment(Protocol):
    """Answers the model between its turns. Caller: `rollout.multi_turn`."""

    def reply(self, row: Row, messages: Sequence[Message]) -> Message | None:
        """The next message after the model's, such as a tool's result; None where the conversation is over.

        Args:
            row: the dataset row that the conversation began with.
            messages: the conversation so far, the model's last message included.
        """
        ...


class PolicyLoss(Protocol):
    """The loss of every token. Built-in: `algorithm.POLICY_LOSSES`. Caller: `algorithm.token_loss`.

    Its options are keyword-only parameters with defaults; they are set by `GRPOConfig.loss_options`.
    """

    def __call__(self, x: LossInputs, /) -> LossOutputs:
        """Losses before weights, (B, C), which carry the gradient."""
        ...


@runtime_checkable
class Task(Protocol):
    """Rows, a prompt for each, rewards, and a gold answer that must score full marks. Built-in: `dunwu.tasks`.

    Callers: `recipes` and `tasks.validate`. A task may also define `max_reward_of(row) -> float`, the most a text can
    earn on one row; `has_answers`, False where it cannot tell right from wrong; `summary_metrics(completions, rows)`,
    figures of its own; and `row_of(text) -> Row | None`, the row that a question typed in a chat stands for.
    """

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


class Observer:
    """Watches a run and changes nothing. Built-in: `dunwu.observers`. Caller: `rollout.observation`.

    Every method does nothing unless overridden. All are called on the main process only, with the rollouts of all
    ranks.
    """

    def on_run_start(self, run: RunInfo) -> None:
        """Once, before the first step; `run.resumed_from` is the number of steps finished by an earlier start."""

    def on_rollouts(self, step: int, groups: Sequence[Group]) -> None:
        """Once a sampling, before the first update with these rollouts; `step` is the number of that update."""

    def on_step(self, step: StepResult) -> None:
        """After every optimizer step."""

    def on_evaluation(self, step: int, metrics: Mapping[str, float], groups: Sequence[Group]) -> None:
        """After every evaluation; `step` is the number of optimizer steps finished."""

    def on_run_end(self) -> None:
        """Once, after the last step, and where the run ends by an error or Ctrl-C."""


class Scorer(Protocol):
    """What `rollout.collect` needs of the rewards; `dunwu.rewards.RewardRunner` is one."""

    trainer_state: Callable[[], object] | None
    """Gives transformers' `TrainerState` to functions that take it; the trainer sets it, None outside of a run."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the reward functions, unique."""
        ...

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

    def check_columns(self, columns: Iterable[str]) -> None:
        """Raise where a function needs a column that these are without; before anything is sampled."""
        ...

    def total(self, scores: RewardScores) -> list[float | None]:
        """Weighted sum of each completion's scores; None where nothing could score it."""
        ...
