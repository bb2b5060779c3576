"""Tasks: rows, a prompt for each, rewards, and a gold answer that proves the rewards.

What it is: the registry (`get_task`) and the proof (`validate`). What it is not: training or evaluation.

    task = get_task("countdown", style="tiny")
    validate(task, task.rows("test")[:100])
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from dunwu._utils.suggest import did_you_mean
from dunwu.core.protocols import Task
from dunwu.tasks.countdown import Countdown
from dunwu.tasks.custom import Own
from dunwu.tasks.gsm8k import SYSTEM_PROMPT, XML_COT_FORMAT, Gsm8k
from dunwu.tasks.tldr import Tldr
from dunwu.tasks.validation import Failure, Validation, validate

__all__ = [
    "SYSTEM_PROMPT",
    "TASKS",
    "XML_COT_FORMAT",
    "Countdown",
    "Failure",
    "Gsm8k",
    "Own",
    "Tldr",
    "Validation",
    "get_task",
    "validate",
]

TASKS: dict[str, type[Countdown] | type[Gsm8k] | type[Own] | type[Tldr]] = {
    "countdown": Countdown,
    "gsm8k": Gsm8k,
    "own": Own,
    "tldr": Tldr,
}
"""Name, as in `--task NAME`, to class."""


def get_task(name: str, **options: Any) -> Task:
    """The task called `name`, with its class's options.

    Raises:
        ValueError: for an unknown name or option, naming the nearest known one, or a missing one.
    """
    if name not in TASKS:
        raise ValueError(f"there is no task {name!r}{did_you_mean(name, TASKS)}")
    kind = TASKS[name]
    known = [option.name for option in fields(kind)]
    for option in options:
        if option not in known:
            raise ValueError(f"task {name!r} has no option {option!r}{did_you_mean(option, known)}")
    if kind is Own and "source" not in options:
        raise ValueError(
            "task 'own' needs the option source: a .jsonl, .json, .csv or .parquet file, a folder or a name"
        )
    return kind(**options)
