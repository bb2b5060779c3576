"""What `dunwu run` was asked for: the options of a process that runs a script written for TRL.

In a notebook: `import dunwu.compat`, then `dunwu.compat.set_options(trl_version="0.14")`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from dunwu.errors import ConfigError
from dunwu.trl.versioned_defaults import release_of

__all__ = ["BatchUnit", "CompatOptions", "get_options", "set_options"]

BatchUnit: TypeAlias = Literal["auto", "prompts", "completions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompatOptions:
    """How a script written for TRL is run.

    Example: `CompatOptions(trl_version="0.14", resume=True)`

    Raises:
        ConfigError: for a version of TRL outside 0.14 to 1.16.
    """

    trl_version: str | None = None
    """The TRL whose defaults are used for what the script leaves out; None: inferred."""
    pinned_version: tuple[str, str] | None = None
    """The TRL that the script or its `requirements.txt` pins, and the name of that file."""
    batch_unit: BatchUnit = "auto"
    """What `per_device_train_batch_size` counts, where the script does not say."""
    resume: bool = False
    """Continue from the last complete checkpoint in the output folder, if there is one."""
    observed: bool = False
    """Whether trainers get the standard observers: console, metrics, rollouts, picture, findings."""

    def __post_init__(self) -> None:
        if self.trl_version is not None:
            try:
                release_of(self.trl_version)
            except ConfigError as error:
                raise ConfigError(f"--trl {error}") from None


_options = CompatOptions()


def get_options() -> CompatOptions:
    """The options of this process."""
    return _options


def set_options(
    *,
    trl_version: str | None = None,
    batch_unit: BatchUnit = "auto",
    resume: bool = False,
    pinned_version: tuple[str, str] | None = None,
    observed: bool = False,
) -> None:
    """Replace the options of this process; what is left out goes back to its default.

    Raises:
        ConfigError: for a version of TRL outside 0.14 to 1.16.
    """
    global _options
    _options = CompatOptions(
        trl_version=trl_version,
        batch_unit=batch_unit,
        resume=resume,
        pinned_version=pinned_version,
        observed=observed,
    )
