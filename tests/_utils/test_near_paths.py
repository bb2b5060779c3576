"""A mistyped path is answered with the one that is there."""

from pathlib import Path

import pytest

from dunwu._utils.near_paths import near_path


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("runs/quickstart", "data/gsm8k", "data/countdown", ".git/quickstart"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data" / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("data/gsm8", "data/gsm8k"),
        ("runs/quickstrat", "runs/quickstart"),
        ("./runs/Quickstart", "runs/quickstart"),
        ("run/quickstrat", "runs/quickstart"),
        ("data/row.jsonl", "data/rows.jsonl"),
        ("quickstart", "runs/quickstart"),
        ("dat", "data"),
    ],
)
def test_each_part_of_a_path_is_corrected_by_itself(given: str, near: str) -> None:
    assert near_path(given) == near


def test_an_absolute_path_is_corrected_to_an_absolute_one(tmp_path: Path) -> None:
    assert near_path(str(tmp_path / "rums" / "quickstart")) == str(tmp_path / "runs" / "quickstart")


@pytest.mark.parametrize("given", ["Qwen/Qwen2.5-0.5B-Instruct", "data/tldr", "runs/quickstart/x/y", "gpt2"])
def test_what_is_near_nothing_gets_no_proposal(given: str) -> None:
    assert near_path(given) is None
