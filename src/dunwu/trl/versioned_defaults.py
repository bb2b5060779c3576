"""Defaults of each TRL version that change what is learned, read from the published packages 0.14 to 1.16.

Which version a script was written for is inferred in `version_inference`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from packaging.version import InvalidVersion, Version

from dunwu.errors import ConfigError

__all__ = ["CURRENT", "OLDEST", "VERSIONED", "Default", "Release", "defaults_of", "release_of"]

Default: TypeAlias = float | int | str | bool | None
Release: TypeAlias = tuple[int, int]
"""Major and minor number; patches never changed a default."""

OLDEST: Final = "0.14"
"""The first TRL that had GRPO."""
CURRENT: Final = "1.16"

_UNTIL: Final[tuple[tuple[str, Mapping[str, Default]], ...]] = (
    (
        "0.15",
        {"beta": 0.04, "loss_type": "grpo", "temperature": 0.9, "top_k": 50, "max_prompt_length": 512},
    ),
    (
        "0.17",
        {"beta": 0.04, "loss_type": "bnpo", "temperature": 0.9, "top_k": 50, "max_prompt_length": 512},
    ),
    ("0.18", {"beta": 0.04, "loss_type": "bnpo", "max_prompt_length": 512}),
    ("0.21", {"loss_type": "bnpo", "max_prompt_length": 512}),
    ("0.25", {"max_prompt_length": 512}),
    ("1.9", {}),
)
"""Last version, and its defaults where they differ from those below; 0.14 and 0.15 had transformers' top_k of 50."""

_COMMON: Final[Mapping[str, Default]] = {
    "beta": 0.0,
    "loss_type": "dapo",
    "temperature": 1.0,
    "top_k": 0,
    "max_prompt_length": None,
    "max_completion_length": 256,
    "use_bias_correction_kl": False,
}

VERSIONED: Final = tuple(_COMMON)
"""Options whose default changed."""


def release_of(version: str) -> Release:
    """Major and minor number of a version between `OLDEST` and `CURRENT`.

    Example: `release_of("0.14.0") == release_of("0.14")`

    Raises:
        ConfigError: for any other text.
    """
    try:
        release = Version(version)
    except InvalidVersion:
        release = Version("0")
    found = (release.major, release.minor)
    if not _release(OLDEST) <= found <= _release(CURRENT):
        raise ConfigError(f"{version!r} is not a version of TRL between {OLDEST} and {CURRENT}; for example 0.14")
    return found


def defaults_of(version: str, *, use_vllm: bool = False) -> dict[str, Default]:
    """The options in `VERSIONED` with their defaults in that version.

    Args:
        version: a version between `OLDEST` and `CURRENT`, with or without a patch number.
        use_vllm: whether the script samples with vLLM, which TRL 0.14 and 0.15 never passed a `top_k`.
    """
    release = release_of(version)
    for last, differing in _UNTIL:
        if release <= _release(last):
            found = {**_COMMON, **differing}
            return {**found, "top_k": 0} if use_vllm and release <= (0, 15) else found
    return {**_COMMON, "max_completion_length": 512, "use_bias_correction_kl": True}


def _release(version: str) -> Release:
    major, minor = version.split(".")
    return int(major), int(minor)
