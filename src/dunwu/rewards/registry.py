"""Rewards by name: built in, `package.module:function`, `path/to/file.py:function`, or a reward model's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from dunwu._utils.objects import import_object, is_object_name
from dunwu._utils.suggest import did_you_mean
from dunwu.core.protocols import RewardFunction
from dunwu.errors import ConfigError
from dunwu.rewards import countdown, formats, numbers, text, tutorials
from dunwu.rewards.reward_model import RewardModel
from dunwu.rewards.sandbox import sandboxed

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Reward: TypeAlias = RewardFunction | PreTrainedModel | str
    Tokenizers: TypeAlias = PreTrainedTokenizerBase | Sequence[PreTrainedTokenizerBase | None] | None

__all__ = ["BUILT_IN", "get_reward", "get_rewards", "reward_functions"]

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
    countdown.trials_right_and_new,
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
    `sandboxed(NAME)` is the same reward in a process of its own, for your own ones that may hang.

    Raises:
        ConfigError: where there is no such reward, with the nearest known name.
    """
    if not isinstance(name, str):
        raise ConfigError(f"a reward is given by its name here, got {name!r:.80}")
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name.startswith("sandboxed(") and name.endswith(")"):
        inner = name.removeprefix("sandboxed(").removesuffix(")")
        return sandboxed(BUILT_IN.get(inner, inner))
    if not is_object_name(name):
        raise ConfigError(
            f"there is no built-in reward {name!r}{did_you_mean(name, BUILT_IN)}. "
            f"Your own is given as package.module:function or path/to/file.py:function"
        )
    found = import_object(name, what="a reward")
    if not callable(found):
        raise ConfigError(f"{name!r} is of type {type(found).__name__}; name a function or a class")
    function: RewardFunction = found() if isinstance(found, type) else found
    return function


def get_rewards(names: str | Sequence[str]) -> tuple[RewardFunction, ...]:
    """One or several rewards by name, as in a recipe's `rewards:`.

    Raises:
        ConfigError: as `get_reward`.
    """
    return tuple(get_reward(name) for name in ([names] if isinstance(names, str) else names))


def reward_functions(
    given: Reward | Sequence[Reward],
    tokenizers: Tokenizers = None,
    *,
    device: torch.device | str | None = None,
) -> list[RewardFunction]:
    """One callable for each of `given`: functions stay, models and their names become `RewardModel`s.

    Args:
        given: one or a list of functions, reward models (objects), and names: of a built-in reward, of your own
            (`package.module:function`), or of a reward model (a folder, or a name on the hub).
        tokenizers: one entry a reward, None for functions and for models whose own tokenizer is to be loaded; or a
            single tokenizer, where no more than one of the rewards is a model.
        device: where reward models are put; default: where they are, which for named ones is the CPU.

    Raises:
        ConfigError: for no reward at all, something that is none of these, or tokenizers that do not fit.
    """
    listed = cast(
        "list[Reward]", list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    )
    if not listed:
        raise ConfigError("there is no reward function; give at least one, or nothing can be learned")
    beside = _one_each(listed, tokenizers)
    return [_function(reward, tokenizer, device) for reward, tokenizer in zip(listed, beside, strict=True)]


def _one_each(rewards: Sequence[Reward], tokenizers: Tokenizers) -> list[PreTrainedTokenizerBase | None]:
    if isinstance(tokenizers, list | tuple):
        if len(tokenizers) != len(rewards):
            raise ConfigError(
                f"{len(tokenizers)} reward_processing_classes for {len(rewards)} reward functions; give one each, "
                "None for plain functions"
            )
        return list(tokenizers)
    single = cast("PreTrainedTokenizerBase | None", tokenizers)
    models = [_is_model(reward) for reward in rewards]
    if single is not None and sum(models) > 1:
        raise ConfigError(
            f"reward_processing_classes is one tokenizer, and {sum(models)} of the {len(rewards)} rewards are models "
            "with a tokenizer each; give a list with one entry a reward (None for functions), or leave it out: each "
            "model's own is then loaded"
        )
    return [single if is_model else None for is_model in models]


def _is_model(reward: Reward) -> bool:
    if isinstance(reward, str):
        return reward not in BUILT_IN and not is_object_name(reward) and not reward.startswith("sandboxed(")
    return hasattr(reward, "config") and hasattr(reward, "forward")


def _function(
    reward: Reward, tokenizer: PreTrainedTokenizerBase | None, device: torch.device | str | None
) -> RewardFunction:
    if _is_model(reward):
        if isinstance(reward, str) and "/" not in reward and not Path(reward).exists():
            raise ConfigError(
                f"there is no reward {reward!r}{did_you_mean(reward, BUILT_IN)}. Your own is given as "
                "package.module:function or path/to/file.py:function; a reward model is a folder, or owner/name"
            )
        return RewardModel(cast("PreTrainedModel | str", reward), tokenizer, device=device)
    if isinstance(reward, str):
        return get_reward(reward)
    if callable(reward):
        function: RewardFunction = reward
        return function
    raise ConfigError(f"a reward must be a function, a reward model or the name of one, got {reward!r:.80}")
