"""The two kinds of cells that a notebook's source is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["INSTALL", "Cell", "Code", "Text"]


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

INSTALL = Code(
    "install",
    """
import importlib.util
from pathlib import Path

REPOSITORY = ""  # git+https://… of a copy of Dunwu, where there is no checkout around this notebook, as on Colab

if importlib.util.find_spec("dunwu") is None:
    folders = [Path.cwd(), *Path.cwd().parents]
    checkout = next((str(folder) for folder in folders if (folder / "src" / "dunwu").is_dir()), None)
    source = REPOSITORY or checkout
    assert source, "Dunwu is on no package index yet: start in its folder, or say above where a copy of it is"
    %pip install -q "{source}"
""",
    tags=("install",),
)
"""The first code cell: does nothing where Dunwu is installed."""
