"""Engines by name: the built-in ones, and yours as `package.module:object`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

import torch
from torch import nn

from dunwu._utils.logging import get_logger
from dunwu._utils.objects import check_options, import_object, is_object_name
from dunwu._utils.suggest import did_you_mean
from dunwu.core.protocols import Engine
from dunwu.engines.fast.engine import FastEngine, unsupported_reason
from dunwu.engines.in_process import check_adapter
from dunwu.engines.transformers_engine import TransformersEngine
from dunwu.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ENGINES", "make_engine"]

EngineFactory: TypeAlias = Callable[..., Engine]
"""Called as `factory(model, tokenizer, **options)`."""

ENGINES: Final[dict[str, EngineFactory]] = {"fast": FastEngine, "transformers": TransformersEngine}
"""The built-in engines; they share the policy's weights and run in the trainer's process."""

_RESERVED: Final = ("autocast", "kv_cache_bytes")
"""Options of built-in engines that have arguments of their own in `make_engine`."""


def make_engine(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    *,
    kind: str = "auto",
    autocast: torch.dtype | None = None,
    kv_cache_bytes: int | None = None,
    options: Mapping[str, object] | None = None,
) -> Engine:
    """An engine for a model.

    Args:
        model: a causal language model, wrapped or not.
        tokenizer: its tokenizer.
        kind: a name of `ENGINES`; `auto`: the fast engine where it knows the model, else `transformers` (logged); or
            your own as `package.module:object`, which is called as `object(model, tokenizer, **options)`.
        autocast: for built-in engines, the dtype the trainer computes in over float32 weights.
        kv_cache_bytes: for the fast engine, most memory for keys and values.
        options: keyword arguments of the engine chosen, such as `{"max_rows": 64}`.

    Raises:
        ConfigError: for an unknown engine or option, with the nearest known one.
        EngineError: for a model that the engine cannot run, and an object that is no `core.protocols.Engine`.
    """
    options = dict(options or {})
    if is_object_name(kind):
        return _foreign(kind, model, tokenizer, options)
    check_adapter(model)
    name = _automatic(model) if kind == "auto" else kind
    if name not in ENGINES:
        known = did_you_mean(name, ["auto", *ENGINES])
        raise ConfigError(f"engine={name!r} is unknown{known}; your own engine is given as package.module:object")
    factory = ENGINES[name]
    _check(name, factory, options)
    own = {"autocast": autocast, "kv_cache_bytes": kv_cache_bytes}
    taken = inspect.signature(factory).parameters
    return factory(model, tokenizer, **{key: own[key] for key in own if key in taken}, **options)


def _automatic(model: nn.Module) -> str:
    reason = unsupported_reason(model)
    if reason is None:
        return "fast"
    get_logger().info(f"rollouts use the engine 'transformers': the fast one cannot run this model ({reason})")
    return "transformers"


def _foreign(
    name: str, model: nn.Module, tokenizer: PreTrainedTokenizerBase, options: Mapping[str, object]
) -> Engine:
    factory = import_object(name, what="an engine")
    if not callable(factory):
        raise ConfigError(
            f"engine={name!r} names a {type(factory).__name__}; name a class or function that is called as "
            "object(model, tokenizer, **options) and returns an engine"
        )
    _check(name, factory, options)
    made = factory(model, tokenizer, **options)
    missing = [
        method for method in ("generate", "sync_weights", "session") if not callable(getattr(made, method, None))
    ]
    if missing:
        raise EngineError(
            f"engine={name!r} made a {type(made).__name__} without {', '.join(missing)}; an engine has generate, "
            "sync_weights and session, as in dunwu.core.protocols.Engine"
        )
    engine: Engine = made
    return engine


def _check(name: str, factory: EngineFactory, options: Mapping[str, object]) -> None:
    """Model and tokenizer are the first two parameters, whatever they are called."""
    try:
        first_two = list(inspect.signature(factory).parameters)[:2]
    except (TypeError, ValueError):
        return
    given = (*first_two, *(_RESERVED if name in ENGINES else ()))
    check_options(factory, options, what=f"the engine {name!r}", given=given)
