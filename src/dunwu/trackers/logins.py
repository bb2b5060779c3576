"""Scripts that log in by themselves, made to run without a key or a network.

What it is: `wandb.login`, `wandb.init`, `swanlab.login` and `swanlab.init` with a look first whether they can
succeed; where they cannot, the run is kept offline instead of asking, waiting or failing.
What it is not: a login. With a key and a server that answers, the tracker's own function does its work unchanged.

The functions are wrapped when a script imports the tracker, so that one that it does not use is neither imported,
looked for, nor spoken of.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from dunwu._utils.import_hooks import on_import
from dunwu._utils.secrets import redact
from dunwu.trackers.offline import SERVICES, Service

__all__ = ["patch_tracker_logins"]

_KEPT_HERE = ("offline", "disabled", "local", "dryrun", "shared")
_KEY_NAMES = {"wandb": "key", "swanlab": "api_key"}


def patch_tracker_logins() -> None:
    """From now on trackers that a script logs in to by itself never ask, hang or fail for want of key or network.

    Called before a user's script runs, or in a notebook; a second call changes nothing.
    """
    for name, service in SERVICES.items():
        on_import(name, functools.partial(_wrap, service))


def _wrap(service: Service, module: ModuleType) -> None:
    for name, wrapped in (("login", _login), ("init", _init)):
        original = getattr(module, name, None)
        if callable(original) and not hasattr(original, "dunwu_wraps"):
            function: Any = wrapped(service, original)
            function.dunwu_wraps = True
            setattr(module, name, function)


def _login(service: Service, original: Callable[..., Any]) -> Callable[..., Any]:
    """`login`: says False where it cannot succeed, and the run is offline."""

    @functools.wraps(original)
    def login(*args: Any, **kwargs: Any) -> Any:
        if service.user_chose():
            kept = service.settle()
            return original(*args, **kwargs) if kept else False
        given = bool(args and args[0]) or bool(kwargs.get(_KEY_NAMES[service.name]))
        if not service.settle(key_given=given):
            return False
        try:
            return original(*args, **kwargs)
        except Exception as error:  # each version has its own; all mean: not logged in
            service.put_offline(f"the login failed ({_short(error)})")
            return False

    return login


def _init(service: Service, original: Callable[..., Any]) -> Callable[..., Any]:
    """`init`: offline where there is no key or no server, whatever mode the script asks for."""

    @functools.wraps(original)
    def init(*args: Any, **kwargs: Any) -> Any:
        if service.user_chose() or service.is_running() or kwargs.get("mode") in _KEPT_HERE:
            return original(*args, **kwargs)
        if service.settle():
            try:
                return original(*args, **kwargs)
            except Exception as error:  # a server that takes connections may still refuse the key
                service.put_offline(f"the run could not be started there ({_short(error)})")
        return original(*args, **{**kwargs, "mode": "offline"})

    return init


def _short(error: Exception) -> str:
    return redact(f"{type(error).__name__}: {' '.join(str(error).split())}")
