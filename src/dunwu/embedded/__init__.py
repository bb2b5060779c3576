"""The embedded default: a tiny model that can reckon but gives up early, and the puzzles it was made for.

Where the model is (`EMBEDDED_MODEL`, `embedded_model_path`) and its task (`quickstart_task`);
`python -m dunwu.embedded.build` makes it again. It is no model of language: it knows Countdown and no more.
"""

from __future__ import annotations

from pathlib import Path

from dunwu.tasks import Countdown

__all__ = ["EMBEDDED_MODEL", "embedded_model_path", "quickstart_task"]

EMBEDDED_MODEL = Path(__file__).parent / "model"
"""The folder of the embedded model: weights, configuration, tokenizer with chat template."""


def embedded_model_path() -> str:
    """The embedded model's folder, as `from_pretrained` takes it. Raises `ValueError` where it is not installed."""
    if not (EMBEDDED_MODEL / "model.safetensors").is_file():
        raise ValueError(
            f"the embedded model is not in {EMBEDDED_MODEL}; reinstall dunwu, or run python -m dunwu.embedded.build"
        )
    return str(EMBEDDED_MODEL)


def quickstart_task() -> Countdown:
    """Countdown as the model knows it: 3 numbers in 1..20, target 10..99, no result over 99, style `tiny`."""
    return Countdown(
        style="tiny", numbers=3, low=1, high=20, target_low=10, target_high=99, limit=99, train_rows=4096
    )
