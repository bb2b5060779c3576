"""The nearest folder or file to a path that is not there."""

from __future__ import annotations

import difflib
from itertools import islice
from pathlib import Path

__all__ = ["near_path"]

_CANDIDATES = 3
"""Near names that are followed at each level of the path."""
_ENTRIES = 1000
"""Names that are looked at in one folder."""


def near_path(name: str) -> str | None:
    """The existing path that is nearest to `name`, each of its parts compared by itself; None where none is near.

    A name without folders is looked for in the folders beside, too: `quickstart` is near `runs/quickstart`.

    Example: `near_path("/no/such/path/at/all")` is `None`.
    """
    path = Path(name).expanduser()
    candidates = [Path(path.anchor)]
    for part in path.parts[bool(path.anchor) :]:
        candidates = list(islice((near for folder in candidates for near in _near(folder, part)), _CANDIDATES))
    if not candidates and len(path.parts) == 1:
        candidates = [folder / path for folder in _entries(Path()) if (folder / path).exists()]
    return next((str(near) for near in candidates if near != Path()), None)


def _near(folder: Path, name: str) -> list[Path]:
    """Entries of a folder by their likeness to `name`; hidden ones are nobody's mistake."""
    exact = [folder / name] if (folder / name).exists() else []
    by_name = {entry.name.lower(): entry for entry in _entries(folder)}
    close = difflib.get_close_matches(name.lower(), by_name, n=_CANDIDATES, cutoff=0.6)
    return exact + [by_name[each] for each in close if by_name[each] not in exact]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in islice(folder.iterdir(), _ENTRIES) if not entry.name.startswith("."))
    except OSError:  # a file, or a folder that may not be read
        return []
