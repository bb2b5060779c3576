"""Whatever a reward function does wrong is named and counted, and never becomes a silent 0 (property 22)."""

import asyncio
import contextvars
import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch

from dunwu.config import GRPOConfig
from dunwu.core.records import RewardScores
from dunwu.errors import RewardFailure
from dunwu.rewards import RewardError, RewardRunner, combine

TEXTS = ["a", "bb", "ccc", "dddd"]


def scored(runner: RewardRunner, texts: list[str] = TEXTS, **columns: Any) -> RewardScores:
    ids = [[7]] * len(texts)
    return runner.score(prompts=["p"] * len(texts), completions=texts, completion_ids=ids, columns=columns)


def length(completions: list[str], **columns: Any) -> list[float]:
    return [float(len(c)) for c in completions]


async def length_later(completions: list[str], **columns: Any) -> list[float]:
    await asyncio.sleep(0.2)
    return [float(len(c)) for c in completions]


class Shorter:
    def __call__(self, completions: list[str]) -> list[float]:
        return [-float(len(c)) for c in completions]


def failing_on(bad: str, act: Callable[[], Any]) -> Callable[..., list[Any]]:
    """A reward that is the length, but does `act` on the text `bad`."""

    def picky(completions: list[str], **columns: Any) -> list[Any]:
        return [act() if c == bad else float(len(c)) for c in completions]

    return picky


def raise_error() -> float:
    raise KeyError("no such thing")


def hang() -> float:
    time.sleep(30)
    return 0.0


def test_functions_get_the_columns_that_they_ask_for() -> None:
    seen: dict[str, Any] = {}

    def everything(**given: Any) -> list[float]:
        seen.update(given)
        return [0.0] * 4

    def one(completions: list[str], answer: list[str]) -> list[float]:
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    scores = scored(RewardRunner([everything, one]), answer=["a", "x", "ccc", "x"], prompt=["p"] * 4)
    assert [row[1] for row in scores.values] == [1.0, 0.0, 1.0, 0.0]
    assert sorted(seen) == ["answer", "completion_ids", "completions", "log_extra", "log_metric", "prompts"]


def test_names_are_unique_and_come_from_functions_classes_and_partials() -> None:
    partial = functools.partial(functools.partial(length), extra=1)
    runner = RewardRunner([length, length, Shorter(), partial, length_later])
    assert runner.names == ("length", "length_2", "Shorter", "length_3", "length_later")
    assert RewardRunner(length).names == ("length",)


def test_a_partial_may_have_a_name_of_its_own_and_still_be_async() -> None:
    near = functools.partial(length, extra=1)
    near.__name__ = "near_twenty"  # type: ignore[attr-defined]
    later = functools.partial(length_later)
    later.__name__ = "later"  # type: ignore[attr-defined]
    runner = RewardRunner([near, later])
    assert runner.names == ("near_twenty", "later")
    assert scored(runner).values == scored(RewardRunner([functools.partial(length, extra=1), length_later])).values


def test_sync_async_objects_and_partials_are_scored_in_order() -> None:
    scores = scored(RewardRunner([length_later, length, Shorter(), functools.partial(length, extra=1)]))
    assert scores.values[2] == (3.0, 3.0, -3.0, 3.0)
    assert scores.names == ("length_later", "length", "Shorter", "length_2") and scores.failures == ()


def test_async_functions_run_at_the_same_time_and_inside_a_running_loop() -> None:
    async def notebook() -> RewardScores:
        return scored(RewardRunner([length_later] * 5))

    start = time.perf_counter()
    assert asyncio.run(notebook()).values[1] == (2.0,) * 5
    assert time.perf_counter() - start < 0.8, "five waits of 0.2 s, one after another, take 1 s"


def test_a_function_that_returns_a_coroutine_is_awaited() -> None:
    assert scored(RewardRunner(lambda **given: length_later(**given))).values[0] == (1.0,)


@pytest.mark.parametrize(
    "returned",
    [
        [1, 2.0, True, None],
        (1, 2, 1, None),
        [numpy.float32(1), numpy.int64(2), numpy.bool_(True), None],
        [torch.tensor(1), torch.tensor([2.0]), torch.tensor(True), None],
    ],
)
def test_numbers_of_every_kind_are_read_and_none_is_kept(returned: Any) -> None:
    assert scored(RewardRunner(lambda **given: returned)).values == ((1.0,), (2.0,), (1.0,), (None,))


def test_tensors_and_arrays_are_read() -> None:
    for made in (torch.tensor([1.0, 2, 3, 4], dtype=torch.bfloat16), numpy.array([1, 2, 3, 4])):
        runner = RewardRunner(lambda made=made, **given: made)
        assert scored(runner).values == ((1.0,), (2.0,), (3.0,), (4.0,))


PROBLEMS: list[tuple[Any, int | None, str, str]] = [
    (failing_on("ccc", raise_error), 2, "exception", "KeyError: 'no such thing'"),
    (failing_on("ccc", lambda: math.nan), 2, "nan", "returned nan"),
    (failing_on("ccc", lambda: -math.inf), 2, "nan", "returned -inf"),
    (failing_on("ccc", lambda: 10**400), 2, "nan", "returned 1000"),
    (failing_on("ccc", lambda: "3"), 2, "type", "returned '3' (str)"),
    (failing_on("ccc", lambda: [1.0, 2.0]), 2, "type", "(list), which is no number"),
    (lambda **given: [1.0], None, "length", "returned 1 values for 4 completions"),
    (lambda **given: 1.0, None, "type", "returned float and not a list"),
    (lambda **given: torch.tensor(1.0), None, "type", "returned Tensor and not a list"),
    (lambda **given: "abcd", None, "type", "returned str and not a list"),
    (lambda **given: None, None, "type", "returned NoneType and not a list"),
    (failing_on("ccc", hang), 2, "timeout", "no answer within 0.5 s"),
]


@pytest.mark.parametrize(("function", "row", "kind", "detail"), PROBLEMS)
def test_a_failure_is_raised_with_function_row_and_reason(
    function: Any, row: int | None, kind: str, detail: str
) -> None:
    runner = RewardRunner([length, function], timeout=0.5)
    with pytest.raises(RewardError) as caught:
        scored(runner)
    problem, message = caught.value.failure, str(caught.value)
    assert (problem.function, problem.row, problem.kind) == (runner.names[1], row, kind)
    assert detail in problem.detail and detail in message and runner.names[1] in message
    assert ("on row 2" in message and "begins 'ccc'" in message) is (row == 2)
    assert runner.failure_counts == {(runner.names[1], kind): 1}


@pytest.mark.parametrize(("function", "row", "kind", "detail"), PROBLEMS)
def test_a_skipped_failure_is_none_counted_and_reported(
    function: Any, row: int | None, kind: str, detail: str
) -> None:
    runner = RewardRunner([length, function], timeout=0.5, on_error="skip")
    scores = scored(runner)
    expected = [None] * 4 if row is None else [None if r == row else float(r + 1) for r in range(4)]
    assert [values[1] for values in scores.values] == expected
    assert [values[0] for values in scores.values] == [1.0, 2.0, 3.0, 4.0]
    assert [(p.function, p.row, p.kind) for p in scores.failures] == [(runner.names[1], row, kind)]
    assert detail in scores.failures[0].detail
    scored(runner)
    assert runner.failure_counts == {(runner.names[1], kind): 2}


def test_a_completion_of_messages_is_quoted_by_its_text() -> None:
    runner = RewardRunner(lambda completions: [math.nan])
    for completion, said in (([{"role": "assistant", "content": "four"}], "begins 'four'"), ([], r"begins '\[\]'")):
        with pytest.raises(RewardError, match=said):
            runner.score(prompts=[[]], completions=[completion], completion_ids=[[1]], columns={})


def test_the_exception_itself_is_chained() -> None:
    with pytest.raises(RewardError) as caught:
        scored(RewardRunner(failing_on("ccc", raise_error)))
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_async_function_that_fails_or_hangs_is_named_and_the_others_are_scored() -> None:
    async def broken(completions: list[str]) -> list[float]:
        return [1 / (len(c) - 2) for c in completions]

    async def stuck(completions: list[str]) -> list[float]:
        await asyncio.sleep(30 if "bb" in completions else 0)
        return length(completions)

    async def blocking(completions: list[str]) -> list[float]:
        return failing_on("bb", hang)(completions)

    runner = RewardRunner([broken, stuck, blocking, length_later], timeout=0.5, on_error="skip")
    scores = scored(runner)
    assert [(p.function, p.row, p.kind) for p in scores.failures] == [
        ("broken", 1, "exception"),
        ("stuck", 1, "timeout"),
        ("blocking", 1, "timeout"),
    ]
    assert scores.values == (
        (-1.0, 1.0, 1.0, 1.0),
        (None, None, None, 2.0),
        (1.0, 3.0, 3.0, 3.0),
        (0.5, 4.0, 4.0, 4.0),
    )


def test_a_timeout_error_of_the_function_itself_is_an_exception() -> None:
    async def tired(completions: list[str]) -> list[float]:
        raise TimeoutError("the server said no")

    with pytest.raises(RewardError, match="the server said no") as caught:
        scored(RewardRunner(tired), ["one row, so that nothing is asked again"])
    assert caught.value.failure.kind == "exception"


def test_the_search_for_hanging_rows_ends_and_names_the_rows_it_did_not_try() -> None:
    runner = RewardRunner(lambda **given: hang(), timeout=0.1, on_error="skip")
    start = time.perf_counter()
    scores = scored(runner, ["a"] * 50)
    assert time.perf_counter() - start < 1.5
    assert [p.row for p in scores.failures] == list(range(50)) and {p.kind for p in scores.failures} == {"timeout"}
    assert "not tried" in scores.failures[-1].detail and "not tried" not in scores.failures[0].detail
    assert scores.values == ((None,),) * 50


def test_a_failure_that_no_row_alone_repeats_is_the_batchs() -> None:
    def alone(completions: list[str]) -> list[float]:
        if len(completions) > 1:
            raise RuntimeError("one at a time")
        return [1.0]

    scores = scored(RewardRunner(alone, on_error="skip"))
    assert scores.values == ((None,),) * 4
    assert [(p.row, p.kind) for p in scores.failures] == [(None, "exception")]
    assert "yet 4 of 4 rows, each alone, passed" in scores.failures[0].detail


def test_a_function_that_is_merely_slow_is_not_blamed_on_a_row() -> None:
    def slow(completions: list[str]) -> list[float]:
        time.sleep(0.05 * len(completions))
        return length(completions)

    scores = scored(RewardRunner(slow, timeout=0.3, on_error="skip"), ["a"] * 30)
    assert [(p.row, p.kind) for p in scores.failures] == [(None, "timeout")]
    assert "of 30 rows, each alone, passed" in scores.failures[0].detail
    assert scores.values == ((None,),) * 30


def test_a_missing_column_is_refused_before_anything_is_called() -> None:
    def needs(completions: list[str], answer: list[str], **columns: Any) -> list[float]:
        raise AssertionError("not to be called")

    with pytest.raises(
        ValueError, match=r"'needs' needs \['answer'\]; there are \['completion_ids', 'completions', 'gold'"
    ):
        scored(RewardRunner(needs, on_error="skip"), gold=["1"] * 4)


def test_columns_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="'answer' has 3, there are 4 completions"):
        scored(RewardRunner(length), answer=["1"] * 3)


def test_one_function_cannot_spoil_anothers_arguments() -> None:
    def greedy(completions: list[str], **columns: Any) -> list[float]:
        values = length(completions)
        completions.clear()
        return values

    assert scored(RewardRunner([greedy, length])).values[3] == (4.0, 4.0)


def test_a_reward_that_changes_its_arguments_changes_neither_the_rows_nor_its_siblings() -> None:
    row = {"nums": [3, 14, 17], "meta": {"tags": ["a"]}, "prompt": [{"role": "user", "content": "3 14 17"}]}
    seen = list[Any]()

    def destructive(
        completions: list[str],
        prompts: list[Any],
        nums: list[list[int]],
        meta: list[Any],
        completion_ids: list[list[int]],
    ) -> list[float]:
        for left, facts, prompt, ids in zip(nums, meta, prompts, completion_ids, strict=True):
            seen.append((list(left), list(facts["tags"]), prompt[0]["content"], list(ids)))
            left.remove(14)
            facts["tags"].append("b")
            prompt[0]["content"] = ""
            ids.clear()
        return [1.0 for _ in completions]

    group = 2
    columns = {name: [value] * group for name, value in row.items()}
    for _ in range(2):
        RewardRunner([destructive, destructive]).score(
            prompts=[row["prompt"]] * group,
            completions=["a"] * group,
            completion_ids=[[1, 2]] * group,
            columns=columns,
        )
    assert seen == [([3, 14, 17], ["a"], "3 14 17", [1, 2])] * 8
    assert row == {"nums": [3, 14, 17], "meta": {"tags": ["a"]}, "prompt": [{"role": "user", "content": "3 14 17"}]}


def test_an_argument_that_cannot_be_copied_is_handed_out_as_it_is() -> None:
    lock = threading.Lock()
    scores = scored(RewardRunner(lambda completions, lock: [float(one is lock[0]) for one in lock]), lock=[lock] * 4)
    assert scores.values == ((1.0,),) * 4


def test_no_completions_are_no_scores_no_call_and_no_missing_column() -> None:
    def needs(completions: list[str], answer: list[str]) -> list[float]:
        raise AssertionError("not to be called")

    runner = RewardRunner(needs)
    assert runner.score(prompts=[], completions=[], completion_ids=[], columns={}).values == ()


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_a_sync_function_runs_in_the_calling_thread(timeout: float | None) -> None:
    threads = list[threading.Thread]()

    def where(completions: list[str]) -> list[float]:
        threads.append(threading.current_thread())
        return length(completions)

    scored(RewardRunner(where, timeout=timeout))
    assert threads == [threading.current_thread()]
    assert scored(RewardRunner(length_later, timeout=timeout)).values[0] == (1.0,)


def test_a_sync_function_runs_in_the_calling_thread_inside_a_running_loop_too() -> None:
    async def notebook() -> RewardScores:
        return scored(
            RewardRunner(lambda completions: [float(threading.current_thread() is main)] * len(completions))
        )

    main = threading.current_thread()
    assert asyncio.run(notebook()).values == ((1.0,),) * 4


def test_an_error_names_the_options_that_exist() -> None:
    with pytest.raises(RewardError, match=r'set on_reward_error="skip" \(RewardRunner: on_error\)'):
        scored(RewardRunner(failing_on("a", raise_error)))
    with pytest.raises(RewardError, match=r"raise reward_timeout \(RewardRunner: timeout\).*sandboxed"):
        scored(RewardRunner(failing_on("a", hang), timeout=0.1))
    known = {option.name for option in dataclasses.fields(GRPOConfig)}
    assert {"on_reward_error", "reward_timeout"} <= known


def test_the_first_failure_of_each_kind_is_logged_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    runner = RewardRunner([length, failing_on("ccc", raise_error)], on_error="skip")
    for _ in range(3):
        scored(runner)
    (message,) = caplog.messages
    assert "'picky' failed on row 2 (exception): KeyError: 'no such thing'" in message
    assert runner.failure_counts == {("picky", "exception"): 3}


def down(completions: list[str], **columns: Any) -> list[float]:
    raise ConnectionError("nobody answers at port 8000")


def test_a_judge_that_is_down_all_the_time_ends_the_run_even_with_skip() -> None:
    runner = RewardRunner([length, down], on_error="skip", max_failed_batches=3)
    assert [scored(runner).values[0] for _ in range(2)] == [(1.0, None)] * 2
    with pytest.raises(
        RewardError, match=r"'down' has failed on every row of 3 batches in a row.*port 8000"
    ) as caught:
        scored(runner)
    assert isinstance(caught.value.__cause__, ConnectionError) and caught.value.failure.kind == "exception"
    assert RewardRunner(down).max_failed_batches == 10


def test_batches_with_one_good_row_and_no_limit_go_on() -> None:
    half = RewardRunner(failing_on("ccc", raise_error), on_error="skip", max_failed_batches=1)
    never = RewardRunner(down, on_error="skip", max_failed_batches=None)
    for _ in range(12):
        assert scored(half).values[0] == (1.0,)
        assert scored(never).values[0] == (None,)
    with pytest.raises(ValueError, match="max_failed_batches must be 1 or more"):
        RewardRunner(down, max_failed_batches=0)


def test_a_failed_batch_counts_only_in_a_row() -> None:
    runner = RewardRunner(failing_on("bad", raise_error), on_error="skip", max_failed_batches=2)
    for texts in (["bad"], ["good"], ["bad"], ["good"]):
        scored(runner, texts)
    scored(runner, ["bad"])
    with pytest.raises(RewardError, match="2 batches in a row"):
        scored(runner, ["bad"])


def test_a_batch_that_nothing_scored_is_warned_of_occasionally(caplog: pytest.LogCaptureFixture) -> None:
    runner = RewardRunner(
        [lambda completions: [None] * len(completions), lambda completions: [None] * len(completions)]
    )
    for _ in range(51):
        scored(runner)
    assert len(caplog.messages) == 2
    assert (
        "no reward function scored any of the 4 completions of this batch (<lambda>, <lambda>_2)"
        in caplog.messages[0]
    )
    caplog.clear()
    assert scored(RewardRunner([length, lambda completions: [None] * len(completions)])).values[0] == (1.0, None)
    assert caplog.messages == []


def test_the_timeout_costs_less_than_a_millisecond_a_call() -> None:
    runner = RewardRunner(length)
    took = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(20):
            scored(runner)
        took.append((time.perf_counter() - start) / 20)
    assert min(took) < 0.001


def test_a_function_sees_the_context_variables_of_its_caller() -> None:
    language = contextvars.ContextVar("language", default="en")
    language.set("zh")
    scores = scored(RewardRunner(lambda completions: [float(language.get() == "zh")] * len(completions)))
    assert scores.values == ((1.0,),) * 4


def test_system_exit_in_a_reward_ends_the_run_and_is_not_lost_in_a_thread() -> None:
    def leave(completions: list[str]) -> list[float]:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        scored(RewardRunner(leave, on_error="skip"))


def test_combine_weighs_scores_and_leaves_none_out() -> None:
    values = ((1.0, 2.0), (None, 2.0), (None, None))
    scores = RewardScores(names=("a", "b"), values=values, failures=())
    assert combine(scores, [1.0, 0.5]) == [2.0, 1.0, None]
    assert combine(scores) == [3.0, 2.0, None]


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0], [1.0, math.nan]])
def test_weights_must_be_one_finite_number_a_function(weights: list[float]) -> None:
    scores = RewardScores(names=("a", "b"), values=(), failures=())
    with pytest.raises(ValueError, match="2 reward functions need 2 finite weights"):
        combine(scores, weights)
    with pytest.raises(ValueError, match="2 reward functions need 2 finite weights"):
        RewardRunner([length, Shorter()], weights=weights)


def test_wrong_options_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="timeout must be a positive"):
        RewardRunner(length, timeout=0)
    with pytest.raises(ValueError, match='must be "raise" or "skip"'):
        RewardRunner(length, on_error="ignore")  # type: ignore[arg-type]
    assert RewardRunner(length, timeout=math.inf).timeout is None
    with pytest.raises(ValueError, match="must be a function"):
        RewardRunner(["length"])  # type: ignore[list-item]


def test_the_failure_of_an_error_is_a_record() -> None:
    with pytest.raises(RewardError) as caught:
        scored(RewardRunner(failing_on("a", raise_error)))
    assert caught.value.failure == RewardFailure(
        function="picky", row=0, kind="exception", detail="KeyError: 'no such thing'"
    )
