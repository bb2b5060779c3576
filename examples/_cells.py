"""The two kinds of cells that a notebook's source is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Cell", "Code", "Text"]


@dataclass(frozen=True)
class Text:
    """A Markdown cell.

    Example: `Text("title", en="# A title", zh="# 标题")`
    """

    id: str
    """The cell's id in the notebook: letters, digits, `-` and `_`."""
    en: str
    """What it says in English."""
    zh: str
    """The same in Chinese."""


@dataclass(frozen=True)
class Code:
    """A code cell, the same in both languages.

    Example: `Code("parameters", "STEPS = 20", tags=("parameters",))`
    """

    id: str
    """The cell's id."""
    source: str
    """The code, as `ruff format` wants it."""
    tags: tuple[str, ...] = ()
    """Jupyter's tags; papermill and our tests know the cell `parameters`."""


Cell: TypeAlias = Text | Code
