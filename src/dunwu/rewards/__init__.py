"""Reward functions, and the runner that calls them safely.

The tutorials' rewards, value for value (`tutorials`); repaired ones under names that describe them (`numbers`,
`formats`, `countdown`, `text`); reward models (`RewardModel`); a process for those that may hang (`sandboxed`);
`RewardRunner`, which names what goes wrong instead of scoring it 0; and `get_reward`, which finds one by name. Which
rewards a task has is in `dunwu.tasks`.

A reward function is called with keyword arguments `prompts`, `completions`, `completion_ids` and every dataset column
but `prompt`, and returns one number or None a completion. One that takes them also gets `log_metric(name, value)`,
for the metrics of the step, `log_extra(column, values)`, for the rows of completions, and `trainer_state`,
transformers' state of the run: TRL 1.16's names and meanings.

Every public name of these modules can be imported from here; a module is loaded when one of its names is first used.
"""
# ruff: noqa: F403, F405 (a type checker sees by stars what `__getattr__` finds)

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dunwu.errors import RewardError
    from dunwu.rewards.countdown import *
    from dunwu.rewards.formats import *
    from dunwu.rewards.numbers import *
    from dunwu.rewards.registry import *
    from dunwu.rewards.reward_model import *
    from dunwu.rewards.runner import *
    from dunwu.rewards.sandbox import *
    from dunwu.rewards.text import *
    from dunwu.rewards.tutorials import *

__all__ = [
    "BUILT_IN",
    "RewardError",
    "RewardModel",
    "RewardRunner",
    "answer_in_tags",
    "boxed_answer",
    "combine",
    "completion_text",
    "get_reward",
    "get_rewards",
    "numbers_equal",
    "parse_number",
    "reward_functions",
    "sandboxed",
    "solves",
    "thought",
]

_MODULES = ("countdown", "formats", "numbers", "text", "tutorials", "sandbox", "registry", "runner", "reward_model")


def __getattr__(name: str) -> object:
    if name == "RewardError":
        return importlib.import_module("dunwu.errors").RewardError
    if not name.startswith("_") and name not in _MODULES:
        for module in _MODULES:
            found = importlib.import_module(f"dunwu.rewards.{module}")
            if name in found.__all__:
                return getattr(found, name)
    raise AttributeError(f"module 'dunwu.rewards' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
