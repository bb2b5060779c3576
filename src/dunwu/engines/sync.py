"""The one door to an engine's weights and memory: `ready`."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from dunwu.core.protocols import Engine

__all__ = ["ready"]


@dataclass(frozen=True, slots=True)
class _Synced:
    """What an engine was last synced with; which keeps neither of them alive."""

    engine: weakref.ref[Engine]
    policy: weakref.ref[nn.Module]
    version: int | None


_last: dict[int, _Synced] = {}
"""By the engine's id: engines may be unhashable, or equal to each other."""


@contextmanager
def ready(
    engine: Engine, policy: nn.Module | None = None, *, version: int | None = None, force: bool = False
) -> Iterator[Engine]:
    """The engine with the policy's present weights, inside a session.

    `engine.sync_weights` is called where the policy or its version is another than at this engine's last sync. The
    version tells whether the weights have changed: after loading a checkpoint into the same policy, use `force`.

    Args:
        engine: any `core.protocols.Engine`.
        policy: whose weights to sample from; None: those the engine has.
        version: number of optimizer steps the policy has taken; None: unknown (the engine gets −1), always sync.
        force: sync whatever the version is.

    Example: `ready(engine, policy, version=7)` is a context; the engine is asked inside of it.
    """
    if policy is not None and (force or version is None or not _is_synced(engine, policy, version)):
        _last.pop(id(engine), None)  # where the sync fails, the engine may have any weights
        engine.sync_weights(policy, version=-1 if version is None else version)
        _remember(engine, policy, version)
    with engine.session():
        yield engine


def _is_synced(engine: Engine, policy: nn.Module, version: int) -> bool:
    last = _last.get(id(engine))
    return last is not None and last.engine() is engine and last.policy() is policy and last.version == version


def _remember(engine: Engine, policy: nn.Module, version: int | None) -> None:
    key = id(engine)
    try:
        reference = weakref.ref(engine, lambda _: _last.pop(key, None))
    except TypeError:
        return  # a class with __slots__ and no __weakref__: it is synced every time
    _last[key] = _Synced(reference, weakref.ref(policy), version)
