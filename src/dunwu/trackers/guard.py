"""Trackers' callbacks on a lead: one that fails is switched off with a warning, and the run goes on.

What it is: guards around the callbacks of transformers' integrations and of the trackers' own packages, and the one
repair that a callback needs to start at all.
What it is not: a guard for a user's own callback: its errors are his to see.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from dunwu._utils.logging import get_logger
from dunwu._utils.secrets import redact
from dunwu.trackers.offline import swanlab_run

__all__ = ["guarded", "is_off", "tracker_of"]

_PACKAGES = {
    "swanlab",
    "wandb",
    "trackio",
    "mlflow",
    "tensorboard",
    "tensorboardX",
    "comet_ml",
    "clearml",
    "neptune",
    "dvclive",
    "codecarbon",
}
"""Packages whose own callbacks are trackers' callbacks."""


def guarded(callbacks: Iterable[Any]) -> None:
    """Guard every tracker's callback among these; one that is guarded already stays as it is.

    The objects stay what they are, so `trainer.remove_callback(WandbCallback)` finds them.
    """
    for callback in callbacks:
        if tracker_of(callback) is None or hasattr(callback, "dunwu_off"):
            continue
        if hasattr(callback, "_swanlab"):
            callback._swanlab = _Patient(callback._swanlab)
        callback.dunwu_off = False
        for event in _events():
            setattr(callback, event, _careful(callback, event, getattr(callback, event)))


def tracker_of(callback: Any) -> str | None:
    """The tracker that a callback belongs to, by its name in `report_to`; None for a callback that is nobody's."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name, kind in INTEGRATION_TO_CALLBACK.items():
        if type(callback) is kind:
            return str(name)
    package = type(callback).__module__.partition(".")[0]
    return package if package in _PACKAGES else None


def is_off(callback: Any) -> bool:
    """Whether it has failed and been switched off."""
    return bool(getattr(callback, "dunwu_off", False))


def _events() -> list[str]:
    from transformers import TrainerCallback

    return [name for name in dir(TrainerCallback) if name.startswith("on_")]


def _careful(callback: Any, event: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if callback.dunwu_off:
            return None
        try:
            return method(*args, **kwargs)
        except Exception as error:  # whatever it is, a tracker is not worth a run
            callback.dunwu_off = True
            what = redact(f"{type(error).__name__}: {' '.join(str(error).split())}")
            get_logger().warning(
                f"{tracker_of(callback)} failed in {event} ({what}): it is switched off, the run goes on without it"
            )
            return None

    return call


class _Patient:
    """SwanLab as transformers' callback expects it: without a run `get_run` says None, where 0.10 raises."""

    def __init__(self, swanlab: Any) -> None:
        self._module = swanlab

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def get_run(self) -> Any:
        return swanlab_run(self._module)
