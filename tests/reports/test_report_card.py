"""The report card says what happened: also of a run that learned nothing, of one that stopped, of strange output."""

import json
from pathlib import Path

import pytest

from dunwu.errors import ConfigError
from dunwu.reports.advice import is_still_rising
from dunwu.reports.report_card import report_card, write_report
from dunwu.reports.run_folder import RunFolder
from dunwu.reports.run_record import Session, read_record, write_record
from run_folders import answers, edit_json, make_run


def card(folder: Path) -> str:
    return report_card(RunFolder(folder))


def test_a_run_that_learned_says_so_with_its_figures(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", before=answers(10, 100), after=answers(60, 100))
    text = card(run)
    assert "**It learned: correct, sampled, rose from 10.0 %" in text and "beyond noise (p < 0.001)" in text
    assert "| correct, greedy | 10.0 % [5.5, 17.4] | 60.0 % [50.2, 69.1] |" in text
    assert "100 held-out prompts, 2 samples each" in text


def test_a_run_that_learned_nothing_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", before=answers(40, 100), after=answers(42, 100))
    text = card(run)
    assert "**No change beyond noise: correct, sampled, 40.0 %" in text and "It learned" not in text
    assert "Nothing changed beyond noise" in text and "--train.learning_rate 0.00075" in text


def test_a_run_that_got_worse_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", before=answers(60, 100), after=answers(30, 100))
    assert "**It got worse: correct, sampled, fell from 60.0 %" in card(run)


def test_what_the_run_was_is_all_there(tmp_path: Path) -> None:
    text = card(make_run(tmp_path / "run", before=answers(1, 10), after=answers(2, 10)))
    for part in (
        "# run · countdown · embedded",
        "| model | embedded |",
        "style=tiny",
        "think_answer_format × 0.3",
        "loss_type=dapo, beta=0.008",
        "| seed | 42 |",
        "40 of 40 steps; 160 completions, 3,200 tokens sampled; 1.0 min of training; 1.50 s a step",
        "dunwu 0.1.0, torch 2.13.0",
        "| commit | 4fd52a1 |",
        "| machine | x86_64, 2 cores |",
    ):
        assert part in text


def test_an_interrupted_run_is_reported_as_far_as_it_came(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run",
        rewards=[0.5 + 0.01 * (i % 3) for i in range(10)] + [1.5 + 0.01 * (i % 3) for i in range(10)],
        before=answers(10, 100),
        ended="interrupted",
        options={"train.max_steps": "330"},
    )
    (run / "checkpoint-20").mkdir()
    text = card(run)
    assert "**Interrupted after 20 of 330 steps, before it was evaluated. The training reward rose from 0.5" in text
    assert (
        "|  | before |" in text and "after" not in text.split("## Before and after")[1].split("##")[0].split("|")[3]
    )
    assert f"train {run} --resume" in text


def test_a_killed_run_without_a_summary_is_reported(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rewards=(1.0,) * 3, ended="running")
    text = card(run)
    assert "Still running, or killed, after 3 of 3 steps. 3 steps are too few" in text
    assert "left no checkpoint" in text and "--train.save_steps 50" in text


def test_the_starts_of_a_resumed_run_are_told_with_what_they_changed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    record = read_record(run)
    assert record is not None
    changed = {"train.learning_rate": (0.1, 0.2)}
    first = record.with_last(to_step=17, ended="interrupted")
    write_record(
        run, first.with_new(Session(started="later", from_step=17, to_step=40, ended="finished", changed=changed))
    )
    text = card(run)
    assert "from step 0 to 17, interrupted" in text
    assert "later: from step 17 to 40, finished (train.learning_rate 0.1 → 0.2)" in text


def test_three_answers_are_shown_better_worse_and_still_wrong(tmp_path: Path) -> None:
    before = [[False] * 3, [True] * 3, [False] * 3, [True] * 3]
    after = [[True] * 3, [False] * 3, [False] * 3, [True] * 3]
    text = card(make_run(tmp_path / "run", before=before, after=after))
    titles = [line for line in text.splitlines() if line.startswith("### ")]
    assert titles == ["### Better: wrong before, right now", "### Worse: right before, wrong now", "### Still wrong"]
    assert "Row 2: `nums=[3, 14, 2], target=44`" in text


def test_without_an_evaluation_answers_come_from_the_first_and_last_step(tmp_path: Path) -> None:
    text = card(make_run(tmp_path / "run"))
    assert "### Paid best in the first step" in text and "<answer>1</answer>" in text
    assert "### Paid best in the last step" in text and "<answer>40</answer>" in text
    assert "no held-out evaluation" in text and "| reward, last steps | 1.000 |" in text


def test_answers_of_a_task_without_gold_are_chosen_by_reward(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", before=answers(0, 3), after=answers(0, 3), paid=[[2.0] * 3, [0.5] * 3, [1.3] * 3]
    )
    text = card(run)
    assert "### Better: its reward rose most\n\nRow 0" in text and "### Worse: its reward fell most\n\nRow 1" in text


def test_where_nothing_can_be_right_nothing_is_said_of_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", before=answers(0, 9), after=answers(0, 9))
    edit_json(run / "summary.json", has_answers=False)
    text = card(run)
    assert "correct," not in text and "| reward | 1.300 | 1.300 |" in text


def test_what_a_model_wrote_cannot_leave_its_block(tmp_path: Path) -> None:
    evil = "````\n# owned\n<script>alert(1)</script> | \x1b[2J \ud800 ~~~\n```"
    before, after = answers(0, 3), [[False] * 3] * 3
    text = card(make_run(tmp_path / "run", before=before, after=after, texts={0: evil}))
    block = text.split("after (wrong", 1)[1].split("\n\n")[1]
    fence = block.split("text\n")[0]
    assert fence == "`````" and block.count(fence) == 2 and block.endswith(fence)
    assert "\x1b" not in text and "\\x1b[2J \\ud800" in block
    (tmp_path / "out.md").write_text(text, encoding="utf-8")  # half a surrogate pair could not be written


def test_a_long_answer_is_shown_by_its_beginning_and_end(tmp_path: Path) -> None:
    long = "begin" + "x" * 10_000 + "the end"
    text = card(make_run(tmp_path / "run", before=answers(0, 1), after=answers(0, 1), texts={0: long}))
    assert "beginxx" in text and "xxthe end" in text and len(text) < 10_000


def test_verdict_and_findings_of_the_run_are_taken_over(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    findings = ["half of the groups were dead", {"step": 3, "what": "cut", "remedy": "raise *it*"}]
    edit_json(run / "summary.json", verdict="it learned <b>", findings=findings)
    assert "- it learned &lt;b>\n- half of the groups were dead\n- After step 3: cut raise \\*it\\*" in card(run)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"cut": 0.4}, "40% of completions are cut at the token limit: raise it."),
        ({"cut": 0.4}, "--train.max_completion_length 240"),
        ({"dead": 0.8}, "80% of the last groups were dead: all of a group's answers earned the same"),
        ({"dead": 0.8}, "--train.num_generations 16"),
        ({"rewards": [i / 60 for i in range(60)]}, "still rising at the end"),
        ({"rewards": [i / 60 for i in range(60)]}, "--train.max_steps 120"),
        ({"before": answers(9, 30), "after": answers(9, 30)}, "--evaluate.rows 500"),
        ({"before": answers(9, 90), "after": answers(80, 90)}, "--seeds 3"),
        ({"before": answers(80, 90), "after": answers(20, 90)}, "--train.learning_rate 8.33e-05"),
        ({"dead": 0.8, "before": answers(90, 99), "after": answers(98, 99)}, "harder rows teach more"),
    ],
)
def test_the_figures_say_what_to_try_next(tmp_path: Path, how: dict[str, object], expected: str) -> None:
    advice = card(make_run(tmp_path / "run", **how)).split("## What to try next")[1]  # type: ignore[arg-type]
    assert expected in advice


def test_completions_that_go_in_circles_are_not_helped_by_a_higher_limit(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", cut=0.3, before=answers(3, 9), after=answers(3, 9))
    after = json.loads((run / "summary.json").read_text())["after"]
    edit_json(run / "summary.json", after={**after, "repeats": 0.3})
    text = card(run)
    assert "goes in circles" in text and "--train.max_completion_length" not in text


def test_a_flat_or_noisy_reward_is_not_still_rising() -> None:
    assert not is_still_rising([0.5] * 90) and not is_still_rising([0.0, 1.0] * 45)
    assert is_still_rising([i / 90 + 0.05 * (i % 2) for i in range(90)])
    assert not is_still_rising([1 - i / 90 for i in range(90)])
    assert not is_still_rising([*(i / 60 for i in range(60)), *[1.0] * 30]), "it has levelled out"
    assert not is_still_rising([None, float("nan")] * 50)


def test_a_run_that_has_not_finished_a_step_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has not finished a step yet"):
        card(make_run(tmp_path / "run", rewards=(), ended="running"))


def test_the_report_is_written_into_the_folder_with_the_picture_if_there_is_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert "![" not in write_report(RunFolder(run)).read_text(encoding="utf-8")
    (run / "curves.png").write_bytes(b"png")
    assert "](curves.png)" in write_report(RunFolder(run)).read_text(encoding="utf-8")
    assert [path.name for path in run.glob("report*")] == ["report.md"]


def test_a_folder_of_before_with_metrics_alone_is_reported(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for name in ("run.json", "summary.json", "rollouts.jsonl"):
        (run / name).unlink()
    assert "40 of 40 steps" in card(run)
