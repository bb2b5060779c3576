"""Observers by name: `console`, or your own as `package.module:object`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import cast

from dunwu._utils.objects import import_object, instantiate, is_object_name
from dunwu._utils.suggest import did_you_mean
from dunwu.core.protocols import Observer
from dunwu.errors import ConfigError
from dunwu.observers.console import Console
from dunwu.observers.curve_plot import CurvePlot
from dunwu.observers.findings import Findings
from dunwu.observers.metrics_log import MetricsLog
from dunwu.observers.notebook import NotebookProgress
from dunwu.observers.printed_completions import PrintedCompletions
from dunwu.observers.rollout_log import RolloutLog

__all__ = ["OBSERVERS", "resolve_observer"]

OBSERVERS: dict[str, type[Observer]] = {
    "console": Console,
    "curve_plot": CurvePlot,
    "findings": Findings,
    "metrics_log": MetricsLog,
    "notebook_progress": NotebookProgress,
    "printed_completions": PrintedCompletions,
    "rollout_log": RolloutLog,
}
"""Name to class of the built-in observers."""

_EVENTS = tuple(name for name in vars(Observer) if name.startswith("on_"))


def resolve_observer(observer: object, options: Mapping[str, object] | None = None) -> Observer:
    """An observer from what names or makes it.

    Args:
        observer: an observer; a class or function that makes one; a built-in name; `package.module:object` or
            `path/to/file.py:object`. An object that is no `Observer` but has some of its methods is taken as it is.
        options: arguments for the class or function.

    Raises:
        ConfigError: for an unknown name or option, an object without any of an observer's methods, and for a method
            such as `on_rollout` that nothing would ever call; each with the nearest known name.
    """
    what = f"the observer {observer!r}" if isinstance(observer, str) else "an observer"
    made = instantiate(_found(observer), options or {}, what=what, is_made=_is_made)
    _check_methods(made, what)
    return cast(Observer, made)


def _found(observer: object) -> object:
    if not isinstance(observer, str):
        return observer
    if is_object_name(observer):
        return import_object(observer, what="an observer")
    if observer not in OBSERVERS:
        raise ConfigError(
            f"there is no built-in observer {observer!r}{did_you_mean(observer, OBSERVERS)}. "
            "Your own is named package.module:object"
        )
    return OBSERVERS[observer]


def _is_made(found: object) -> bool:
    return not isinstance(found, type) and any(hasattr(found, event) for event in _EVENTS)


def _check_methods(observer: object, what: str) -> None:
    found = {name for name, _ in inspect.getmembers(observer, callable) if name.startswith("on_")}
    if not found & set(_EVENTS):
        raise ConfigError(
            f"{what} ({type(observer).__name__}) has none of an observer's methods: {', '.join(_EVENTS)}"
        )
    for name in sorted(found - set(_EVENTS) - _methods_of_callbacks(observer)):
        raise ConfigError(
            f"{what} ({type(observer).__name__}) has a method {name!r}, which nothing calls"
            f"{did_you_mean(name, _EVENTS)}"
        )


def _methods_of_callbacks(observer: object) -> set[str]:
    """Methods that transformers calls, for an object that is its callback as well."""
    callbacks = sys.modules.get("transformers.trainer_callback")
    if callbacks is None or not isinstance(observer, callbacks.TrainerCallback):
        return set()
    return set(dir(callbacks.TrainerCallback))
