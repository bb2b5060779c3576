"""What an option that a script leaves out meant when the script was written.

What it is: the defaults of TRL's `GRPOConfig` over its versions, as far as they change what is learned, read from the
published packages 0.14 to 1.16; and the rule that dates a script.
What it is not: a judgement; today's defaults are in `dunwu.config`.

The rule: `--trl VERSION` (or `DUNWU_TRL`) decides. Without it, the newest version that still knew every argument that
the script gives. A script without an argument that dates it gets today's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["DATED", "TODAY", "defaults_of", "era_of"]

TODAY: Final = "1.16"

_THEN: Final[tuple[tuple[str, Mapping[str, Any]], ...]] = (
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
"""Last version, and its defaults where they are not those below; 0.14 and 0.15 had transformers' top_k of 50."""

_SINCE_0_14: Final[Mapping[str, Any]] = {
    "beta": 0.0,
    "loss_type": "dapo",
    "temperature": 1.0,
    "top_k": 0,
    "max_prompt_length": None,
    "max_completion_length": 256,
    "use_bias_correction_kl": False,
}

DATED: Final = tuple(_SINCE_0_14)
"""Options whose default changed."""


def era_of(given: Mapping[str, str]) -> tuple[str, str | None]:
    """The version whose defaults hold, and the argument that says so (None: nothing dates the script).

    Args:
        given: an argument that the script gives → the last version that knew it.

    Raises:
        ValueError: where `DUNWU_TRL` is no version between 0.14 and today's.
    """
    chosen = os.environ.get("DUNWU_TRL")
    if chosen:
        if not (0, 14) <= _key(chosen) <= _key(TODAY):
            raise ValueError(
                f"--trl {chosen!r} is no version of TRL between 0.14 and {TODAY}; for example --trl 0.14"
            )
        return chosen, "--trl"
    if not given:
        return TODAY, None
    oldest = min(given, key=lambda name: _key(given[name]))
    return given[oldest], oldest


def defaults_of(version: str) -> dict[str, Any]:
    """The options in `DATED` with their defaults in that version."""
    for last, then in _THEN:
        if _key(version) <= _key(last):
            return {**_SINCE_0_14, **then}
    return {**_SINCE_0_14, "max_completion_length": 512, "use_bias_correction_kl": True}


def _key(version: str) -> tuple[int, int]:
    parts = version.split(".")
    try:
        return int(parts[0]), int(parts[1]) if len(parts) > 1 else 0
    except ValueError:
        return (-1, 0)
