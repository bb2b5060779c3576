"""Writes the notebooks, in English and Chinese, from one source: `python examples/make.py`.

What it is: cells (`Text` in both languages, `Code` once) → `.ipynb` files, the same bytes at every call, without
outputs. What it is not: a runner; `tests/examples` executes what is written here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import _gsm8k
import _step_by_step
from _cells import Cell, Code

__all__ = ["NOTEBOOKS", "notebook", "write"]

LANGUAGES = ("en", "zh")
NOTEBOOKS: dict[str, list[Cell]] = {"gsm8k": _gsm8k.CELLS, "step_by_step": _step_by_step.CELLS}
"""File name without its ending, to cells."""


def notebook(cells: list[Cell], language: str) -> dict[str, Any]:
    """The notebook as JSON, format 4.5."""
    return {
        "cells": [_cell(cell, language) for cell in cells],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def write(folder: Path) -> list[Path]:
    """Write every notebook in every language under `folder`; returns the files."""
    written = []
    for language in LANGUAGES:
        (folder / language).mkdir(parents=True, exist_ok=True)
        for name, cells in NOTEBOOKS.items():
            path = folder / language / f"{name}.ipynb"
            content = json.dumps(notebook(cells, language), ensure_ascii=False, indent=1)
            path.write_text(content + "\n", encoding="utf-8")
            written.append(path)
    return written


def _cell(cell: Cell, language: str) -> dict[str, Any]:
    if isinstance(cell, Code):
        metadata = {"tags": list(cell.tags)} if cell.tags else {}
        rest = {"execution_count": None, "id": cell.id, "metadata": metadata, "outputs": []}
        return {"cell_type": "code", **rest, "source": _lines(cell.source)}
    text = cell.en if language == "en" else cell.zh
    return {"cell_type": "markdown", "id": cell.id, "metadata": {}, "source": _lines(text)}


def _lines(text: str) -> list[str]:
    return text.strip("\n").splitlines(keepends=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=Path(__file__).parent, help="(default: this folder)")
    for file in write(parser.parse_args().to):
        print(file)
