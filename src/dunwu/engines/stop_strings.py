"""Strings that end a completion.

A table of the tokens that could complete a stop string lets a decoding step look up one bit a completion; the exact
check, on text, is made for the few whose bit is set. A completion ends with the token that completed the string.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dunwu.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["StopStrings"]


class StopStrings:
    """The stop strings of a run.

    Args:
        tokenizer: decodes.
        strings: the stop strings; none may be empty.
        vocabulary: entries of the model's vocabulary; ids the tokenizer does not know decode to nothing.
        device: where the table is.

    Raises:
        ConfigError: for an empty stop string, which would end every completion at its first token.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str], vocabulary: int, device: torch.device
    ) -> None:
        if not all(strings):
            raise ConfigError("a stop string is empty: it would end every completion at its first token; remove it")
        self.tokenizer = tokenizer
        self.strings = tuple(strings)
        known = min(vocabulary, len(tokenizer))
        pieces = tokenizer.batch_decode([[token] for token in range(known)])
        table = [self._could_complete(piece) for piece in pieces] + [False] * (vocabulary - known)
        self.may_stop_V: Tensor = torch.tensor(table, device=device)

    def first_end(self, ids: Sequence[int], checked: int) -> int | None:
        """Number of tokens up to the one that completes a stop string; None where none does.

        The first `checked` tokens are known to complete none.
        """
        for end in range(checked + 1, len(ids) + 1):
            text = self.tokenizer.decode(list(ids[:end]))
            if any(string in text for string in self.strings):
                return end
        return None

    def _could_complete(self, piece: str) -> bool:
        """Whether a token could be the last of a stop string; a token that is part of a character may be anything."""
        if not piece.strip() or "\ufffd" in piece:
            return True
        return any(
            string in piece or any(piece.startswith(string[start:]) for start in range(len(string)))
            for string in self.strings
        )
