"""A file of JSON objects, one a line, that a resumed run continues where its checkpoint was."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

from dunwu._utils.logging import get_logger

__all__ = ["Entry", "JsonlFile"]

Entry: TypeAlias = dict[str, Any]
"""The object of one line."""


class JsonlFile:
    """Appends JSON objects, each with a `step`, to a file.

    The first write decides what becomes of a file that is there already: lines of steps up to `keep_until` stay, all
    others go. Where none stay, the file is another run's, and is kept under another name: `metrics.1.jsonl`. The file
    and its folder are made then and not before, so that a run refused earlier leaves nothing.

    Args:
        path: the file.
        keep_until: the last step whose lines stay; 0: none do.
    """

    def __init__(self, path: Path | str, *, keep_until: int = 0) -> None:
        self.path, self.keep_until = Path(path), keep_until
        self._is_cut = False

    def read_kept(self) -> list[Entry]:
        """The objects that stay, in order."""
        return [entry for _, entry in self._kept_lines()]

    def write(self, entries: Iterable[Mapping[str, object]]) -> None:
        """Append the objects, one line each."""
        if not self._is_cut:
            self._cut()
        with self._open(self.path, "a") as out:
            out.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)

    def _cut(self) -> None:
        """Write what stays to a file beside this one, and put that in its place: a kill leaves one of them."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.keep_until <= 0 and self.path.exists() and self.path.stat().st_size:
            self._set_aside()
        beside = self.path.with_name(f"{self.path.name}.tmp")
        with self._open(beside, "w") as out:
            out.writelines(line for line, _ in self._kept_lines())
        os.replace(beside, self.path)
        self._is_cut = True

    def _set_aside(self) -> None:
        """Rename the file of an earlier run."""
        numbers = itertools.count(1)
        names = (self.path.with_name(f"{self.path.stem}.{number}{self.path.suffix}") for number in numbers)
        free = next(name for name in names if not name.exists())
        os.replace(self.path, free)
        get_logger().info(f"{self.path} of an earlier run is now {free.name}")

    def _kept_lines(self) -> Iterator[tuple[str, Entry]]:
        if self.keep_until <= 0 or not self.path.exists():
            return
        with self._open(self.path, "r") as lines:
            for line in lines:
                entry = _parse(line)
                if entry is not None and entry["step"] <= self.keep_until:
                    yield line, entry

    @staticmethod
    def _open(path: Path, mode: Literal["r", "w", "a"]) -> IO[str]:
        # Lines end at \n alone: completions may contain U+2028 and its kin. A kill can leave half a character, and
        # data may contain half of a surrogate pair: neither may stop a run.
        return path.open(mode, encoding="utf-8", errors="backslashreplace", newline="\n")


def _parse(line: str) -> Entry | None:
    """The object of a line; None for one that a kill cut off, or that is not of a step."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return None
    is_step = isinstance(entry, dict) and isinstance(entry.get("step"), int | float) and line.endswith("\n")
    return entry if is_step else None
