"""A file of JSON lines, one or several a step, that a resumed run can go on with.

What it is: made at the first write, cut back at a resume. What it is not: an observer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["JsonlFile"]


class JsonlFile:
    """Appends lines to `path`, each a JSON object with a `step`.

    Args:
        path: the file; its folder is made at the first write, so that a run refused earlier leaves nothing.
        after: keep the lines up to this step and drop later ones, which the resumed run makes again; 0 drops all.
    """

    def __init__(self, path: Path, *, after: int = 0) -> None:
        self.path, self.after = path, after
        self._cut = False

    def kept(self) -> list[dict[str, Any]]:
        """What an earlier run wrote up to `after`."""
        if not self.after or not self.path.exists():
            return []
        entries = (_read(line) for line in self.path.read_text(encoding="utf-8").splitlines())
        return [entry for entry in entries if entry is not None and entry["step"] <= self.after]

    def write(self, lines: Iterable[str]) -> None:
        """Append the lines."""
        if not self._cut:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            before = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in self.kept())
            self.path.write_text(before, encoding="utf-8")
            self._cut = True
        with self.path.open("a", encoding="utf-8") as out:
            out.writelines(f"{line}\n" for line in lines)


def _read(line: str) -> dict[str, Any] | None:
    """One line's object; None for a last line that a kill cut off."""
    try:
        entry: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry
