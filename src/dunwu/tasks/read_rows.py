"""Rows from a file, a folder or a hub name: what every task reads its data with.

What it is: `read_table`, one function for JSONL, JSON, CSV and Parquet files and for `datasets` folders and names.
What it is not: a cache, a downloader of its own, or a judge of columns; `dunwu.tasks.custom` names missing ones.
"""

from __future__ import annotations

import csv
import json
from difflib import SequenceMatcher
from importlib import import_module
from pathlib import Path
from typing import Any

from dunwu.hub import explain_error, locate

__all__ = ["need_columns", "read_table"]

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


def read_table(source: str | Path, *, split: str = "train", config: str | None = None) -> list[dict[str, Any]]:
    """Every row of `source`, as dicts.

    `source`: a file that ends with .jsonl, .json, .csv or .parquet; a folder with `{split}` and one of these endings;
    a folder that `Dataset.save_to_disk` wrote, or that `dunwu fetch` filled; or the name of a dataset on a hub
    (`HF_ENDPOINT` and `DUNWU_SOURCE` are respected).

    Raises:
        ValueError: for a missing file or split, a bad line (with its number), or no rows at all.
    """
    path = Path(source).expanduser()
    if path.is_file():
        rows = _read_file(path)
    elif path.is_dir():
        rows = _read_folder(path, split, config)
    elif path.suffix in SUFFIXES or str(source).startswith((".", "/", "~")):
        raise ValueError(f"there is no file or folder {str(source)!r}; check the path")
    else:
        rows = _read_hub(str(source), config, split)
    if not rows:
        raise ValueError(f"{str(source)!r} has no rows in split {split!r}; give a file with at least one row")
    return rows


def need_columns(rows: list[dict[str, Any]], names: tuple[str, ...], source: str | Path) -> None:
    """Refuse rows that lack a column, naming the ones that exist, nearest first.

    Raises:
        ValueError: with the first row that lacks one.
    """
    for index, row in enumerate(rows):
        for name in names:
            if name not in row:
                raise ValueError(
                    f"row {index} of {str(source)!r} has no column {name!r}; "
                    f"it has {_nearest_first(name, list(row))}. Name the right column, or rename it in the data"
                )


def _nearest_first(word: str, known: list[str]) -> str:
    ranked = sorted(known, key=lambda k: -SequenceMatcher(None, word.lower(), str(k).lower()).ratio())
    return ", ".join(repr(k) for k in ranked) or "no columns"


def _read_file(path: Path) -> list[dict[str, Any]]:
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise ValueError(f"{str(path)!r} ends with {path.suffix!r}; give a file that ends with {', '.join(SUFFIXES)}")
    return readers[path.suffix](path)


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"line {number} of {str(path)!r} is not JSON: {error}; repair or delete it"
                ) from error
            if not isinstance(row, dict):
                raise ValueError(
                    f"line {number} of {str(path)!r} is {line.strip()[:60]!r}; each line must be an object"
                )
            rows.append(row)
    return rows


def _read_json(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{str(path)!r} is not JSON: {error}; for one object a line use the ending .jsonl"
        ) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{str(path)!r} must hold a list of objects, one a row")
    return rows


def _read_csv(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        rows = []
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(
                    f"line {reader.line_num} of {str(path)!r} does not have the {len(reader.fieldnames or ())} cells "
                    "of the header; quote cells that hold commas"
                )
            rows.append(dict(row))
    return rows


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    parquet = import_module("pyarrow.parquet")  # comes with datasets; it has no types
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return rows


def _read_folder(path: Path, split: str, config: str | None) -> list[dict[str, Any]]:
    for suffix in SUFFIXES:
        if (path / f"{split}{suffix}").is_file():
            return _read_file(path / f"{split}{suffix}")
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        from datasets import Dataset, load_from_disk

        data = load_from_disk(str(path))
        if isinstance(data, Dataset):
            return [dict(row) for row in data]
        if split in data:
            return [dict(row) for row in data[split]]
        raise ValueError(f"the folder {str(path)!r} has no split {split!r}; it has {', '.join(map(repr, data))}")
    if any(path.glob("*/*.parquet")) or (path / "README.md").is_file():
        return _read_repository(path, config, split)
    found = sorted(entry.name for entry in path.iterdir())[:8]
    raise ValueError(
        f"the folder {str(path)!r} has no {split}{'/'.join(SUFFIXES)} and is no saved dataset; "
        f"it has {found or 'nothing'}"
    )


def _read_repository(path: Path, config: str | None, split: str) -> list[dict[str, Any]]:
    """A dataset's repository as `dunwu fetch` or a hub's client put it there: README.md says what is in it."""
    from datasets import get_dataset_config_names, load_dataset

    try:
        configs = get_dataset_config_names(str(path))
        if config not in configs:  # a task asks by the hub's name for it; a copy may have only one, called otherwise
            config = configs[0] if len(configs) == 1 else None
        return [dict(row) for row in load_dataset(str(path), config, split=split)]
    except Exception as error:
        raise ValueError(f"the data in {str(path)!r} could not be read: {_line(error)}") from error


def _read_hub(name: str, config: str | None, split: str) -> list[dict[str, Any]]:
    where = locate(name, kind="dataset")
    if where != name:
        return _read_repository(Path(where), config, split)
    from datasets import load_dataset

    try:
        return [dict(row) for row in load_dataset(name, config, split=split)]
    except Exception as error:  # the clients' own errors have no common class
        unread = f"the data {name!r} could not be read from the hub: {_line(error)}"
        words = explain_error(error, name) or f"{unread}; give a file or folder with the same columns"
        raise ValueError(words) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
