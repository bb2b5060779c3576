"""A resumed run takes the options it is given: the optimizer's, too, which checkpoints carry along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

__all__ = ["OptimizerOptions"]

_NAMES = {"initial_lr": "learning_rate", "weight_decay": "weight_decay", "betas": "adam_betas", "eps": "adam_epsilon"}
"""Entry of a parameter group to the option that sets it."""


class OptimizerOptions:
    """The options that an optimizer and its schedule were made with, to be put back after a checkpoint was loaded.

    A checkpoint restores learning rate, weight decay and betas beside the optimizer's moments. Without this, a run
    resumed with another learning rate would go on with the old one.

    Args:
        optimizer: the optimizer, as the options made it.
        scheduler: its schedule.
    """

    def __init__(self, optimizer: Optimizer, scheduler: LRScheduler) -> None:
        self._given: list[Mapping[str, Any]] = [
            {name: group[name] for name in _NAMES if name in group} for group in optimizer.param_groups
        ]
        self._base_lrs = list(_inner(scheduler).base_lrs)

    def put_back(self, optimizer: Optimizer, scheduler: LRScheduler) -> dict[str, tuple[object, object]]:
        """Make the options those of the start again; returns what a checkpoint had changed: then and now.

        A schedule that is no function of the step (`ReduceLROnPlateau`) keeps what it has come to.
        """
        inner = _inner(scheduler)
        if not isinstance(inner, LambdaLR):
            return {}
        changed: dict[str, tuple[object, object]] = {}
        for group, given in zip(optimizer.param_groups, self._given, strict=True):
            for name, value in given.items():
                if name in group and not _same(group[name], value):
                    changed[_NAMES[name]] = (group[name], value)
                    group[name] = value
        inner.base_lrs = list(self._base_lrs)
        # Where nothing has changed, this is the number that is there already.
        now = [base * scale(inner.last_epoch) for base, scale in zip(inner.base_lrs, inner.lr_lambdas, strict=True)]
        for group, rate in zip(optimizer.param_groups, now, strict=True):
            group["lr"] = rate
        inner._last_lr = now
        return changed


def _inner(scheduler: LRScheduler) -> LRScheduler:
    """torch's schedule inside of accelerate's."""
    inner: LRScheduler = getattr(scheduler, "scheduler", scheduler)
    return inner


def _same(one: object, other: object) -> bool:
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return tuple(one) == tuple(other)
    return one == other
