"""Stop strings: where a completion ends by what it says, not by an end token.

What it is: a table of tokens that could complete a stop string, so that a step only has to look up one bit a row;
and the exact check, on text, of the few rows whose bit is set.
What it is not: a change of the sampled tokens. The completion ends with the token that completed the string.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["StopStrings"]


class StopStrings:
    """The stop strings of a run.

    Args:
        tokenizer: decodes.
        strings: the stop strings; none may be empty.
        vocabulary: entries of the model's vocabulary; ids the tokenizer does not know decode to nothing.
        device: where the table lies.

    Raises:
        ValueError: for an empty stop string, which would end every completion at its first token.
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str], vocabulary: int, device: torch.device) -> None:
        if not all(strings):
            raise ValueError("a stop string is empty: it would end every completion at its first token; remove it")
        self.tokenizer = tokenizer
        self.strings = tuple(strings)
        known = min(vocabulary, len(tokenizer))
        pieces = tokenizer.batch_decode([[token] for token in range(known)])
        table = [self._could_complete(piece) for piece in pieces] + [False] * (vocabulary - known)
        self.suspect_V: Tensor = torch.tensor(table, device=device)

    def first_end(self, ids: Sequence[int], checked: int) -> int | None:
        """Tokens up to the one that completes a stop string; None where none does.

        `checked` tokens are known to hold none.
        """
        for end in range(checked + 1, len(ids) + 1):
            text = self.tokenizer.decode(ids[:end])
            if any(string in text for string in self.strings):
                return end
        return None

    def _could_complete(self, piece: str) -> bool:
        """Whether a token could be the last of a stop string; a piece of a character may be anything."""
        if not piece.strip() or "\ufffd" in piece:
            return True
        return any(
            string in piece or any(piece.startswith(string[start:]) for start in range(len(string)))
            for string in self.strings
        )
