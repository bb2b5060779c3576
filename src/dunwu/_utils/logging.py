"""The library's one voice: the logger `dunwu`, which speaks without being asked to.

What it is: a logger with a plain handler, so that a script without any logging set-up still says what it does.
What it is not: a progress bar. Silence it with `logging.getLogger("dunwu").setLevel(logging.WARNING)`.
"""

from __future__ import annotations

import logging
import sys

__all__ = ["get_logger"]


class _Stdout(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever sys.stdout is at that moment, so that notebooks and captured tests see it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)


def get_logger() -> logging.Logger:
    """The logger, given a handler the first time if nobody has."""
    logger = logging.getLogger("dunwu")
    if not logger.handlers and not logging.getLogger().handlers:
        logger.addHandler(_Stdout(sys.stdout))
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
    return logger
