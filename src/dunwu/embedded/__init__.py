"""The embedded default: a tiny model that can reckon but gives up early, and the puzzles it was made for.

What it is: where the model lies (`MODEL_DIR`, `model_path`) and its task (`quickstart_task`); `thoughts` reads what
it thinks, `python -m dunwu.embedded.build` makes it again.
What it is not: a model of language: it knows Countdown and no more.
"""

from __future__ import annotations

from pathlib import Path

from dunwu.tasks import Countdown

__all__ = ["MODEL_DIR", "model_path", "quickstart_task"]

MODEL_DIR = Path(__file__).parent / "model"
"""The folder of the embedded model: weights, configuration, tokenizer with chat template."""


def model_path() -> str:
    """The embedded model's folder, as `from_pretrained` takes it. Raises `ValueError` where it is not installed."""
    if not (MODEL_DIR / "model.safetensors").is_file():
        raise ValueError(
            f"the embedded model is not in {MODEL_DIR}; reinstall dunwu, or run python -m dunwu.embedded.build"
        )
    return str(MODEL_DIR)


def quickstart_task() -> Countdown:
    """Countdown as the model knows it: 3 numbers in 1..20, target 10..99, no result over 99, style `tiny`."""
    return Countdown(
        style="tiny", numbers=3, low=1, high=20, target_low=10, target_high=99, limit=99, train_rows=4096
    )
