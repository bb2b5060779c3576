"""What our dependencies print and no user can act on: kept off the screen, each message by its own words.

Everything else that they say is shown.
"""

from __future__ import annotations

import logging
import warnings

__all__ = ["quiet_dependencies"]

_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    # peft 0.21 asks transformers 5.23 by the old name.
    ("`is_gradient_checkpointing` is deprecated", FutureWarning),
)
_LOGGED = {
    # Two checkpoints within a second: transformers orders them by their numbers, as it should.
    "transformers.trainer_utils": "mtime may not be reliable",
    # Without a key the hub allows fewer requests: of no use to who downloads one model, and said where it is refused.
    "huggingface_hub.utils._http": "You are sending unauthenticated requests to the HF Hub",
}
"""Logger to words of the message."""


def quiet_dependencies() -> None:
    """Filter these messages from now on; called again, it changes nothing."""
    for message, category in _WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category)
    for name, words in _LOGGED.items():
        logger = logging.getLogger(name)
        if not any(isinstance(one, _Without) for one in logger.filters):
            logger.addFilter(_Without(words))


class _Without(logging.Filter):
    """Lets every record pass but those with these words."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def filter(self, record: logging.LogRecord) -> bool:
        return self.words not in record.getMessage()
