"""Writes the notebooks, in English and Chinese, from one source: `python examples/make.py`.

Cells (`Text` in both languages, `Code` once) → `.ipynb` files, the same bytes at every call. The outputs that are in
a notebook stay while its code does; `--execute` makes new ones, in a few minutes, with what `_stand_in.py` says.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _gsm8k
import _step_by_step
from _cells import Cell, Code

__all__ = ["NOTEBOOKS", "Outputs", "committed_outputs", "notebook", "write"]

HERE = Path(__file__).parent
LANGUAGES = ("en", "zh")
NOTEBOOKS: dict[str, list[Cell]] = {"gsm8k": _gsm8k.CELLS, "step_by_step": _step_by_step.CELLS}
"""File name without its ending, to cells."""

MADE = {
    "en": """
**The outputs on this page are not of this model**, which could not be reached where they were made. A stand-in made
them: the model of 270,000 parameters that comes with Dunwu, taught to add two numbers by {taught} supervised steps;
{rows} sums in words in place of GSM8K; 60 steps of GRPO, answers of at most 64 tokens, learning rate 5e-4. The whole
notebook took {seconds} seconds on {cores} CPU cores. The outputs are real, and show what each cell prints; how well
Qwen2.5 learns, they do not show.
""",
    "zh": """
**本页的输出不是这个模型的**：制作时连不上它，用的是替身，即 Dunwu 自带的 27 万参数小模型，
先用 {taught} 步监督训练教它做两个数的加法；GSM8K 换成 {rows} 道文字加法题；
60 步 GRPO，回答最多 64 个 token，学习率 5e-4；整个 notebook 在 {cores} 个 CPU 核上用了 {seconds} 秒。
输出都是真实运行的结果，让你看到每一格会打印什么；至于 Qwen2.5 学得怎么样，它们说明不了。
""",
}
"""What the first cell says of the outputs."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What the cells of a notebook printed.

    Example: `Outputs(cells={"go": []}, made={"seconds": 90})`
    """

    cells: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    """A code cell's id to its outputs."""
    made: Mapping[str, int] = field(default_factory=dict)
    """Supervised steps, rows, seconds and CPU cores of the execution; empty: none."""


def notebook(cells: list[Cell], language: str, outputs: Outputs) -> dict[str, Any]:
    """The notebook as JSON, format 4.5."""
    return {
        "cells": [_cell(cell, language, outputs) for cell in cells],
        "metadata": {
            **({"dunwu": dict(outputs.made)} if outputs.made else {}),
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def write(folder: Path, *, execute: bool = False) -> list[Path]:
    """Write every notebook in every language under `folder`; returns the files."""
    outputs_of = _execute_all() if execute else committed_outputs
    written = []
    for language in LANGUAGES:
        (folder / language).mkdir(parents=True, exist_ok=True)
        for name, cells in NOTEBOOKS.items():
            path = folder / language / f"{name}.ipynb"
            content = notebook(cells, language, outputs_of(name, cells, language))
            path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
            written.append(path)
    return written


def committed_outputs(name: str, cells: list[Cell], language: str) -> Outputs:
    """The outputs of the notebook that is there; none where any of its code has changed since."""
    path = HERE / language / f"{name}.ipynb"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"cells": []}
    there = {cell["id"]: cell for cell in found["cells"] if cell["cell_type"] == "code"}
    code = {cell.id: _lines(cell.source) for cell in cells if isinstance(cell, Code)}
    if code != {cell_id: cell["source"] for cell_id, cell in there.items()}:
        return Outputs()
    return Outputs(cells={i: cell["outputs"] for i, cell in there.items()}, made=found["metadata"].get("dunwu", {}))


def _execute_all() -> Callable[[str, list[Cell], str], Outputs]:
    """Makes the stand-ins once; what is returned executes a notebook with them."""
    from _execute import executed
    from _stand_in import make_stand_in

    stand_in = tempfile.TemporaryDirectory()
    make_stand_in(Path(stand_in.name))

    def new_outputs(name: str, cells: list[Cell], language: str) -> Outputs:
        outputs, made = executed(name, notebook(cells, language, Outputs()), language, Path(stand_in.name))
        return Outputs(cells=outputs, made=made)

    return new_outputs


def _cell(cell: Cell, language: str, outputs: Outputs) -> dict[str, Any]:
    if isinstance(cell, Code):
        metadata = {"tags": list(cell.tags)} if cell.tags else {}
        rest = {
            "execution_count": None,
            "id": cell.id,
            "metadata": metadata,
            "outputs": outputs.cells.get(cell.id, []),
        }
        return {"cell_type": "code", **rest, "source": _lines(cell.source)}
    text = cell.en if language == "en" else cell.zh
    made = MADE[language].strip().format_map(outputs.made) if outputs.made else ""
    return {"cell_type": "markdown", "id": cell.id, "metadata": {}, "source": _lines(text.replace("{made}", made))}


def _lines(text: str) -> list[str]:
    return text.strip("\n").splitlines(keepends=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=HERE, help="(default: this folder)")
    parser.add_argument("--execute", action="store_true", help="run them with the stand-ins, and keep the outputs")
    given = parser.parse_args()
    for file in write(given.to, execute=given.execute):
        print(file)
