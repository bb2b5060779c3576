"""`trials_right_and_new`: a Countdown thought is paid for lines that are sound, and for each of them once."""

import time

import pytest

from dunwu.embedded import quickstart_task
from dunwu.rewards.countdown import trials_right_and_new
from dunwu.rewards.text import thought_lines_differ

ROW = {"nums": [[3, 14, 17]], "target": [51]}


def share(*lines: str, end: str = "\n</think>\n<answer>1</answer>") -> float:
    """What one thought on the numbers 3, 14 and 17 and the target 51 is paid."""
    return trials_right_and_new(completions=["<think>" + "\n".join(lines) + end], **ROW)[0]


@pytest.mark.parametrize(
    ("line", "is_right"),
    [
        ("17-14=3, 17*3=51 yes", False),  # 17 is used twice, and the 3 that was given is left over
        ("17-14=3, 3*3=9 no", True),
        ("17+14=31, 31-3=28 no", True),
        ("3*14=42, 42+17=59 no", True),
        ("17+14=31, 31-3=29 no", False),
        ("17+14=31, 31-3=28 yes", False),
        ("17+14=31, 31+4=35 no", False),
        ("17+14=31 no", False),
        ("14/3=4, 17*4=68 no", False),
        ("17-17=0, 14/0=1 no", False),
        ("(17-14)*3=9", True),
        ("17*3=51, 51-14=37", True),
        ("17*3, 51-14=37 no", False),
        ("let us see", False),
    ],
)
def test_a_trial_is_right_if_numbers_steps_and_verdict_are(line: str, is_right: bool) -> None:
    assert share(line) == float(is_right)


def test_a_verdict_that_denies_the_target_is_wrong() -> None:
    rows = {"nums": [[3, 14, 17]] * 2, "target": [28, 28]}
    said = [f"<think>17+14=31, 31-3=28 {verdict}\n</think>" for verdict in ("yes", "no")]
    assert trials_right_and_new(completions=said, **rows) == [1.0, 0.0]


def test_a_repeated_trial_is_paid_once_and_a_wrong_one_is_not_new() -> None:
    trial, wrong = "17+14=31, 31-3=28 no", "17+14=31, 31-3=29 no"
    assert share(trial, trial) == 0.5
    assert share(trial, wrong) == 0.5
    assert thought_lines_differ(completions=[f"<think>{trial}\n{wrong}\n</think>"]) == [1.0]


def test_a_line_that_the_limit_cut_is_left_out_and_no_line_is_worth_nothing() -> None:
    assert share("17+14=31, 31-3=28 no", "17+14=3", end="") == 1.0
    assert share("17+14=31, 31-3=28", end="") == 0.0
    assert share("", end="") == 0.0


def test_every_gold_answer_of_the_quickstart_scores_full_marks() -> None:
    task = quickstart_task()
    rows = task.rows("train")[:500]
    gold = [str(task.gold_completion(row)) for row in rows]
    columns = {name: [row[name] for row in rows] for name in ("nums", "target")}
    assert trials_right_and_new(completions=gold, **columns) == [1.0] * len(rows)


def test_any_text_is_answered_at_once() -> None:
    began = time.monotonic()
    hostile = [
        "<think>" + "9=" * 50_000,
        "<think>" + "17+14=31, " * 20_000 + "</think>",
        "=,\n" * 50_000 + "</think>",
    ]
    found = trials_right_and_new(completions=hostile, nums=[[3, 14, 17]] * 3, target=[51] * 3)
    assert found == [0.0] * 3
    assert time.monotonic() - began < 5
