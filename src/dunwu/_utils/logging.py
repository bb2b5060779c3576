"""The `dunwu` logger, with a default handler that prints to standard output on the main process.

`info` is for everyone who runs something, `debug` for what goes on inside (`set_verbosity(True)`, `--verbose`).
Silence it with `logging.getLogger("dunwu").setLevel(logging.WARNING)`.
"""

from __future__ import annotations

import logging
import shutil
import sys

from dunwu._utils.distributed import is_main_process
from dunwu._utils.language import translated
from dunwu._utils.terminal_text import wrap

__all__ = ["DunwuLogger", "forget_logged_once", "get_logger", "set_verbosity"]

_WIDEST = 100
"""Columns of a line on a terminal that has more."""

_logged_once: set[str] = set()


class DunwuLogger(logging.LoggerAdapter):  # type: ignore[type-arg]
    """A logger that is silent on all processes but the main one, and can log a message once."""

    def isEnabledFor(self, level: int) -> bool:
        """Errors on every process, everything else on the main one."""
        return (level >= logging.ERROR or is_main_process()) and super().isEnabledFor(level)

    def once(self, sentence: str, *, level: int = logging.INFO) -> None:
        """Log a sentence that this process has not logged by `once` before."""
        if sentence not in _logged_once:
            _logged_once.add(sentence)
            self.log(level, "%s", sentence)

    def warning_once(self, sentence: str) -> None:
        """`once`, as a warning."""
        self.once(sentence, level=logging.WARNING)

    def debug_once(self, sentence: str) -> None:
        """`once`, for `--verbose`."""
        self.once(sentence, level=logging.DEBUG)


def get_logger() -> DunwuLogger:
    """The logger, given a handler the first time if nobody has."""
    logger = logging.getLogger("dunwu")
    if not logger.handlers and not logging.getLogger().handlers:
        handler = _Stdout(sys.stdout)
        handler.addFilter(_nobody_else_prints)
        logger.addHandler(handler)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
    return DunwuLogger(logger, {})


def set_verbosity(verbose: bool) -> None:
    """Whether what goes on inside is logged too: copies, budgets, the first prompt token by token."""
    get_logger().setLevel(logging.DEBUG if verbose else logging.INFO)


def forget_logged_once() -> None:
    """Let every sentence be logged by `once` again; for tests."""
    _logged_once.clear()


class _Stdout(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever sys.stdout is at that moment, so that notebooks and captured tests see it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """In the language asked for; wrapped between words on a terminal, a line stays a line in files and pipes."""
        text = translated(super().format(record))
        if not self.stream.isatty():
            return text
        return wrap(text, min(shutil.get_terminal_size().columns, _WIDEST))


def _nobody_else_prints(record: logging.LogRecord) -> bool:
    """A script that calls `logging.basicConfig` later gives the root logger a handler: no line is printed twice."""
    return not logging.getLogger().handlers
