"""Finds a reward by name: `get_reward("number_matches")`, `"package.module:function"`, `"path/to/file.py:function"`.

What it is: the table of built-in rewards, and an importer for yours. What it is not: a place to register into: a
reference to your own function is its name.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from dunwu._utils.suggest import did_you_mean
from dunwu.core.protocols import RewardFunction
from dunwu.rewards import countdown, formats, numbers, text, tutorials
from dunwu.rewards.reward_model import RewardModel

__all__ = ["BUILT_IN", "get_reward"]

_TUTORIALS = (
    tutorials.boxed_reward,
    tutorials.correctness_reward_func,
    tutorials.equation_reward_func,
    tutorials.format_reward_func,
    tutorials.int_reward_func,
    tutorials.reward_len,
    tutorials.reward_longer,
    tutorials.soft_format_reward_func,
    tutorials.strict_format_reward_func,
    tutorials.think_answer_format_reward,
    tutorials.thought_len_reward_func,
    tutorials.xmlcount_reward_func,
)
_REPAIRED = (
    countdown.equation_solves,
    formats.reasoning_answer_format,
    formats.reasoning_answer_tags,
    formats.think_answer_format,
    formats.think_answer_format_prefilled,
    formats.think_answer_tags,
    formats.think_answer_tags_prefilled,
    numbers.answer_is_number,
    numbers.number_matches,
    numbers.number_matches_anywhere,
    text.boxed_answer_matches,
    text.length_near,
    text.thought_is_long,
    text.thought_lines_differ,
)

BUILT_IN: dict[str, RewardFunction] = {function.__name__: function for function in _TUTORIALS + _REPAIRED}
"""Name to function: the tutorials' rewards under their own names, the repaired ones under ours."""


def get_reward(name: str) -> RewardFunction:
    """The reward called `name`: built in, or `package.module:function`, or `path/to/file.py:function`.

    A class is made into an object without arguments. A file is run, once for each call: name only files you trust.
    Raises `ValueError` with the nearest known name where there is no such reward.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    place, colon, attribute = name.rpartition(":")
    if not colon:
        raise ValueError(
            f"no built-in reward is called {name!r}{did_you_mean(name, BUILT_IN)}. "
            f"Your own are written package.module:function or path/to/file.py:function"
        )
    module = _from_file(Path(place)) if place.endswith(".py") else _from_package(place)
    found = getattr(module, attribute, None)
    if not callable(found):
        public = [word for word in vars(module) if not word.startswith("_")]
        raise ValueError(f"{place!r} has no function {attribute!r}{did_you_mean(attribute, public)}")
    function: RewardFunction = found() if isinstance(found, type) else found
    return function


def _from_package(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise ValueError(f"No module {place!r} for a reward: {error}. Install it, or name a file.py.") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"No file {str(path)!r} for a reward. Give its path from the current folder.")
    name = f"dunwu_reward_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up by name
    spec.loader.exec_module(module)
    return module


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
