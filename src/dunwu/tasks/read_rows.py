"""Rows from a file, a folder or a hub name: what every task reads its data with.

Text formats are read as they are written: `datasets` would turn a CSV's 007 into 7.0, fill short lines with nothing,
and keep a copy of each file in its cache. It reads what is its own: saved folders, repositories, names of a hub.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from difflib import SequenceMatcher
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from dunwu.errors import DataError
from dunwu.hub import explain_error, locate
from dunwu.hub.sources import looks_like_missing_path, missing_path

__all__ = ["Table", "need_columns", "read_rows"]

Table: TypeAlias = list[dict[str, Any]]
"""Rows, each a dict of column name to value."""

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


def read_rows(source: str | Path, *, split: str = "train", config: str | None = None) -> Table:
    """Every row of `source`.

    Args:
        source: a file that ends with .jsonl, .json, .csv or .parquet, text in UTF-8; a folder with `{split}` and one
            of these endings; a folder that `Dataset.save_to_disk` wrote, or that `dunwu fetch` filled; or the name of
            a dataset on a hub (`HF_ENDPOINT` and `DUNWU_SOURCE` are respected).
        split: which split of a folder or dataset.
        config: which configuration of a dataset that has several.

    Raises:
        DataError: for a missing file or split, a bad line (with its number), or no rows at all.
    """
    path = Path(source).expanduser()
    if path.is_file():
        rows = _read_file(path)
    elif path.is_dir():
        rows = _read_folder(path, split, config)
    elif path.suffix in SUFFIXES or looks_like_missing_path(str(source)):
        raise DataError(missing_path(str(source), what="no file or folder"))
    else:
        rows = _read_hub(str(source), config, split)
    if not rows:
        raise DataError(f"{str(source)!r} has no rows in split {split!r}; give a file with at least one row")
    return rows


def need_columns(rows: Table, names: tuple[str, ...], source: str | Path) -> None:
    """Refuse rows that lack a column, naming the ones that exist, nearest first.

    Raises:
        DataError: with the first row that lacks one.
    """
    for index, row in enumerate(rows):
        for name in names:
            if name not in row:
                raise DataError(
                    f"row {index} of {str(source)!r} has no column {name!r}; "
                    f"it has {_nearest_first(name, list(row))}. Name the right column, or rename it in the data"
                )


def _nearest_first(name: str, known: list[str]) -> str:
    ranked = sorted(known, key=lambda k: -SequenceMatcher(None, name.lower(), str(k).lower()).ratio())
    return ", ".join(repr(k) for k in ranked) or "no columns"


def _read_file(path: Path) -> Table:
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise DataError(f"{str(path)!r} ends with {path.suffix!r}; give a file that ends with {', '.join(SUFFIXES)}")
    return readers[path.suffix](path)


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        guess, encoding = ("it is UTF-16", "UTF-16") if is_utf16 else ("it may be GBK or Latin-1", "GBK")
        raise DataError(
            f"line {line} of {str(path)!r} is not UTF-8 (byte {content[error.start]:#04x}); {guess}. Save the file "
            f"as UTF-8, for example: iconv -f {encoding} -t UTF-8 {path.name} > utf8{path.suffix}"
        ) from error


def _read_jsonl(path: Path) -> Table:
    return [
        _row_of(line, number, path) for number, line in enumerate(_text(path).split("\n"), start=1) if line.strip()
    ]


def _row_of(line: str, number: int, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"line {number} of {str(path)!r} is not JSON: {error}; repair or delete it") from error
    _refuse_half_characters(row, f"line {number} of {str(path)!r}")
    if not isinstance(row, dict):
        raise DataError(f"line {number} of {str(path)!r} is {line.strip()[:60]!r}; each line must be an object")
    return row


def _read_json(path: Path) -> Table:
    try:
        rows = json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{str(path)!r} is not JSON: {error}; for one object a line use the ending .jsonl") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{str(path)!r} must contain a list of objects, one a row")
    for index, row in enumerate(rows):
        _refuse_half_characters(row, f"row {index} of {str(path)!r}")
    return rows


def _refuse_half_characters(row: object, where: str) -> None:
    r"""JSON can contain \ud83d, half of a surrogate pair: such text cannot be tokenized or printed."""
    written = json.dumps(row, ensure_ascii=False)
    try:
        written.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(written[error.start]):04x}"
        raise DataError(f"{where} contains {half}, half of a surrogate pair; repair or delete it") from error


def _read_csv(path: Path) -> Table:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    before = csv.field_size_limit(2**31 - 1)  # the default, 128 kB, is less than a long document
    try:
        return list(_csv_rows(reader, path))
    except csv.Error as error:
        raise DataError(f"line {reader.line_num} of {str(path)!r} is not CSV: {error}; repair it") from error
    finally:
        csv.field_size_limit(before)


def _csv_rows(reader: csv.DictReader[str], path: Path) -> Iterator[dict[str, Any]]:
    for row in reader:
        if None in row or None in row.values():
            raise DataError(
                f"line {reader.line_num} of {str(path)!r} does not have the {len(reader.fieldnames or ())} cells "
                "of the header; quote cells that contain commas"
            )
        yield dict(row)


def _read_parquet(path: Path) -> Table:
    parquet = import_module("pyarrow.parquet")  # comes with datasets; it has no types
    try:
        rows: Table = parquet.read_table(path).to_pylist()
    except Exception as error:  # pyarrow's own errors
        raise DataError(f"{str(path)!r} could not be read as Parquet: {_line(error)}") from error
    return rows


def _read_folder(path: Path, split: str, config: str | None) -> Table:
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
        raise DataError(f"the folder {str(path)!r} has no split {split!r}; it has {', '.join(map(repr, data))}")
    if any(path.glob("*/*.parquet")) or (path / "README.md").is_file():
        return _read_repository(path, config, split)
    found = sorted(entry.name for entry in path.iterdir())[:8]
    raise DataError(
        f"the folder {str(path)!r} has no {split}{'/'.join(SUFFIXES)} and is no saved dataset; "
        f"it has {found or 'nothing'}"
    )


def _read_repository(path: Path, config: str | None, split: str) -> Table:
    """A dataset's repository as `dunwu fetch` or a hub's client downloaded it: README.md lists what is in it."""
    from datasets import get_dataset_config_names, load_dataset

    try:
        configs = get_dataset_config_names(str(path))
        if config not in configs:  # a task asks by the hub's name for it; a copy may have only one, called otherwise
            config = configs[0] if len(configs) == 1 else None
        return [dict(row) for row in load_dataset(str(path), config, split=split)]
    except Exception as error:
        raise DataError(f"the data in {str(path)!r} could not be read: {_line(error)}") from error


def _read_hub(name: str, config: str | None, split: str) -> Table:
    where = locate(name, kind="dataset")
    if where != name:
        return _read_repository(Path(where), config, split)
    from datasets import load_dataset

    try:
        return [dict(row) for row in load_dataset(name, config, split=split)]
    except Exception as error:  # the clients' own errors have no common class
        unread = f"the data {name!r} could not be read from the hub: {_line(error)}"
        message = explain_error(error, name) or f"{unread}; give a file or folder with the same columns"
        raise DataError(message) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
