"""Completions are found by step, row, text and reward, in files too long to be loaded."""

import json
import tracemalloc
from pathlib import Path

import pytest

from dunwu._utils.terminal_text import display_width
from dunwu.errors import ConfigError
from dunwu.reports.logged_completion import LoggedCompletion
from dunwu.reports.rollout_text import completion_table, group_text
from dunwu.reports.rollouts import (
    Bound,
    RolloutQuery,
    find_completions,
    find_group,
    parse_bound,
)
from dunwu.reports.run_folder import RunFolder
from run_folders import answers, make_run, rollout_rows, write_lines


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(make_run(tmp_path / "run", rewards=(1.0,) * 12, after=answers(1, 3)))


def places(run: RunFolder, query: RolloutQuery) -> list[tuple[int | None, int | None, int | None]]:
    return [(one.step, one.row, one.sample) for one in find_completions(run, query)]


def test_a_step_is_chosen_by_number_or_by_its_place(run: RunFolder) -> None:
    step_2 = [(2, 20, 0), (2, 20, 1), (2, 21, 0), (2, 21, 1)]
    assert places(run, RolloutQuery(step=2)) == step_2
    assert [step for step, _, _ in places(run, RolloutQuery(step="first"))] == [1] * 4
    assert [step for step, _, _ in places(run, RolloutQuery(step="last"))] == [12] * 4
    assert len(places(run, RolloutQuery(step="all"))) == 48


def test_a_step_that_is_not_there_is_refused_with_those_that_are(run: RunFolder) -> None:
    with pytest.raises(ConfigError, match="no completions of step 13; it has steps 1 to 12"):
        list(find_completions(run, RolloutQuery(step=13)))


def test_conditions_are_all_met(run: RunFolder) -> None:
    right = RolloutQuery(step="all", reward=Bound(relation=">", limit=2.0))
    assert {sample for _, _, sample in places(run, right)} == {1}
    assert places(run, RolloutQuery(step=3, cut=True)) == [(3, 31, 1)]
    assert places(run, RolloutQuery(step=3, cut=False)) == [(3, 30, 0), (3, 30, 1), (3, 31, 0)]
    assert places(run, RolloutQuery(step="all", prompt="14 51 = 93")) == [(5, 51, 0), (5, 51, 1)]
    assert places(run, RolloutQuery(step="all", text="<ANSWER>7<")) == [(7, 70, 1), (7, 71, 1)]
    assert places(run, RolloutQuery(step="all", row=110)) == [(11, 110, 0), (11, 110, 1)]
    solved = RolloutQuery(step="first", scores={"equation_solves": Bound(relation="=", limit=1.0)})
    assert places(run, solved) == [(1, 10, 1), (1, 11, 1)]


def test_a_reward_that_the_run_does_not_have_is_refused_with_the_nearest(run: RunFolder) -> None:
    query = RolloutQuery(scores={"equation_solve": Bound(relation="=", limit=1.0)})
    with pytest.raises(ConfigError, match="did you mean 'equation_solves'"):
        list(find_completions(run, query))


def test_completions_are_sorted_both_ways_and_limited(run: RunFolder) -> None:
    longest = RolloutQuery(step=1, sort="tokens", limit=2)
    assert places(run, longest) == [(1, 11, 1), (1, 10, 1)]
    matches = find_completions(run, RolloutQuery(step=1, sort="tokens", reverse=True, limit=3))
    assert [one.tokens for one in matches] == [20, 20, 30]
    assert (matches.found, matches.looked_at) == (4, 4)
    assert places(run, RolloutQuery(step=1, limit=3)) == [(1, 10, 0), (1, 10, 1), (1, 11, 0)]


def test_completions_without_a_reward_come_last_in_both_orders(run: RunFolder) -> None:
    rows = rollout_rows(1)
    rows[1]["reward"] = None
    write_lines(run.path / "rollouts.jsonl", rows)
    for reverse in (False, True):
        *_, last = find_completions(run, RolloutQuery(sort="reward", reverse=reverse))
        assert last.reward is None


@pytest.mark.parametrize("bytes_cut", [1, 40, 200])
def test_a_last_line_that_a_kill_cut_off_is_skipped(run: RunFolder, bytes_cut: int) -> None:
    path = run.path / "rollouts.jsonl"
    path.write_bytes(path.read_bytes()[:-bytes_cut] if bytes_cut > 1 else path.read_bytes() + b'{"step": 13, "ro')
    assert {one.step for one in find_completions(run, RolloutQuery(step="last"))} == {12}
    assert len(places(run, RolloutQuery(step=12))) == (4 if bytes_cut == 1 else 3)


def test_the_last_step_is_found_where_it_is_longer_than_a_block(run: RunFolder) -> None:
    rows = rollout_rows(1) + rollout_rows(2)
    for row in rows[4:]:
        row["completion"] = "x" * 3_000_000
    write_lines(run.path / "rollouts.jsonl", rows)
    assert places(run, RolloutQuery(step="last")) == [(2, 20, 0), (2, 20, 1), (2, 21, 0), (2, 21, 1)]


def test_lines_with_other_keys_first_are_read_too(run: RunFolder) -> None:
    write_lines(
        run.path / "rollouts.jsonl", [dict(reversed(row.items())) for row in rollout_rows(1) + rollout_rows(2)]
    )
    assert places(run, RolloutQuery(step="first", row=11)) == [(1, 11, 0), (1, 11, 1)]
    assert places(run, RolloutQuery(step=2, row=20)) == [(2, 20, 0), (2, 20, 1)]


def test_a_long_file_is_never_held_in_memory(run: RunFolder) -> None:
    """40 MB of lines, read with less than 4 MB."""
    line = json.dumps({**rollout_rows(1)[0], "completion": "x" * 4000}) + "\n"
    with (run.path / "rollouts.jsonl").open("w") as out:
        out.writelines(line.replace('"step": 1', f'"step": {i // 100 + 1}') for i in range(10_000))
    tracemalloc.start()
    found = sum(1 for _ in find_completions(run, RolloutQuery(step="all", sort="tokens", limit=5)))
    last = sum(1 for _ in find_completions(run, RolloutQuery(step="all")))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (found, last) == (5, 10_000) and most < 4_000_000


def test_a_group_is_the_latest_of_its_row_best_paid_first(run: RunFolder) -> None:
    again = rollout_rows(13)
    for row in again:
        row["row"] -= 120  # rows 10 and 11 once more
    with (run.path / "rollouts.jsonl").open("a") as out:
        out.writelines(json.dumps(row) + "\n" for row in again)
    assert [(one.step, one.sample) for one in find_group(run, 10, "training", None)] == [(13, 1), (13, 0)]
    assert [(one.step, one.sample) for one in find_group(run, 10, "training", "first")] == [(1, 1), (1, 0)]
    assert [(one.step, one.sample) for one in find_group(run, 10, "training", 1)] == [(1, 1), (1, 0)]
    with pytest.raises(ConfigError, match="has no completion to row 20"):
        find_group(run, 20, "training", 1)


def test_an_evaluations_group_begins_with_the_greedy_completion(run: RunFolder) -> None:
    group = find_group(run, 0, "after", None)
    assert [one.sample for one in group] == [None, 0, 1] and group[0].is_right


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("<0.5", 0.4, True),
        ("<0.5", 0.5, False),
        (">= 1", 1, True),
        ("-.5", -0.5, True),
        ("==2e0", 2, True),
        ("!=0", 0, False),
    ],
)
def test_a_condition_reads_as_it_is_typed(text: str, value: float, holds: bool) -> None:
    assert parse_bound(text).holds(value) is holds
    assert not parse_bound(text).holds(None)


@pytest.mark.parametrize("text", ["", "<", "half", "0.5<", "<0.5 or so", "nan"])
def test_what_is_no_condition_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigError, match="is no condition on a number"):
        parse_bound(text)


def nasty(**changes: object) -> LoggedCompletion:
    return LoggedCompletion(
        entry={**rollout_rows(1)[0], "completion": "\x1b[2J\x07顿悟\u202eabc\r\nx\x9b", **changes}
    )


def test_the_table_fits_80_columns_and_shows_no_control_characters() -> None:
    table = completion_table([nasty(row=i * 10**6, completion="想" * 200) for i in range(3)] + [nasty()])
    assert max(map(display_width, table.splitlines())) <= 80
    assert "\\x1b[2J\\x07顿悟\\u202eabc" in table
    assert not any(character in table for character in "\x1b\x07\u202e\r\x9b")


def test_a_line_tells_step_reward_scores_advantage_tokens_and_whether_it_was_cut() -> None:
    line = completion_table([LoggedCompletion(entry=rollout_rows(4)[3])]).splitlines()[1]
    assert line.split() == ["4", "41", "1", "2.30", "1/1/1", "+0.70", "31", "cut", "<answer>4</answer>"]


def test_lines_with_little_in_them_are_shown_as_far_as_they_go() -> None:
    line = completion_table([LoggedCompletion(entry={"completion": "hm"})]).splitlines()[1]
    assert line.split()[-1] == "hm"


def test_a_group_shows_prompt_gold_and_what_each_reward_added(run: RunFolder) -> None:
    group = find_group(run, 10, "training", None)
    shown = group_text(
        group, gold="<answer>3+\x1b</answer>", columns={"target": 61}, weights={"equation_solves": 2.0}
    )
    assert shown.index("2.30") < shown.index("1.30"), "best paid first"
    assert "<|user|>3 14 10 = 52<|end|>" in shown and "target=61" in shown and "<answer>3+\\x1b</answer>" in shown
    assert "think_answer_format 1 + thought_lines_differ 1 + equation_solves 1 × 2" in shown
    assert max(map(display_width, shown.splitlines())) <= 80


def test_on_a_wide_terminal_completions_stand_beside_each_other() -> None:
    group = [nasty(completion="想" * 300), nasty(completion="b" * 300)]
    shown = group_text(group, gold=None, columns={}, weights={}, width=130)
    assert max(map(display_width, shown.splitlines())) <= 130
    assert any("想" in line and "b" in line and "│" in line for line in shown.splitlines())
    assert shown.count("想") == 300 and shown.count("b") >= 300, "nothing is cut"
