"""Text for a terminal: padded, cut and wrapped by the columns it takes, where Chinese characters take two."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

__all__ = ["display_width", "pad_left", "pad_right", "printable", "shorten", "wrap"]

_PIECE = re.compile(r"\s+|[^\s\u2e80-\uffef]+|.")
"""What is never torn apart: a run of spaces, a word of narrow letters, a wide character."""
_NO_BREAK_BEFORE = "，。；：！？、）》」』】…"
"""Chinese lines do not begin with these."""


def display_width(text: str) -> int:
    """Columns that a line of text takes in a terminal.

    Example: `display_width("顿悟 ok")` is `7`.
    """
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Cc"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def pad_left(text: str, width: int) -> str:
    """The text at the right of `width` columns."""
    return " " * (width - display_width(text)) + text


def pad_right(text: str, width: int) -> str:
    """The text at the left of `width` columns."""
    return text + " " * (width - display_width(text))


def shorten(text: str, width: int) -> str:
    """The text, or its beginning and `…`, in at most `width` columns."""
    return text if display_width(text) <= width else _beginning(text, width - 1) + "…"


def _beginning(text: str, width: int) -> str:
    taken = 0
    for i, character in enumerate(text):
        taken += _columns(character)
        if taken > width:
            return text[:i]
    return text


def wrap(text: str, width: int, *, indent: str = "  ") -> str:
    """Lines of at most `width` columns; those that go on begin with `indent`.

    A line that begins with two spaces is left as it is: a command to copy, a table, a text that is quoted.
    """
    return "\n".join(
        line if line.startswith("  ") else "\n".join(_wrapped(line, width, indent)) for line in text.split("\n")
    )


def _wrapped(line: str, width: int, indent: str) -> Iterator[str]:
    current = ""
    for piece in _pieces(line):
        if current.strip() and display_width(current + piece.rstrip()) > width:
            yield current.rstrip()
            current = indent + piece.lstrip()
        else:
            current += piece
    yield current.rstrip()


def _pieces(line: str) -> list[str]:
    pieces: list[str] = []
    for piece in _PIECE.findall(line):
        if pieces and piece in _NO_BREAK_BEFORE:
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return pieces


def printable(text: str) -> str:
    """The text without what would move the cursor, change colours or ring the terminal's bell, written as escapes."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) != "Cc" else c.encode("unicode_escape").decode() for c in text
    )
