"""Guards around trackers' callbacks: one that fails is switched off with a warning, and the run goes on.

Errors in a user's own callback propagate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import TYPE_CHECKING
from weakref import WeakSet

from dunwu._utils.logging import get_logger
from dunwu._utils.secrets import describe_error
from dunwu.trackers.offline import swanlab_run

if TYPE_CHECKING:
    from transformers import TrainerCallback

__all__ = ["guard_callbacks", "is_off", "tracker_of"]

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
_guarded: WeakSet[TrainerCallback] = WeakSet()
_switched_off: WeakSet[TrainerCallback] = WeakSet()


def guard_callbacks(callbacks: Iterable[TrainerCallback]) -> None:
    """Guard every tracker's callback among these; one that is guarded already stays as it is.

    The objects stay what they are, so `trainer.remove_callback(WandbCallback)` finds them.
    """
    for callback in callbacks:
        tracker = tracker_of(callback)
        if tracker is None or callback in _guarded:
            continue
        if hasattr(callback, "_swanlab"):
            callback._swanlab = _SwanlabCompat(callback._swanlab)
        if tracker == "trackio":
            _keep_open(callback)
        _guarded.add(callback)
        for event in _events():
            setattr(callback, event, _disable_on_error(callback, event, getattr(callback, event)))


def tracker_of(callback: TrainerCallback) -> str | None:
    """The tracker that a callback belongs to, by its name in `report_to`; None for a user's own callback."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name, kind in INTEGRATION_TO_CALLBACK.items():
        if type(callback) is kind:
            return str(name)
    package = type(callback).__module__.partition(".")[0]
    return package if package in _PACKAGES else None


def is_off(callback: TrainerCallback) -> bool:
    """Whether it has failed and been switched off."""
    return callback in _switched_off


def _events() -> list[str]:
    from transformers import TrainerCallback

    return [name for name in dir(TrainerCallback) if name.startswith("on_")]


def _disable_on_error(
    callback: TrainerCallback, event: str, method: Callable[..., object]
) -> Callable[..., object | None]:
    @functools.wraps(method)
    def call(*args: object, **kwargs: object) -> object | None:
        if is_off(callback):
            return None
        try:
            return method(*args, **kwargs)
        except Exception as error:  # whatever it is, a tracker is not worth a run
            _switched_off.add(callback)
            get_logger().warning(
                f"{tracker_of(callback)} failed in {event} ({describe_error(error)}): it is switched off and the run "
                "goes on without it"
            )
            return None

    return call


def _keep_open(callback: TrainerCallback) -> None:
    """Leave trackio's run open at the end of training, as wandb's stays; trackio closes it when the process ends.

    Closed there, an evaluation after the training opens a second run, and the `trackio.finish()` that ends many a
    script raises. A run that lives in a Space is closed all the same: it is frozen then.
    """
    finish = callback.on_train_end

    @functools.wraps(finish)
    def on_train_end(*args: object, **kwargs: object) -> None:
        if getattr(callback, "_space_id", None):
            finish(*args, **kwargs)  # type: ignore[arg-type]

    callback.on_train_end = on_train_end  # type: ignore[method-assign]


class _SwanlabCompat:
    """SwanLab as transformers' callback expects it: without a run `get_run` returns None, where 0.10 raises."""

    def __init__(self, swanlab: ModuleType) -> None:
        self._module = swanlab

    def __getattr__(self, name: str) -> object:
        return getattr(self._module, name)

    def get_run(self) -> object | None:
        return swanlab_run(self._module)
