"""What a user may hand to a trainer as rewards, turned into reward functions.

What it is: TRL's calling habits: one or several of functions, reward models and names. What it is not: a runner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dunwu.records import RewardFunction
from dunwu.rewards.models import RewardModel
from dunwu.rewards.registry import BUILT_IN, get_reward

__all__ = ["reward_functions"]


def reward_functions(given: Any, tokenizers: Any = None) -> list[RewardFunction]:
    """One callable for each of `given`: functions stay, models and their names become `RewardModel`s.

    A string is a built-in reward's name, a reference `package.module:function`, or the name of a reward model.

    Raises:
        ValueError: for no reward at all, something that is none of these, or a list of tokenizers of another length.
    """
    listed = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not listed:
        raise ValueError("there is no reward function; give at least one, or nothing can be learned")
    beside = list(tokenizers) if isinstance(tokenizers, Sequence) else [tokenizers] * len(listed)
    if len(beside) != len(listed):
        raise ValueError(
            f"{len(beside)} reward_processing_classes for {len(listed)} reward functions; give one each, "
            "None for plain functions"
        )
    return [_one(reward, tokenizer) for reward, tokenizer in zip(listed, beside, strict=True)]


def _one(reward: Any, tokenizer: Any) -> RewardFunction:
    if isinstance(reward, str):
        return get_reward(reward) if reward in BUILT_IN or ":" in reward else RewardModel(reward, tokenizer)
    if hasattr(reward, "config") and hasattr(reward, "forward"):
        return RewardModel(reward, tokenizer)
    if callable(reward):
        function: RewardFunction = reward
        return function
    raise ValueError(f"a reward must be a function, a reward model or the name of one, got {reward!r:.80}")
