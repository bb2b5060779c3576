"""`compare`, `report` and `rollouts` as a user types them, and what they say to folders that are none of a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dunwu.cli import main
from run_folders import answers, edit_json, make_run, rollout_rows, write_lines


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", before=answers(1, 5), after=answers(3, 5))


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def commands(folder: Path, good: Path) -> list[list[object]]:
    return [["compare", good, folder], ["report", folder], ["rollouts", folder], ["rollouts", folder, "--group", "3"]]


def all_refuse(capsys: pytest.CaptureFixture[str], folder: Path, good: Path, expected: str) -> None:
    for words in commands(folder, good):
        code, _, err = said(capsys, *words)
        assert code == 2 and expected in err, words
        assert err.startswith(f"dunwu {words[0]}: ") and len(err.strip().splitlines()) == 1


def test_a_folder_that_is_not_there_is_refused_with_the_nearest_that_is(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    all_refuse(capsys, run.with_name("rum"), run, f"did you mean {str(run)!r}")


def test_a_file_and_a_folder_without_a_run_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    all_refuse(capsys, run / "recipe.yaml", run, "is a file; a run is a folder")
    empty = run.parent / "empty"
    empty.mkdir()
    all_refuse(capsys, empty, run, "holds no run")
    (empty / "config.json").write_text("{}")
    all_refuse(capsys, empty, run, "a model but no run")


def test_half_a_run_is_refused_in_a_sentence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = make_run(run.parent / "half", rewards=(), ended="running")
    for name in ("metrics.jsonl", "rollouts.jsonl", "run.json"):
        (half / name).unlink()
    all_refuse(capsys, half, run, "has not finished a step yet")


def test_a_run_of_a_later_version_is_refused_by_its_version(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    later = make_run(run.parent / "later")
    edit_json(later / "run.json", format=99, versions={"dunwu": "9.0"})
    all_refuse(capsys, later, run, "was written by Dunwu 9.0 in format 99")


def test_files_that_are_no_files_of_ours_are_refused_and_not_read_as_empty(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = make_run(run.parent / "broken")
    (broken / "summary.json").write_text("{half")
    for words in (["compare", run, broken], ["report", broken]):
        code, _, err = said(capsys, *words)
        assert code == 2 and "summary.json cannot be read" in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--step", "later"], "--step later is no step; give a number, first, last or all"),
        (["--step", "99"], "it has steps 1 to 40"),
        (["--reward", "low"], "'low' is no condition on a number"),
        (["--score", "equation", ">0"], "did you mean 'equation_solves'"),
        (["--limit", "-3"], "--limit must be 0 (all) or more"),
        (["--right"], "--right and --wrong need the task's grades"),
        (["--reverse"], "--reverse needs an order"),
        (["--group", "777"], "has no completion to row 777"),
        (["--evaluation", "during"], "it has --evaluation before, after"),
    ],
)
def test_a_mistake_in_what_is_asked_of_rollouts_is_one_sentence(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    code, _, err = said(capsys, "rollouts", run, *words)
    assert code == 2 and expected in err and len(err.strip().splitlines()) == 1


def test_one_run_is_no_comparison(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, "compare", run)
    assert code == 2 and "at least two runs" in err
    code, _, err = said(capsys, "compare", run, run.parent / "x", "--out", "page.txt")
    assert code == 2 and "--out page.txt must name a Markdown file, such as page.md" in err


def test_compare_prints_a_table_and_json_and_writes_a_page_with_a_picture(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_run(run.parent / "other", after=answers(4, 5), options={"train.beta": "0.5"})
    page = run.parent / "pages" / "both.md"
    code, out, _ = said(capsys, "compare", run, other, "--out", page)
    assert code == 0 and "train.beta" in out and f"written: {page}" in out
    assert "](<both.png>)" in page.read_text() and page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = said(capsys, "compare", run.parent, "--json")
    assert code == 0 and [one["label"] for one in json.loads(out)["settings"]] == ["beta=0.5", "beta=0.008"]


def test_report_writes_and_prints(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "report", run)
    assert code == 0 and (run / "report.md").read_text() in out and f"written: {run / 'report.md'}" in out


def test_rollouts_shows_the_last_step_and_says_what_it_left_out(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = said(capsys, "rollouts", run, "--limit", 3)
    lines = out.splitlines()
    assert code == 0 and [line.split()[0] for line in lines[:4]] == ["step", "40", "40", "40"]
    assert (
        "3 shown of 4 that match, of 4. --limit 4 shows all of them. --step all looks at every step."
        in out.replace("\n  ", " ")
    )
    assert max(map(len, lines)) <= 80


def test_rollouts_prints_the_files_own_objects_as_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rollout_rows(1)
    rows[0]["completion"] = "half \ud800 of a pair"
    write_lines(run / "rollouts.jsonl", rows)
    code, out, _ = said(capsys, "rollouts", run, "--json")
    assert code == 0 and [json.loads(line) for line in out.splitlines()] == rows
    code, out, _ = said(capsys, "rollouts", run, "--evaluation", "--wrong", "--json")
    assert code == 0 and [json.loads(line)["row"] for line in out.splitlines()] == [3, 3, 3, 4, 4, 4]


def test_a_group_of_the_evaluation_is_shown_with_its_gold_answer(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = said(capsys, "rollouts", run, "--group", 3, "--evaluation", "before")
    assert code == 0 and "row 3: 3 completions" in out
    assert "nums=[3, 14, 3], target=45" in out and "gold answer:\n    <think>" in out
    assert "equation_solves 0" in out and "greedy  reward 1.30 · wrong · 7 tokens" in out


def test_a_row_that_the_data_no_longer_has_gets_no_wrong_gold_answer(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 10 of the recipe's own training split is another puzzle than these rollouts are of."""
    code, out, _ = said(capsys, "rollouts", run, "--group", 10)
    assert code == 0 and "gold answer" not in out and "<|user|>3 14 10 = 52<|end|>" in out


def test_a_reader_that_stops_reading_is_no_error(run: Path) -> None:
    write_lines(run / "rollouts.jsonl", [row for step in range(1, 2000) for row in rollout_rows(step)])
    words = [sys.executable, "-m", "dunwu", "rollouts", str(run), "--step", "all", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)) as reader:
        assert reader.stdout is not None and reader.stderr is not None
        reader.stdout.readline()
        reader.stdout.close()
        assert reader.stderr.read() == b""
        assert reader.wait(timeout=60) == 0


def test_reading_runs_needs_no_torch(run: Path) -> None:
    code = (
        "import sys\nfrom dunwu.cli import main\n"
        f"for command in ('report', 'rollouts'):\n    assert main([command, {str(run)!r}]) == 0\n"
        f"main(['compare', {str(run)!r}, {str(run)!r}])\n"
        "assert not {'torch', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
