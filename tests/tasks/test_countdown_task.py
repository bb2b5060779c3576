"""Countdown: generator, splits, hub rows, prompts, gold answers, verdicts."""

import json
from pathlib import Path

import pytest

from dunwu.rewards.tutorials import equation_reward_func, format_reward_func
from dunwu.tasks import get_task, validate
from dunwu.tasks.countdown import PREFILL, Countdown, split_of
from dunwu.tasks.countdown_solver import chains

SPLITS = ("train", "validation", "test")
ROW = {"nums": [3, 14, 17], "target": 51}


def test_splits_share_no_multiset_of_numbers_even_between_seeds() -> None:
    seen = {
        split: {
            tuple(sorted(row["nums"])) for seed in (0, 1) for row in Countdown(seed=seed, train_rows=500).rows(split)
        }
        for split in SPLITS
    }
    assert all(seen.values())
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]


def test_the_split_of_a_multiset_ignores_order_and_never_changes() -> None:
    assert split_of([3, 14, 17]) == split_of([17, 3, 14])
    # Written down once: if one of these moves, old held-out results no longer are.
    assert [split_of([1, 2, n]) for n in range(1, 11)] == FIXED_SPLITS


FIXED_SPLITS = [*["train"] * 6, "validation", "train", "train", "validation"]


def test_splits_are_about_eighty_ten_ten() -> None:
    every = [split_of([a, b, c]) for a in range(1, 21) for b in range(a, 21) for c in range(b, 21)]
    assert every.count("train") / len(every) == pytest.approx(0.8, abs=0.03)
    assert every.count("test") / len(every) == pytest.approx(0.1, abs=0.03)


def test_the_same_seed_draws_the_same_rows_and_another_seed_others() -> None:
    first = Countdown(test_rows=5).rows("test")
    assert [dict(row) for row in first] == FIRST_ROWS
    assert Countdown(test_rows=5, seed=1).rows("test") != first


FIRST_ROWS = [
    {"nums": [13, 7, 15], "target": 90},
    {"nums": [14, 12, 20], "target": 46},
    {"nums": [19, 6, 3], "target": 57},
    {"nums": [19, 12, 6], "target": 38},
    {"nums": [4, 13, 8], "target": 45},
]


def test_no_puzzle_comes_twice_in_a_split() -> None:
    rows = Countdown().rows("train")
    assert len({(tuple(sorted(row["nums"])), row["target"]) for row in rows}) == len(rows) == 4096


def test_every_target_is_reachable_within_the_limit_and_the_ranges_hold() -> None:
    task = Countdown(
        numbers=4, low=2, high=12, target_low=20, target_high=40, limit=60, operations="+-*", test_rows=40
    )
    for row in task.rows("test"):
        assert len(row["nums"]) == 4
        assert all(2 <= n <= 12 for n in row["nums"])
        assert 20 <= row["target"] <= 40
        assert row["target"] in {way.value for way in chains(tuple(sorted(row["nums"])), 60, "+-*")}


def test_more_rows_than_exist_are_refused_with_the_number_found() -> None:
    with pytest.raises(ValueError, match="ask for fewer rows or widen"):
        Countdown(numbers=2, high=3, target_low=1, target_high=9, train_rows=1000).rows("train")


@pytest.mark.parametrize("style", ["tiny", "chinese", "english"])
def test_gold_answers_score_full_marks_in_every_style(style: str) -> None:
    task = get_task("countdown", style=style)
    report = validate(task, task.rows("test")[:200])
    assert (report.checked, report.excluded, report.failures) == (200, 0, ())


@pytest.mark.parametrize("style", ["chinese", "english"])
def test_gold_answers_earn_the_tutorials_own_rewards_too(style: str) -> None:
    task = get_task("countdown", style=style, rewards=(format_reward_func, equation_reward_func))
    assert validate(task, task.rows("validation")[:100]).checked == 100


def test_the_tiny_prompt_is_one_short_user_message() -> None:
    assert Countdown(style="tiny").prompt(ROW) == [{"role": "user", "content": "3 14 17 = 51"}]


def test_the_chinese_prompt_asks_and_begins_the_answer() -> None:
    user, begun = Countdown(style="chinese").prompt(ROW)
    assert begun == {"role": "assistant", "content": "让我们逐步解决这个问题。\n<think>"}
    assert user["role"] == "user"
    for piece in ("[3, 14, 17]", "51", "每个数字只能使用一次", "<think> </think>", "<answer> (1 + 2) / 3 </answer>"):
        assert piece in user["content"]


def test_the_english_prompt_is_the_same_and_also_ends_with_think() -> None:
    user, begun = Countdown().prompt(ROW)
    assert begun["content"] == PREFILL["english"]
    assert begun["content"].endswith("\n<think>")
    for piece in ("[3, 14, 17]", "51", "each number exactly once", "<think> </think>"):
        assert piece in user["content"]


@pytest.mark.parametrize(
    ("text", "strict", "lenient", "formatted"),
    [
        ("<think>a</think>\n<answer>17*(17-14)</answer>", False, False, True),  # uses 17 twice
        ("<think>a</think>\n<answer>17*3*14/14</answer>", False, False, True),
        ("<think>a</think>\n<answer>(17-14)*3</answer>", False, False, True),  # 9
        ("<think>a</think>\n<answer>17+14+3</answer>", True, True, True),
        ("<answer>17+14+3</answer>", False, True, False),
        ("I think 17+14+3 = 34 will do", False, True, False),
        ("<think>17+14+3</think>\n<answer>3</answer>", False, True, True),
        ("", False, False, False),
    ],
)
def test_grades_by_hand(text: str, strict: bool, lenient: bool, formatted: bool) -> None:
    verdict = Countdown(style="tiny").grade({"nums": [3, 14, 17], "target": 34}, text)
    assert (verdict.strict, verdict.lenient, verdict.formatted) == (strict, lenient, formatted)


def test_a_prefilled_answer_needs_no_opening_tag_of_its_own() -> None:
    verdict = Countdown(style="english").grade({"nums": [2, 3], "target": 6}, "2 by 3</think>\n<answer>2*3</answer>")
    assert verdict.strict


def test_rows_in_the_hubs_format_are_read_and_split_by_their_numbers(tmp_path: Path) -> None:
    hub = [{"target": 98, "nums": [44, 19, 35]}, {"target": 64, "nums": [63, 95, 96]}]
    hub += [{"target": 10 + i, "nums": [i, 2, 3, 5]} for i in range(1, 60)]
    file = tmp_path / "countdown.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in hub), encoding="utf-8")
    task = Countdown(source=str(file), train_rows=30)
    rows = {split: task.rows(split) for split in SPLITS}
    assert len(rows["train"]) == 30
    assert {split_of(row["nums"]) for row in rows["test"]} == {"test"}
    everything = [*Countdown(source=str(file)).rows("train"), *rows["validation"], *rows["test"]]
    assert sorted(map(str, everything)) == sorted(str({"nums": row["nums"], "target": row["target"]}) for row in hub)
    assert validate(task, [hub[0]]).checked == 1


def test_a_puzzle_without_solution_is_excluded_and_counted() -> None:
    report = validate(Countdown(), [{"nums": [1, 1, 1], "target": 99}, ROW | {"target": 34}])
    assert (report.checked, report.excluded) == (1, 1)


def test_hub_rows_without_the_columns_name_the_ones_there_are(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"numbers": [1, 2], "target": 3}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="no column 'nums'; it has 'numbers', 'target'"):
        Countdown(source=str(file)).rows("train")


@pytest.mark.parametrize(
    "options",
    [{"style": "latin"}, {"numbers": 1}, {"low": 0}, {"target_high": 200}, {"operations": "^"}, {"high": 0}],
)
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        get_task("countdown", **options)


def test_a_long_search_for_puzzles_logs_its_progress(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="dunwu"):
        Countdown(train_rows=20, seed=71).rows("train")
        assert caplog.messages == [], "a short search says nothing"
        monkeypatch.setattr("dunwu.tasks.countdown._REPORT_SECONDS", 0.0)
        Countdown(train_rows=20, seed=72).rows("train")
    assert caplog.messages[0].startswith("Countdown: drawing puzzles for train, 0 of 20")
    assert caplog.messages[-1].startswith("Countdown: drawing puzzles for train, 19 of 20 (about 0 minutes left")


def test_rows_that_are_no_puzzles_are_shown(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text('nums,target\n"[3, 14, 17]",51\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"has nums='\[3, 14, 17\]' and target='51'; nums must be a list"):
        Countdown(source=str(file)).rows("train")
