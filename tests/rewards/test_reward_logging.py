"""What reward functions log beside their values counts once, whatever else goes wrong (TRL 1.16's protocol)."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from transformers import TrainerState

from dunwu.core.metrics import logged_metrics
from dunwu.core.records import RewardScores
from dunwu.errors import ConfigError, RewardError
from dunwu.rewards import RewardRunner, sandboxed

TEXTS = ["a", "bb", "ccc", "dddd"]

MODULE = """
import time

def logs(completions, log_metric, log_extra, **columns):
    assert "trainer_state" not in columns, "it would load transformers into the process"
    log_metric("mean_length", sum(map(len, completions)) / len(completions))
    log_extra("upper", [c.upper() for c in completions])
    if "slow" in completions:
        time.sleep(60)
    if "bad" in completions:
        raise ValueError("bad")
    return [float(len(c)) for c in completions]

def by_step(completions, trainer_state):
    return [float(trainer_state.global_step)] * len(completions)
"""


@pytest.fixture
def module(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(MODULE, encoding="utf-8")
    return str(path)


def scored(functions: Any, texts: list[str] = TEXTS, *, state: Any = None, **options: Any) -> RewardScores:
    runner = RewardRunner(functions, **options)
    runner.trainer_state = state
    ids = [[7]] * len(texts)
    return runner.score(prompts=["p"] * len(texts), completions=texts, completion_ids=ids, columns={})


def length(completions: list[str], log_metric: Any, log_extra: Any) -> list[float]:
    values = [float(len(c)) for c in completions]
    log_metric("longest", max(values))
    log_extra("upper", [c.upper() for c in completions])
    return values


def logging_all(act: Callable[[list[str]], None] = lambda completions: None) -> Callable[..., list[float]]:
    """A reward that logs, then does `act`."""

    def logs(completions: list[str], log_metric: Any, log_extra: Any, **columns: Any) -> list[float]:
        log_metric("length", sum(map(len, completions)) / len(completions))
        log_extra("upper", [c.upper() for c in completions])
        act(completions)
        return [float(len(c)) for c in completions]

    return logs


async def length_later(completions: list[str], log_metric: Any, log_extra: Any) -> list[float]:
    log_metric("longest", 2.0)
    await asyncio.sleep(0.01)
    log_extra("later", completions)
    return [0.0] * len(completions)


def test_metrics_and_columns_are_kept_beside_the_values() -> None:
    """Two functions that log one metric are averaged later; sync and async ones alike."""
    scores = scored([length, length_later])
    assert scores.metrics == {"longest": (4.0, 2.0)}
    assert scores.extras == {"upper": ("A", "BB", "CCC", "DDDD"), "later": ("a", "bb", "ccc", "dddd")}
    assert [row[0] for row in scores.values] == [1.0, 2.0, 3.0, 4.0]


def test_a_function_gets_what_it_takes_by_name_or_by_double_star_and_nothing_else() -> None:
    seen: dict[str, set[str]] = {}

    def none(completions: list[str]) -> list[float]:
        return [0.0] * len(completions)

    def one(completions: list[str], log_extra: Any = None) -> list[float]:
        seen["one"] = {"log_extra"} if log_extra else set()
        return [0.0] * len(completions)

    def everything(completions: list[str], **given: Any) -> list[float]:
        seen["everything"] = set(given)
        return [0.0] * len(completions)

    scored([none, one, everything], state=lambda: TrainerState(global_step=3))
    assert seen["one"] == {"log_extra"}
    assert seen["everything"] == {"prompts", "completion_ids", "log_metric", "log_extra", "trainer_state"}
    scored([everything])
    assert "trainer_state" not in seen["everything"], "outside of a run there is none"


def test_the_state_is_the_run_s_as_it_is_now_and_of_step_0_outside_of_one() -> None:
    def by_step(completions: list[str], trainer_state: TrainerState) -> list[float]:
        return [float(trainer_state.global_step)] * len(completions)

    def or_nothing(completions: list[str], trainer_state: TrainerState | None = None) -> list[float]:
        return [-1.0 if trainer_state is None else float(trainer_state.global_step)] * len(completions)

    state = TrainerState(global_step=3)
    assert scored([by_step, or_nothing], ["a"], state=lambda: state).values == ((3.0, 3.0),)
    state.global_step = 4
    assert scored([by_step, or_nothing], ["a"], state=lambda: state).values == ((4.0, 4.0),)
    assert scored([by_step, or_nothing], ["a"]).values == ((0.0, -1.0),)


def test_the_three_names_are_no_columns_that_a_dataset_must_have() -> None:
    def picky(completions: list[str], answer: list[str], log_metric: Any, trainer_state: Any) -> list[float]:
        return []

    RewardRunner(picky).check_columns(["answer"])
    with pytest.raises(ConfigError, match=r"needs \['answer'\]"):
        RewardRunner(picky).check_columns(["log_metric"])


def test_a_column_may_be_logged_piece_by_piece() -> None:
    """In TRL a column grows with each call of `log_extra`, so this is how some functions use it."""

    def one_by_one(completions: list[str], log_extra: Any) -> list[float]:
        for text in completions:
            log_extra("length", [len(text)])
        return [0.0] * len(completions)

    assert scored(one_by_one).extras == {"length": (1, 2, 3, 4)}


def test_a_column_that_two_functions_log_is_kept_twice() -> None:
    def other(completions: list[str], log_extra: Any) -> list[float]:
        log_extra("upper", ["x"] * len(completions))
        return [0.0] * len(completions)

    assert scored([length, other]).extras == {
        "upper": ("A", "BB", "CCC", "DDDD"),
        "upper (other)": ("x", "x", "x", "x"),
    }


def test_a_column_of_another_length_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    def short(completions: list[str], log_extra: Any) -> list[float]:
        log_extra("too few", ["x"])
        log_extra("fine", completions)
        return [0.0] * len(completions)

    assert list(scored(short).extras) == ["fine"]
    assert "'short' logs a column 'too few' with more or fewer values than there are completions" in caplog.text


def test_what_is_logged_can_be_written_to_a_file_and_sent_to_another_process() -> None:
    def odd(completions: list[str], log_metric: Any, log_extra: Any) -> list[float]:
        log_metric("tensor", torch.tensor(0.25))
        log_metric("array", numpy.float32(0.5))
        log_extra("values", [torch.tensor([1, 2]), numpy.float64(0.5), {"a": (1, None)}, ValueError("no")])
        return [0.0] * len(completions)

    scores = scored(odd)
    assert scores.metrics == {"tensor": (0.25,), "array": (0.5,)}
    assert scores.extras == {"values": ([1, 2], 0.5, {"a": [1, None]}, "no")}
    assert type(scores.extras["values"][1]) is float


@pytest.mark.parametrize("value", ["much", None, [1.0, 2.0], torch.tensor([1.0, 2.0])], ids=str)
def test_a_metric_that_is_no_number_is_the_function_s_failure(value: Any) -> None:
    def wrong(completions: list[str], log_metric: Any) -> list[float]:
        log_metric("length", value)
        return [0.0] * len(completions)

    with pytest.raises(RewardError, match=r"'wrong' failed on row 0 .*log_metric\('length', .*give one number"):
        scored(wrong)


# -- calls that fail -----------------------------------------------------------------------------------------------


def fails_on_bb(completions: list[str]) -> None:
    if "bb" in completions:
        raise KeyError("bb")


def sleeps_on_bb(completions: list[str]) -> None:
    if "bb" in completions:
        time.sleep(30)


@pytest.mark.parametrize("act", [fails_on_bb, sleeps_on_bb])
def test_a_call_that_fails_leaves_nothing_and_its_rows_count_once(act: Any) -> None:
    """The whole call logged a length of 2.5; of the rows that passed the mean is (1 + 3 + 4) / 3."""
    scores = scored(logging_all(act), on_error="skip", timeout=0.3)
    assert [row[0] for row in scores.values] == [1.0, None, 3.0, 4.0]
    assert scores.metrics == {"length": (pytest.approx(8 / 3),)}
    assert scores.extras == {"upper": ("A", None, "CCC", "DDDD")}


def test_a_batch_whose_rows_all_pass_alone_has_no_log() -> None:
    def crowded(completions: list[str]) -> None:
        if len(completions) > 1:
            raise ValueError("too many")

    scores = scored(logging_all(crowded), on_error="skip")
    assert (scores.metrics, scores.extras) == ({}, {})


def test_async_functions_that_are_called_again_count_once() -> None:
    """The first blocks the loop beyond its limit, so that the second is called by itself afterwards."""

    async def blocks(completions: list[str]) -> list[float]:
        time.sleep(1.0)
        return [0.0] * len(completions)

    async def logs(completions: list[str], log_metric: Any, log_extra: Any) -> list[float]:
        log_metric("calls", 1.0)
        log_extra("upper", completions)
        await asyncio.sleep(0.05)
        return [1.0] * len(completions)

    scores = scored([blocks, logs], on_error="skip", timeout=0.3)
    assert scores.metrics == {"calls": (1.0,)}
    assert scores.extras == {"upper": tuple(TEXTS)}
    assert [row[1] for row in scores.values] == [1.0] * 4


# -- in a process of its own ---------------------------------------------------------------------------------------


def test_a_sandboxed_function_logs_as_any_other(module: str) -> None:
    scores = scored(sandboxed(f"{module}:logs"), state=lambda: TrainerState(global_step=3))
    assert scores.metrics == {"mean_length": (2.5,)}
    assert scores.extras == {"upper": ("A", "BB", "CCC", "DDDD")}


@pytest.mark.parametrize(("text", "timeout"), [("bad", 60.0), ("slow", 3.0)])
def test_a_sandboxed_call_that_fails_or_is_killed_logs_nothing(module: str, text: str, timeout: float) -> None:
    scores = scored(sandboxed(f"{module}:logs"), ["a", text], on_error="skip", timeout=timeout)
    assert [row[0] for row in scores.values] == [1.0, None]
    assert scores.metrics == {"mean_length": (1.0,)}
    assert scores.extras == {"upper": ("A", None)}


@pytest.mark.slow
def test_a_sandboxed_function_that_names_the_state_gets_it(module: str) -> None:
    reward = sandboxed(f"{module}:by_step")
    assert scored(reward, ["a"], state=lambda: TrainerState(global_step=3)).values == ((3.0,),)
    reward.close()


# -- over a step ---------------------------------------------------------------------------------------------------


def test_a_step_s_metric_is_the_mean_over_all_calls_of_all_ranks() -> None:
    """TRL's: sums and counts over ranks, so that a rank that logged twice counts twice."""
    ranks = [{"a": (1.0, 2.0), "b": (5.0,)}, {"a": (6.0,)}, {}]
    assert logged_metrics(ranks) == {"a": 3.0, "b": 5.0}


def test_a_metric_of_the_run_s_own_name_goes_beside_it() -> None:
    given = {"reward": (1.0,), "loss": (2.0,), "time/mine": (3.0,), "lossless": (4.0,), "x": (float("nan"), 1.0)}
    found = logged_metrics([given], known={"reward"})
    assert found == {"logged/reward": 1.0, "logged/loss": 2.0, "logged/time/mine": 3.0, "lossless": 4.0}
