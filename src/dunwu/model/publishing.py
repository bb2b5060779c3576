"""A saved model and the hub: a push that fails is a warning with the command that pushes later, never a lost run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from dunwu._utils.logging import get_logger
from dunwu.errors import HubError
from dunwu.hub.upload import push_command, why_no_push, why_push_failed

__all__ = ["explained_push", "push_or_warn", "warn_if_no_push"]

Pushed = TypeVar("Pushed")


def warn_if_no_push(folder: str | Path, name: str, token: str | None) -> bool:
    """Whether nothing can be pushed from here, which has then been said."""
    reason = why_no_push(token)
    if reason is None:
        return False
    _warn(folder, name, reason)
    return True


def push_or_warn(push: Callable[[], Pushed], folder: str | Path, name: str) -> Pushed | None:
    """What `push` returns; None after an error of a hub's, which is said in one sentence."""
    try:
        return push()
    except Exception as error:  # the clients' errors have no common class
        reason = why_push_failed(error)
        if reason is None:
            raise
        _warn(folder, name, reason)
        return None


@contextmanager
def explained_push(folder: str | Path, name: str) -> Iterator[None]:
    """Turn an error of a hub's, before a run that is to be pushed, into one with what to do.

    Raises:
        HubError: in its place.
    """
    try:
        yield
    except Exception as error:
        reason = why_push_failed(error)
        if reason is None:
            raise
        later = push_command(name, str(folder))
        raise HubError(
            f"{name!r} cannot be made on the hub: {reason}; or set push_to_hub=False, and upload later with `{later}`"
        ) from error


def _warn(folder: str | Path, name: str, reason: str) -> None:
    get_logger().warning_once(
        f"{folder} is saved and was not pushed to the hub: {reason}. To push it later: "
        f"{push_command(name, str(folder))}"
    )
