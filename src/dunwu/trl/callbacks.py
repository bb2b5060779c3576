"""Callbacks of TRL's that a script may name and that have nothing to do here."""

from __future__ import annotations

from transformers import TrainerCallback

from dunwu._utils.logging import get_logger

__all__ = ["RichProgressCallback"]


class RichProgressCallback(TrainerCallback):
    """Does nothing, and says so: progress is shown without it."""

    def __init__(self) -> None:
        get_logger().once("RichProgressCallback does nothing here: progress and metrics are shown without it")
