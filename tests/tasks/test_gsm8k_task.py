"""GSM8K: T1's prompt and template to the letter, its rewards' reach, real rows where they are at hand."""

import json
import os
from pathlib import Path

import pytest

from dunwu.core.records import Message
from dunwu.tasks import SYSTEM_PROMPT, XML_COT_FORMAT, Gsm8k, get_task, validate

SHARED = Path(os.environ.get("DUNWU_SHARED", Path(__file__).parents[2].parent / "shared"))
REAL = SHARED / "data" / "gsm8k"
real = pytest.mark.skipif(not (REAL / "train.jsonl").is_file(), reason=f"GSM8K is not at {REAL}; see DUNWU_SHARED")

QUESTIONS = [
    {"question": "Two and two?", "answer": "2+2 = <<2+2=4>>4 apples.\nSo it is 4.\n#### 4"},
    {"question": "A thousand and eighty?", "answer": "As said.\n#### 1,080"},
    {"question": "Ten below?", "answer": "0-10=-10\n#### -10"},
    {"question": "Who?", "answer": "Nobody.\n#### nobody"},
    {"question": "No mark?", "answer": "7"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)), encoding="utf-8")
    return tmp_path


def test_the_system_prompt_and_the_template_are_the_courses() -> None:
    assert SYSTEM_PROMPT == (
        "\nRespond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>\n"
    )
    filled = XML_COT_FORMAT.format(reasoning="R", answer="A")
    assert filled == "<reasoning>\nR\n</reasoning>\n<answer>\nA\n</answer>\n"


def test_a_row_becomes_two_messages_and_what_follows_the_marks(folder: Path) -> None:
    task = Gsm8k(source=str(folder))
    first = task.rows("train")[0]
    expected: list[Message] = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": "Two and two?"},
    ]
    assert task.prompt(first) == expected
    assert [row["answer"] for row in task.rows("train")] == ["4", "1,080", "-10", "nobody", None]


def test_the_rewards_stand_in_the_courses_order(folder: Path) -> None:
    names = [reward.__name__ for reward in Gsm8k(source=str(folder)).rewards]  # type: ignore[attr-defined]
    assert names == [
        "xmlcount_reward_func",
        "soft_format_reward_func",
        "strict_format_reward_func",
        "int_reward_func",
        "correctness_reward_func",
    ]


def test_a_gold_answer_has_one_line_of_reasoning_without_calculator_notes(folder: Path) -> None:
    task = Gsm8k(source=str(folder))
    gold = task.gold_completion(task.rows("train")[0])
    assert gold == XML_COT_FORMAT.format(reasoning="2+2 = 4 apples. So it is 4.", answer="4")


def test_gold_answers_reach_what_the_tutorials_defects_leave(folder: Path) -> None:
    task = Gsm8k(source=str(folder))
    rows = task.rows("train")
    assert task.max_reward == 4.0
    assert [task.max_reward_of(row) for row in rows[:3]] == [
        3.5,
        3.0,
        3.0,
    ]  # soft excludes strict; a comma or sign is no digit
    report = validate(task, rows)
    assert (report.checked, report.excluded, report.capped) == (3, 2, 3)


def test_gold_answers_reach_full_marks_with_the_fixed_rewards(folder: Path) -> None:
    task = get_task("gsm8k", source=str(folder), marking="fixed")
    report = validate(task)
    assert task.max_reward == 3.5
    assert (report.checked, report.excluded, report.capped) == (3, 2, 0)


@pytest.mark.parametrize(
    ("text", "strict", "lenient", "formatted"),
    [
        (XML_COT_FORMAT.format(reasoning="a\nb", answer="$1,080.00"), True, True, True),
        (XML_COT_FORMAT.format(reasoning="a", answer="1081"), False, False, True),
        ("<answer>1080</answer>", False, True, False),
        ("It is 1080.", False, True, False),
        ("It is 1080 or 7.", False, False, False),
    ],
)
def test_grades_by_hand(folder: Path, text: str, strict: bool, lenient: bool, formatted: bool) -> None:
    task = Gsm8k(source=str(folder))
    verdict = task.grade(task.rows("test")[1], text)
    assert (verdict.strict, verdict.lenient, verdict.formatted) == (strict, lenient, formatted)


def test_nothing_is_right_on_a_row_without_gold(folder: Path) -> None:
    task = Gsm8k(source=str(folder))
    verdict = task.grade(task.rows("test")[4], "<answer>7</answer>")
    assert (verdict.strict, verdict.lenient) == (False, False)


def test_a_validation_split_is_cut_from_train_only_where_asked(folder: Path) -> None:
    with pytest.raises(ValueError, match="validation=500"):
        Gsm8k(source=str(folder)).rows("validation")
    task = Gsm8k(source=str(folder), validation=2)
    train, held = task.rows("train"), task.rows("validation")
    assert (len(train), len(held), len(task.rows("test"))) == (3, 2, 5)
    assert not {row["question"] for row in train} & {row["question"] for row in held}
    assert Gsm8k(source=str(folder), validation=2).rows("validation") == held


def test_an_unknown_marking_is_refused() -> None:
    with pytest.raises(ValueError, match="choose 'tutorial' or 'fixed'"):
        get_task("gsm8k", marking="lax")


@real
@pytest.mark.parametrize(("marking", "capped"), [("tutorial", 7473), ("fixed", 0)])
def test_every_real_training_row_is_parsed_and_its_gold_answer_scores(marking: str, capped: int) -> None:
    report = validate(get_task("gsm8k", source=str(REAL), marking=marking))
    assert (report.checked, report.excluded, report.capped) == (7473, 0, capped)


@real
def test_every_real_gold_answer_is_graded_right_and_formatted() -> None:
    task = Gsm8k(source=str(REAL))
    for split, count in (("train", 7473), ("test", 1319)):
        rows = task.rows(split)  # type: ignore[arg-type]
        verdicts = [task.grade(row, task.gold_completion(row) or "") for row in rows]
        assert len(rows) == count
        assert all(verdict.strict and verdict.lenient and verdict.formatted for verdict in verdicts)


@real
def test_the_real_rows_without_plain_digits_are_as_many_as_counted_by_hand() -> None:
    task = Gsm8k(source=str(REAL))
    assert sum(task.max_reward_of(row) == 3.0 for row in task.rows("train")) == 82
    assert sum(task.max_reward_of(row) == 3.0 for row in task.rows("test")) == 16
