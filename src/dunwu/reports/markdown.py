"""Text that a model or a user wrote, in Markdown that shows it as it is."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

__all__ = ["cell", "code_block", "code_span", "escaped", "markdown_table", "plain"]

_SPECIAL = re.compile(r"([\\`*|~$#]|(?<!\w)_|_(?!\w)|(?<=\])\(|^[>+-])")
"""What Markdown reads as a sign: not an underscore within a name, nor brackets that are no link."""
_TAG = re.compile(r"<(?=\S)")
_ENTITY = re.compile(r"&(?=[\w#])")
_BREAKS = "\u2028\u2029\x85\x0b\x0c\r"


def plain(text: str, *, keep: str = "\n\t") -> str:
    """The text with control characters, other line breaks and marks of direction as escapes: `\\x1b`, `\\u202e`.

    Example: `plain("a" + chr(27) + "[2J")` is `"a" + chr(92) + "x1b[2J"`.
    """
    return "".join(c if c in keep or not _is_hidden(c) else c.encode("unicode_escape").decode() for c in text)


def _is_hidden(character: str) -> bool:
    # Joiners of emoji and of Arabic or Indic writing are of the same kind as what turns the direction of text.
    return (
        unicodedata.category(character) in ("Cc", "Cs")
        or character in _BREAKS
        or "\u202a" <= character <= "\u202e"
        or "\u2066" <= character <= "\u2069"
    )


def escaped(text: str) -> str:
    """One line of Markdown that reads as the text.

    Example: `escaped("a|b<c>")` is `"a" + chr(92) + "|b&lt;c>"`.
    """
    line = " ".join(plain(text, keep="\t").split())
    line = _ENTITY.sub("&amp;", line)
    return _TAG.sub("&lt;", _SPECIAL.sub(r"\\\1", line))


def cell(text: str) -> str:
    """The same for a table of ours, where only what would end the cell or the table is escaped."""
    return " ".join(plain(text, keep="").split()).replace("|", "\\|").replace("<", "&lt;")


def code_span(text: str) -> str:
    """The text as code within a line, also where it has backticks.

    Example: `code_span("a b") == chr(96) + "a b" + chr(96)` is `True`.
    """
    line = " ".join(plain(text, keep="\n\t").split()) or " "
    fence = "`" * (_longest_run(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def code_block(text: str) -> str:
    """The text as a block of code, fenced by more backticks than it has in a row."""
    body = plain(text).rstrip("\n")
    fence = "`" * max(3, _longest_run(body) + 1)
    return f"{fence}text\n{body}\n{fence}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: bool = True) -> str:
    """A table; `right` puts all columns but the first to the right."""
    rule = ["---", *(["---:" if right else "---"] * (len(head) - 1))]
    return "\n".join(f"| {' | '.join(map(cell, row))} |" for row in [head, rule, *rows])


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
