"""`trl.rewards` here has the values that TRL 1.16's functions have."""

from __future__ import annotations

import importlib.util
import pickle
import threading
import warnings
from typing import Any

import pytest

from dunwu.errors import ConfigError
from dunwu.rewards import RewardRunner, sandboxed
from dunwu.trl import rewards

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("trl", minversion="1.16.0")
    from trl import rewards as theirs

HAS_MATH = importlib.util.find_spec("math_verify") is not None
MATH = pytest.mark.skipif(not HAS_MATH, reason="math-verify is not installed (pip install 'dunwu[math]')")

FORMATS = [
    "<think>a</think>b",
    "<think>\na\nb\n</think>\nc\nd",
    "<think></think>",
    "<think>a</think>",
    "<think>a",
    "a</think>b",
    " <think>a</think>b",
    "x\n<think>a</think>b",
    "<think>a<think>b</think>c",
    "<think>a</think>b<think>c</think>",
    "<think>a</think>b</think>c",
    "",
    "<THINK>a</THINK>",
]


def messages(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize("text", FORMATS)
def test_one_thought_that_is_closed_is_told_as_trl_tells_it(text: str) -> None:
    assert rewards.think_format_reward([messages(text)]) == theirs.think_format_reward([messages(text)])
    assert rewards.think_format_reward([text]) == rewards.think_format_reward([messages(text)])


@pytest.mark.parametrize(("limit", "cache"), [(100, 20), (100, 0), (10, 10), (5, 9)])
def test_long_completions_are_punished_as_trl_does(limit: int, cache: int) -> None:
    ids = [[1] * n for n in (0, 1, 4, 5, 6, 79, 80, 81, 90, 99, 100, 101, 1000)]
    ours = rewards.get_soft_overlong_punishment(limit, cache)
    assert ours(completion_ids=ids) == theirs.get_soft_overlong_punishment(limit, cache)(ids)


@pytest.mark.parametrize(("size", "penalty"), [(1, -1.0), (2, -1.0), (3, -0.3), (3, 0.0)])
def test_repetitions_are_punished_as_trl_does(size: int, penalty: float) -> None:
    ids = [[], [1], [1, 2], [1, 2, 3, 4], [5] * 5, [1, 2, 1, 2, 1, 2], [1, 2, 3, 1, 2, 3, 4]]
    ours = rewards.get_repetition_penalty_reward(ngram_size=size, max_penalty=penalty)
    assert ours(completion_ids=ids) == theirs.get_repetition_penalty_reward(size, penalty)(ids)


def test_options_that_make_no_reward_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_penalty must be 0 or less"):
        rewards.get_repetition_penalty_reward(max_penalty=0.5)
    with pytest.raises(ConfigError, match="at least 1 token"):
        rewards.get_cosine_scaled_reward(0)


def test_rewards_made_by_a_function_have_trl_s_names_and_can_be_sandboxed() -> None:
    made = [
        rewards.get_cosine_scaled_reward(9),
        rewards.get_repetition_penalty_reward(),
        rewards.get_soft_overlong_punishment(9, 3),
    ]
    same = [
        theirs.get_cosine_scaled_reward(9),
        theirs.get_repetition_penalty_reward(),
        theirs.get_soft_overlong_punishment(9, 3),
    ]
    assert RewardRunner(made).names == tuple(function.__name__ for function in same)
    assert [pickle.loads(pickle.dumps(function)) for function in made] == made
    reward = sandboxed(made[2])
    assert reward(completion_ids=[[1] * 9]) == [-1.0]
    reward.close()


@pytest.mark.skipif(HAS_MATH, reason="math-verify is installed")
@pytest.mark.parametrize("name", ["accuracy_reward", "reasoning_accuracy_reward"])
def test_without_math_verify_the_extra_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} needs math-verify, .* pip install 'dunwu\[math\]'"):
        getattr(rewards, name)([r"\boxed{1}"], ["1"])


ANSWERS = [
    (r"My answer is \boxed{\frac{1}{3}}", r"\frac{1}{3}"),
    (r"My answer is \boxed{\frac{1}{2}}", r"\frac{1}{3}"),
    (r"\boxed{\frac{2}{6}}", r"$\frac{1}{3}$"),
    (r"first \boxed{2}, then \boxed{3}", "3"),
    ("it is 3", "3"),
    ("$x = 3$", "3"),
    (r"$$\frac{1}{3}$$ and \boxed{4}", "4"),
    (r"\boxed{3\text{ cm}}", "3"),
    (r"\boxed{}", "3"),
    ("", "3"),
    (r"\boxed{1,000}", "1000"),
    (r"\boxed{50\%}", "0.5"),
    (r"\boxed{(1, 2)}", "(1,2)"),
    (r"\boxed{\sqrt{8}}", r"2\sqrt{2}"),
    (r"\boxed{3}", "no mathematics here"),
    (r"\boxed{3}", ""),
    (r"<think>\boxed{3}</think>\boxed{4}", "4"),
    (r"<think>\boxed{3}", "3"),
    (r"<think>a</think>b</think>\boxed{5}", "5"),
    (r"\boxed{5}</think>", "5"),
    (r"<|end|>\boxed{5}", "5"),
]


def both(name: str, **more: Any) -> list[list[float | None]]:
    given = [messages(text) for text, _ in ANSWERS]
    gold = [answer for _, answer in ANSWERS]
    return [getattr(module, name)(completions=given, solution=gold, **more) for module in (rewards, theirs)]


@MATH
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("accuracy_reward", {}),
        ("reasoning_accuracy_reward", {}),
        ("reasoning_accuracy_reward", {"reasoning_delimiters": ["<|end|>", "</think>"]}),
        ("reasoning_accuracy_reward", {"reasoning_delimiters": []}),
    ],
)
def test_answers_are_judged_as_trl_judges_them(name: str, more: dict[str, Any]) -> None:
    ours, expected = both(name, **more)
    assert ours == expected
    if name == "accuracy_reward":
        assert {0.0, 1.0, None} == set(ours), "the table has all three"


@MATH
@pytest.mark.filterwarnings("ignore")
def test_the_length_of_an_answer_counts_as_in_trl() -> None:
    given, gold = [messages(text) for text, _ in ANSWERS], [answer for _, answer in ANSWERS]
    ids = [[1] * (7 * i % 40) for i in range(len(ANSWERS))]
    options = {"max_len": 30, "min_value_wrong": -2.0, "max_value_correct": 3.0}
    ours = rewards.get_cosine_scaled_reward(**options)(given, gold, completion_ids=ids)
    assert ours == pytest.approx(theirs.get_cosine_scaled_reward(**options)(given, gold, completion_ids=ids))


@MATH
@pytest.mark.filterwarnings("ignore")
def test_what_is_logged_of_an_answer_is_what_trl_logs() -> None:
    kept: list[dict[str, Any]] = []
    given, gold = [messages(text) for text, _ in ANSWERS], [answer for _, answer in ANSWERS]
    for module in (rewards, theirs):
        for name in ("accuracy_reward", "reasoning_accuracy_reward"):
            found: dict[str, Any] = {}
            getattr(module, name)(given, gold, log_extra=found.__setitem__)
            kept.append(found)
    assert kept[:2] == kept[2:]
    scores = RewardRunner(rewards.accuracy_reward).score(
        prompts=["p"] * len(given), completions=given, completion_ids=[[]] * len(given), columns={"solution": gold}
    )
    assert {name: list(values) for name, values in scores.extras.items()} == kept[0]


@MATH
@pytest.mark.filterwarnings("error")
def test_an_answer_is_judged_outside_of_the_main_thread_too() -> None:
    """math-verify's own time limit works in the main thread only."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(rewards.accuracy_reward([r"\boxed{3}"], ["3"])))
    thread.start()
    thread.join()
    assert found == [1.0]
