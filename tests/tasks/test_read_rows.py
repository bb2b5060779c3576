"""Files that are not as they should be are refused with file and line, and values stay as they are written."""

import csv
import json
from pathlib import Path

import pytest

from dunwu.errors import DataError
from dunwu.tasks.read_rows import read_rows


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".json"])
@pytest.mark.parametrize(
    ("encoding", "line", "says"),
    [
        ("utf-16", 1, "it is UTF-16.*iconv -f UTF-16 -t UTF-8"),
        ("gbk", 2, "GBK or Latin-1"),
        ("latin-1", 2, "Latin-1"),
    ],
)
def test_a_file_in_another_encoding_is_named_with_its_line(
    tmp_path: Path, suffix: str, encoding: str, line: int, says: str
) -> None:
    text = "数学" if encoding == "gbk" else "café à la"
    content = {
        ".jsonl": '{"prompt": "a"}\n' + json.dumps({"prompt": text}, ensure_ascii=False) + "\n",
        ".csv": f"prompt\n{text}\n",
        ".json": f'[{{"prompt": "a"}},\n{{"prompt": "{text}"}}]',
    }[suffix]
    path = tmp_path / f"data{suffix}"
    path.write_bytes(content.encode(encoding))
    with pytest.raises(DataError, match=rf"line {line} of '.*data\{suffix}' is not UTF-8 .*{says}"):
        read_rows(path)


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    for name, text in (("a.jsonl", '{"prompt": "é"}\r\n{"prompt": "b"}\r\n'), ("a.csv", "prompt\r\né\r\nb\r\n")):
        (tmp_path / name).write_bytes(text.encode("utf-8-sig"))
        assert read_rows(tmp_path / name) == [{"prompt": "é"}, {"prompt": "b"}]


def test_a_cell_of_any_length_is_read_and_the_limit_of_others_stays(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    long = "x" * 200_000
    (tmp_path / "a.csv").write_text(f'prompt,answer\n"{long}\nmore",7\n', encoding="utf-8")
    assert read_rows(tmp_path / "a.csv") == [{"prompt": f"{long}\nmore", "answer": "7"}]
    assert csv.field_size_limit() == before


def test_cells_stay_the_text_that_is_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,answer,note\n007,1.50,\n008,72,NA\n", encoding="utf-8")
    assert read_rows(tmp_path / "a.csv") == [
        {"id": "007", "answer": "1.50", "note": ""},
        {"id": "008", "answer": "72", "note": "NA"},
    ]


def test_a_line_with_too_few_cells_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,answer\na,1\nb\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 3 .* does not have the 2 cells"):
        read_rows(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "a.jsonl",
            b'{"prompt": "a"}\n{"prompt": "\\ud83d!"}\n',
            r"line 2 of .* contains \\ud83d, half of a surrogate pair",
        ),
        (
            "a.json",
            b'[{"prompt": "a"}, {"prompt": "\\ude00"}]',
            r"row 1 of .* contains \\ude00, half of a surrogate pair",
        ),
        ("a.parquet", b"PAR1 not really", "could not be read as Parquet"),
    ],
)
def test_what_is_no_text_or_no_table_is_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_rows(tmp_path / name)


def test_a_whole_pair_of_halves_is_a_character(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "\\ud83d\\ude00"}\n')
    assert read_rows(tmp_path / "a.jsonl") == [{"prompt": "😀"}]
