"""The bell: rings where transformers has callbacks and no method to override.

What it is: a callback that calls back.
What it is not: anything's logic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

__all__ = ["Bell"]


class Bell(TrainerCallback):
    """Calls `begin` when training begins and `step` after each optimizer step."""

    def __init__(self, begin: Callable[[], None], step: Callable[[], None]) -> None:
        self._begin, self._step = begin, step

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the first step."""
        self._begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After an optimizer step."""
        self._step()
