"""Executes a notebook with the stand-ins, in a folder of its own, for the outputs that are committed."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from _stand_in import PARAMETERS, ROWS, TAUGHT

__all__ = ["executed"]

_FOLDERS = re.compile(r"/(?:tmp|home|root|work|usr|Users)/|site-packages")
"""Signs of this machine's folders."""


def executed(
    name: str, content: dict[str, Any], language: str, stand_in: Path
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, int]]:
    """A code cell's id to what it printed, and the figures that the first cell tells.

    Raises:
        RuntimeError: where a cell writes to standard error or shows a folder of this machine.
    """
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.reads(json.dumps(content), as_version=4)
    (cell,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", ())]
    cell.source = PARAMETERS[name].strip()
    with tempfile.TemporaryDirectory() as folder:
        for part in ("model", "data"):
            (Path(folder) / part).symlink_to(stand_in / part)
        client = NotebookClient(
            book, timeout=900, kernel_name="python3", record_timing=False, resources={"metadata": {"path": folder}}
        )
        os.environ["DUNWU_LANG"] = language
        began = time.monotonic()
        client.execute()
        seconds = time.monotonic() - began
    outputs = {cell.id: _outputs(cell) for cell in book.cells if cell.cell_type == "code"}
    return outputs, {"taught": TAUGHT, "rows": ROWS, "seconds": round(seconds), "cores": os.cpu_count() or 1}


def _outputs(cell: Any) -> list[dict[str, Any]]:
    """The cell's outputs as they are kept: pieces of a stream in one, no counts, nothing empty."""
    kept: list[dict[str, Any]] = []
    for output in json.loads(json.dumps(cell.outputs)):
        if output["output_type"] == "stream":
            if output["name"] != "stdout":
                raise RuntimeError(f"the cell {cell.id} writes to {output['name']}: {output['text'][:2000]}")
            if kept and kept[-1]["output_type"] == "stream":
                kept[-1]["text"] += output["text"]
                continue
        elif "execution_count" in output:
            output["execution_count"] = None
        kept.append(output)
    for output in kept:
        shown = output.get("text", "") or json.dumps({k: v for k, v in output["data"].items() if "image" not in k})
        if _FOLDERS.search(shown):
            raise RuntimeError(f"the cell {cell.id} shows a folder of this machine: {shown[:2000]}")
        if "image/png" in output.get("data", {}):
            output["data"]["image/png"] = _smaller(output["data"]["image/png"])
        if "text" in output:
            output["text"] = output["text"].splitlines(keepends=True)
    return kept


def _smaller(picture: str) -> str:
    """A PNG, in base64, in 64 colours: a third of the size, for lines on white no loss to the eye."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        small = io.BytesIO()
        image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode("ascii")
