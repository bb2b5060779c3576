"""Synthetic thoughts: sound in arithmetic and verdicts, weak only in search."""

import random

import pytest

from dunwu.embedded import quickstart_task
from dunwu.embedded.synthetic_traces import TraceConfig, trace
from dunwu.tasks.countdown_traces import read_thought, summarise

PUZZLES = quickstart_task().rows("train")[:300]


def write(config: TraceConfig, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [trace(tuple(row["nums"]), row["target"], 99, config, rng) for row in PUZZLES]


def test_every_trial_is_right_judged_right_and_new() -> None:
    texts = write(TraceConfig(insight=0.1, give_up=0.1, broken=0.0))
    summary = summarise(texts, [row["target"] for row in PUZZLES])
    assert (summary.arithmetic_right, summary.verdicts_right, summary.repeats) == (1.0, 1.0, 0.0)
    assert summary.trials > 3


def test_with_insight_the_first_trial_is_right_and_giving_up_leaves_one_trial() -> None:
    task = quickstart_task()
    sure = write(TraceConfig(insight=1.0, give_up=0.0, broken=0.0))
    assert all(task.grade(row, text).strict for row, text in zip(PUZZLES, sure, strict=True))
    timid = write(TraceConfig(insight=0.0, give_up=1.0, broken=0.0))
    assert all(read_thought(text, 0).trials == 1 for text in timid)
    right = sum(task.grade(row, text).strict for row, text in zip(PUZZLES, timid, strict=True))
    assert 0.02 < right / len(PUZZLES) < 0.25  # a random trial hits about one time in ten


def test_the_answer_is_the_last_trial_and_uses_every_number() -> None:
    task = quickstart_task()
    for row, text in zip(PUZZLES, write(TraceConfig(insight=0.0, give_up=0.5, broken=0.0)), strict=True):
        last = text.split("</think>")[0].strip().splitlines()[-1]
        assert task.grade(row, text).strict is last.endswith("yes")


def test_no_more_trials_than_allowed() -> None:
    texts = write(TraceConfig(insight=0.0, give_up=0.0, broken=0.0, max_trials=3))
    assert max(read_thought(text, 0).trials for text in texts) == 3


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_broken_tags_come_as_often_as_asked(share: float) -> None:
    task = quickstart_task()
    texts = write(TraceConfig(insight=0.5, give_up=0.5, broken=share))
    whole = sum(task.grade(row, text).formatted for row, text in zip(PUZZLES, texts, strict=True)) / len(PUZZLES)
    tolerated = 0.2 * share  # one of the five kinds only lacks a line break
    assert whole == pytest.approx(1 - share + tolerated, abs=0.08)


def test_the_same_seed_gives_the_same_traces() -> None:
    config = TraceConfig(insight=0.1, give_up=0.4)
    assert write(config, 3) == write(config, 3) != write(config, 4)
