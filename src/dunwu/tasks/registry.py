"""Tasks by name: built in, or yours as `package.module:object` or `path/to/file.py:object`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from dunwu._utils.objects import check_options, import_object, is_object_name
from dunwu._utils.suggest import did_you_mean
from dunwu.core.protocols import RewardFunction, Task
from dunwu.core.records import Grade, Message, Row
from dunwu.errors import ConfigError
from dunwu.tasks.countdown import Countdown
from dunwu.tasks.custom import Own
from dunwu.tasks.gsm8k import Gsm8k
from dunwu.tasks.tldr import Tldr

__all__ = ["TASKS", "get_task", "with_rewards"]

TASKS: dict[str, Callable[..., Task]] = {"countdown": Countdown, "gsm8k": Gsm8k, "own": Own, "tldr": Tldr}
"""Name, as in `--task NAME`, to class."""

_MEMBERS = ("name", "rewards", "max_reward", "rows", "prompt", "gold_completion", "grade")


def get_task(name: str, **options: object) -> Task:
    """The task called `name`, with its options.

    Args:
        name: a built-in task, or `package.module:object` or `path/to/file.py:object`: a class or a function that
            makes the task from the options, or the task itself, which takes none.
        options: keyword arguments of the class or function.

    Raises:
        ConfigError: for an unknown name or option, naming the nearest known one, a missing option, or an object that
            is no `Task`.
    """
    if is_object_name(name):
        return _made(name, import_object(name, what="a task"), options)
    if name not in TASKS:
        raise ConfigError(
            f"there is no task {name!r}{did_you_mean(name, TASKS)}. Your own is given as package.module:Class"
        )
    return _made(name, TASKS[name], options)


def with_rewards(task: Task, rewards: Sequence[RewardFunction], max_reward: float | None) -> Task:
    """The task with other rewards: `max_reward` is the sum that a gold answer then must reach, None for no check.

    A dataclass with both fields, as all built-in tasks are, is copied; any other task is wrapped, and what it
    defines about its own rewards (`max_reward_of`) is left out.
    """
    if {"rewards", "max_reward"} <= getattr(task, "__dataclass_fields__", {}).keys():
        copied: Task = replace(cast(Any, task), rewards=tuple(rewards), max_reward=max_reward)
        return copied
    return _WithRewards(task, tuple(rewards), max_reward)


class _WithRewards:
    """A task with its rewards exchanged."""

    def __init__(self, task: Task, rewards: tuple[RewardFunction, ...], max_reward: float | None) -> None:
        self.task, self.rewards, self.max_reward = task, rewards, max_reward

    def __getattr__(self, name: str) -> object:
        """What a task may offer beside the protocol, but for what concerns its own rewards."""
        if name in ("task", "max_reward_of"):
            raise AttributeError(name)
        found: object = getattr(self.task, name)
        return found

    @property
    def name(self) -> str:
        """The task's own."""
        return self.task.name

    def rows(self, split: Literal["train", "validation", "test"]) -> Sequence[Row]:
        """The task's own."""
        return self.task.rows(split)

    def prompt(self, row: Row) -> str | list[Message]:
        """The task's own."""
        return self.task.prompt(row)

    def gold_completion(self, row: Row) -> str | None:
        """The task's own."""
        return self.task.gold_completion(row)

    def grade(self, row: Row, text: str) -> Grade:
        """The task's own."""
        return self.task.grade(row, text)


def _made(name: str, found: object, options: Mapping[str, object]) -> Task:
    """The task that `found` is, or makes from the options."""
    if callable(found) and (inspect.isclass(found) or not isinstance(found, Task)):
        check_options(found, options, what=f"task {name!r}", hints=_HINTS.get(name))
        found = found(**options)
    elif options:
        raise ConfigError(f"task {name!r} is an object already and takes no options, got {', '.join(options)}")
    missing = [member for member in _MEMBERS if not hasattr(found, member)]
    if missing:
        raise ConfigError(
            f"{name!r} gives {type(found).__name__}, which is not a task: it has no {', '.join(missing)}; "
            "see dunwu.Task for what a task has"
        )
    return cast("Task", found)


_HINTS = {"own": {"source": ": a .jsonl, .json, .csv or .parquet file, a folder or a name"}}
"""What to add where a built-in task misses an option: task to option to text."""
