"""Your own data, TL;DR and the reading of files: what works, and what an error says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dunwu.tasks import Own, Tldr, get_task, validate
from dunwu.tasks.read_rows import read_rows

ROWS = [{"question": f"What is {n} + 1?", "result": str(n + 1), "level": n % 3} for n in range(60)]


def write_jsonl(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def write_json(path: Path) -> Path:
    path.write_text(json.dumps(ROWS), encoding="utf-8")
    return path


def write_csv(path: Path) -> Path:
    lines = [f'"{row["question"]}",{row["result"]},{row["level"]}\n' for row in ROWS]
    path.write_text("question,result,level\n" + "".join(lines), encoding="utf-8")
    return path


def write_parquet(path: Path) -> Path:
    from datasets import Dataset

    Dataset.from_list(ROWS).to_parquet(str(path))
    return path


def write_saved(path: Path) -> Path:
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(str(path))
    return path


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_jsonl, "a.jsonl"),
        (write_json, "a.json"),
        (write_csv, "a.csv"),
        (write_parquet, "a.parquet"),
        (write_saved, "saved"),
    ],
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, write: Callable[[Path], Path], name: str) -> None:
    rows = read_rows(write(tmp_path / name))
    assert [(row["question"], row["result"], int(row["level"])) for row in rows] == [
        (row["question"], row["result"], row["level"]) for row in ROWS
    ]


def own(tmp_path: Path, **options: Any) -> Own:
    source = write_jsonl(tmp_path / "sums.jsonl")
    return Own(source=str(source), prompt_column="question", answer_column="result", **options)


def test_own_rows_keep_their_columns_and_gain_answer(tmp_path: Path) -> None:
    row = own(tmp_path, held_out=0).rows("train")[4]
    assert row == {"question": "What is 4 + 1?", "result": "5", "level": 1, "answer": "5"}


def test_own_splits_are_disjoint_complete_and_stable(tmp_path: Path) -> None:
    task = own(tmp_path, held_out=0.2)
    parts = [{row["question"] for row in task.rows(split)} for split in ("train", "validation", "test")]  # type: ignore[arg-type]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 60
    assert parts[2] == {row["question"] for row in own(tmp_path, held_out=0.2).rows("test")}


def test_a_test_file_of_its_own_is_the_test_split(tmp_path: Path) -> None:
    other = tmp_path / "exam.csv"
    other.write_text("question,result\nWhat is 1000 + 1?,1001\n", encoding="utf-8")
    task = own(tmp_path, test_source=str(other))
    assert [row["answer"] for row in task.rows("test")] == ["1001"]
    assert len(task.rows("train")) + len(task.rows("validation")) == 60


def test_a_prompt_is_text_a_chat_or_a_chat_with_a_system_message(tmp_path: Path) -> None:
    row = {"question": "Why?", "result": "1"}
    user = {"role": "user", "content": "Why?"}
    assert own(tmp_path).prompt(row) == "Why?"
    assert own(tmp_path, chat=True).prompt(row) == [user]
    assert own(tmp_path, system="Be brief.").prompt(row) == [{"role": "system", "content": "Be brief."}, user]
    assert own(tmp_path, system="Be brief.").prompt({"question": [user]})[-1] == user


def test_own_gold_answers_score_full_marks(tmp_path: Path) -> None:
    report = validate(own(tmp_path, held_out=0))
    assert (report.checked, report.excluded) == (60, 0)


def test_own_grades_by_hand(tmp_path: Path) -> None:
    task, row = own(tmp_path), {"question": "", "answer": "5"}
    marks = [task.grade(row, text) for text in ("<answer>5.0</answer>", "so 5", "<answer>6</answer> 5", "6")]
    assert [(m.strict, m.lenient, m.formatted) for m in marks] == [
        (True, True, True),
        (False, True, False),
        (False, True, True),
        (False, False, False),
    ]


def test_answers_that_are_no_numbers_need_a_reward_of_your_own(tmp_path: Path) -> None:
    source = tmp_path / "quiz.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"{n}?", "label": "ABC"[n % 3]}) + "\n" for n in range(9)))
    task = Own(source=str(source), answer_column="label", held_out=0)
    with pytest.raises(ValueError, match=r"no answer in column 'label' of .* is a number \('A', 'B', 'C' …\)"):
        task.rows("train")

    def same(completions: list[str], answer: list[str], **columns: Any) -> list[float]:
        return [float(text == right) for text, right in zip(completions, answer, strict=True)]

    own_reward = Own(source=str(source), answer_column="label", held_out=0, rewards=[same])
    assert [row["answer"] for row in own_reward.rows("train")][:3] == ["A", "B", "C"]
    with source.open("a") as more:
        more.write('{"prompt": "10?", "label": "7"}\n')
    again = tmp_path / "again.jsonl"
    again.write_text(source.read_text())
    assert len(Own(source=str(again), answer_column="label", held_out=0).rows("train")) == 10


def test_a_missing_column_names_the_columns_that_exist_nearest_first(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match=r"no column 'questions'; it has 'question', .*Name the right column"):
        Own(source=str(source), prompt_column="questions").rows("train")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": \n', "line 2 .*is not JSON"),
        ("a.jsonl", '{"prompt": "x"}\n[1]\n', "line 2 .*must be an object"),
        ("a.jsonl", "", "has no rows"),
        ("a.json", "{", "is not JSON"),
        ("a.json", '{"prompt": "x"}', "must contain a list"),
        ("a.csv", "prompt,answer\na,b,c\n", "line 2 .*2 cells"),
        ("a.csv", "prompt,answer\n", "has no rows"),
        ("a.txt", "x", "ends with '.txt'"),
    ],
)
def test_broken_data_is_refused_with_the_line(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=says):
        Own(source=str(tmp_path / name)).rows("train")


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file or folder"):
        read_rows(tmp_path / "gone.jsonl")
    with pytest.raises(ValueError, match="is no saved dataset; it has nothing"):
        read_rows(tmp_path)


def test_a_saved_dataset_without_the_split_names_the_ones_it_has(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    DatasetDict({"train": Dataset.from_list(ROWS)}).save_to_disk(str(tmp_path / "d"))
    assert len(read_rows(tmp_path / "d")) == 60
    with pytest.raises(ValueError, match="no split 'test'; it has 'train'"):
        read_rows(tmp_path / "d", split="test")


def test_an_empty_split_is_refused_with_what_to_change(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"prompt": "x"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="change held_out, add rows, or name a test_source"):
        Own(source=str(tmp_path / "one.jsonl"), held_out=0).rows("test")


def test_a_share_that_leaves_too_little_to_train_is_refused() -> None:
    with pytest.raises(ValueError, match=r"held_out=0\.6"):
        Own(source="x.jsonl", held_out=0.6)


def test_tldr_prefers_summaries_near_the_length_and_has_no_gold(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"prompt": "POST: x TL;DR:", "completion": " y"}\n', encoding="utf-8")
    task = Tldr(source=str(tmp_path), characters=10)
    row = task.rows("train")[0]
    assert task.prompt(row) == "POST: x TL;DR:"
    assert task.gold_completion(row) is None
    assert task.rewards[0](completions=["x" * 10, "x" * 7], prompts=[None, None]) == [0.0, -3.0]
    verdict = task.grade(row, "x" * 12)
    assert (verdict.strict, verdict.lenient, verdict.formatted) == (False, True, True)
    with pytest.raises(ValueError, match="nothing to validate"):
        validate(get_task("tldr", source=str(tmp_path)))
