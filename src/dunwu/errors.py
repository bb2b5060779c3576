"""Every error that Dunwu raises for something a user can mend.

    DunwuError (ValueError)        what, got, and what to do
    ├── ConfigError                an option, a recipe or an argument
    ├── DataError                  a dataset, a row, a prompt
    ├── ModelError                 a model or tokenizer that cannot be loaded or trained
    ├── HubError                   a hub, a mirror or a download
    ├── EngineError                an engine that cannot serve the model or the request
    ├── OutOfMemoryError           a step or a row that does not fit
    ├── CheckpointError            a checkpoint that cannot be written, found or resumed from
    ├── RewardError                a reward function that failed
    └── NonFiniteError             a loss or gradient that is NaN or infinite

All are `ValueError`s too, so `except ValueError` catches them. A missing optional package is a `ConfigError` that
names the extra to install.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DunwuError",
    "EngineError",
    "HubError",
    "ModelError",
    "NonFiniteError",
    "OutOfMemoryError",
    "RewardError",
    "RewardFailure",
    "RewardFailureKind",
]


class DunwuError(ValueError):
    """Something that a user can mend; the message says what, what was given, and what to do.

    The message is English, to be searched for; where another language is asked for, its twin is a note below it.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        message = str(self)
        twin = self.translate(message)
        if twin != message:
            self.add_note(twin)

    @staticmethod
    def translate(message: str) -> str:
        """The message in the language that is asked for; the package puts what can do it in this one's place."""
        return message


class ConfigError(DunwuError):
    """An option, a recipe or an argument does not work."""


class DataError(DunwuError):
    """A dataset, a row or a prompt cannot be used."""


class ModelError(DunwuError):
    """A model or tokenizer cannot be loaded or trained."""


class HubError(DunwuError):
    """A hub, a mirror or a download failed."""


class EngineError(DunwuError):
    """An engine cannot serve the model or the request."""


class OutOfMemoryError(DunwuError):
    """A step or a row does not fit into memory."""


class CheckpointError(DunwuError):
    """A checkpoint cannot be written, found or resumed from."""


RewardFailureKind: TypeAlias = Literal["length", "nan", "exception", "timeout", "type"]
"""What can be wrong with a reward function's answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardFailure:
    """Why a reward function's call, or one row of it, has no score.

    Example: `RewardFailure(function="equation", row=3, kind="exception",
    detail="ZeroDivisionError: division by zero")`
    """

    function: str
    """Name of the reward function."""
    row: int | None
    """Index in the call's batch, None where the whole call is meant."""
    kind: RewardFailureKind
    """What went wrong."""
    detail: str
    """The exception's text, the length that was returned, …"""
    cause: Exception | None = field(default=None, compare=False, repr=False)
    """The exception itself, to be chained; left out of what `RewardRunner.score` returns, for it may not pickle."""


class RewardError(DunwuError):
    """A reward function failed. `failure` says which, where and how; the cause, if any, is chained."""

    def __init__(self, message: str, failure: RewardFailure) -> None:
        super().__init__(message)
        self.failure = failure


class NonFiniteError(DunwuError):
    """A step's loss or gradient is NaN or infinite; the step was not taken."""
