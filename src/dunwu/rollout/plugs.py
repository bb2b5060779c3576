"""A run's rewards, engine and environment, made from the objects or names that it was given."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from dunwu._utils.objects import import_object, instantiate
from dunwu._utils.suggest import did_you_mean
from dunwu.config import GRPOConfig
from dunwu.config.options import as_dict
from dunwu.core.protocols import Engine, Environment
from dunwu.engines import make_engine
from dunwu.errors import ConfigError
from dunwu.rewards import RewardRunner, reward_functions
from dunwu.rollout.multi_turn import MultiTurnEngine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from dunwu.rewards.registry import Reward as Reward
    from dunwu.rewards.registry import Tokenizers as Tokenizers

__all__ = ["make_environment", "make_run_engine", "make_scorer"]


def make_scorer(reward_funcs: Reward | Sequence[Reward], tokenizers: Tokenizers, args: GRPOConfig) -> RewardRunner:
    """The rewards of a run: functions, reward models or names of either.

    Raises:
        ConfigError: for something that is no reward, or weights that do not fit.
    """
    functions = reward_functions(reward_funcs, tokenizers, device=args.device)
    return RewardRunner(
        functions, weights=args.reward_weights, timeout=args.reward_timeout, on_error=args.on_reward_error
    )


def make_run_engine(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    args: GRPOConfig,
    *,
    engine: Engine | str | None = None,
    environment: Environment | str | None = None,
) -> Engine:
    """The engine of a run, wrapped in conversations where there is an environment.

    Args:
        model: the policy.
        tokenizer: its tokenizer.
        args: the run's options; `engine` and `engine_options` apply where no engine is given.
        engine: an engine, or the name of one.
        environment: answers the model between its turns; an object or the name of one.

    Raises:
        EngineError: for an engine that does not know the model.
        ConfigError: for a name that leads nowhere, or an object that does not fit.
    """
    if engine is None or isinstance(engine, str):
        autocast = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        memory = int(args.kv_cache_gib * 2**30) if args.kv_cache_gib is not None else None
        options = as_dict(args.engine_options)
        engine = make_engine(
            model, tokenizer, kind=engine or args.engine, autocast=autocast, kv_cache_bytes=memory, options=options
        )
    if environment is None:
        return engine
    return MultiTurnEngine(
        engine,
        make_environment(environment),
        tokenizer,
        max_turns=args.max_turns,
        template_kwargs=as_dict(args.chat_template_kwargs),
    )


def make_environment(environment: Environment | str, options: Mapping[str, object] | None = None) -> Environment:
    """An environment by name (`package.module:object`, a class is called with `options`), or the object given.

    Raises:
        ConfigError: for a name that leads nowhere, options that it does not take, or an object without `reply`.
    """
    found: object = environment
    if isinstance(environment, str):
        named = import_object(environment, what="an environment")
        found = instantiate(named, options or {}, what=f"the environment {environment!r}", is_made=_is_environment)
    if not _is_environment(found):
        public = [name for name in dir(found) if not name.startswith("_")]
        raise ConfigError(
            f"an environment needs a method reply(row, messages) that returns a message or None; "
            f"{environment!r:.80} has none{did_you_mean('reply', public) if public else ''}"
        )
    return cast(Environment, found)


def _is_environment(found: object) -> bool:
    return not isinstance(found, type) and callable(getattr(found, "reply", None))
