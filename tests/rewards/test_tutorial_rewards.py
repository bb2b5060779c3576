"""The tutorials' rewards give the tutorials' values: by our own table, and by the golden file where it is there."""

import ast
import json
import logging
import os
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest

from dunwu.rewards import tutorials

REPOSITORY = Path(__file__).parents[2]
SHARED = Path(os.environ.get("DUNWU_SHARED", REPOSITORY.parent / "shared"))
GOLDEN = SHARED / "golden" / "tutorial_rewards.jsonl"
COLUMNS = ("answer", "target", "nums", "ground_truth")


def called(name: str, completion: Any, **columns: Any) -> Any:
    function = getattr(tutorials, name)
    if name.startswith("extract_"):
        return function(completion)
    lists = {key: [value] for key, value in columns.items()}
    return function(prompts=["q"], completions=[completion], **lists)[0]


def in_chat(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


GOOD = "<reasoning>\nr\n</reasoning>\n<answer>\n72\n</answer>\n"
LONG = "a" * 1001
TABLE: list[tuple[str, str, dict[str, Any], Any]] = [
    ("extract_xml_answer", "x<answer> 1 </answer><answer>\n2\n</answer> y", {}, "2"),
    ("extract_xml_answer", "  no tags ", {}, "no tags"),
    ("extract_hash_answer", "so #### 1 #### 2", {}, "1"),
    ("extract_hash_answer", "no hash", {}, None),
    ("correctness_reward_func", GOOD, {"answer": "72"}, 2.0),
    ("correctness_reward_func", GOOD, {"answer": "72.0"}, 0.0),
    ("correctness_reward_func", GOOD, {"answer": None}, 0.0),
    ("int_reward_func", "72", {}, 0.5),
    ("int_reward_func", "²", {}, 0.5),
    ("int_reward_func", "-3", {}, 0.0),
    ("int_reward_func", "1,000", {}, 0.0),
    ("strict_format_reward_func", GOOD, {}, 0.5),
    ("strict_format_reward_func", GOOD.replace("r\n", "r\nr\n"), {}, 0.0),
    ("strict_format_reward_func", GOOD.rstrip(), {}, 0.0),
    ("soft_format_reward_func", "<reasoning>r</reasoning> \n <answer>1</answer> and more", {}, 0.5),
    ("soft_format_reward_func", "so <reasoning>r</reasoning><answer>1</answer>", {}, 0.0),
    ("soft_format_reward_func", GOOD, {}, 0.0),
    ("xmlcount_reward_func", GOOD, {}, 0.5),
    ("xmlcount_reward_func", GOOD + "12345", {}, 0.49),
    ("xmlcount_reward_func", GOOD.rstrip(), {}, 0.5 - 0.001 * len(GOOD.rstrip()) + 0.001),
    ("xmlcount_reward_func", GOOD + GOOD, {}, 0.0),
    ("format_reward_func", "t</think>\n<answer>1</answer>", {}, 1.0),
    ("format_reward_func", "t\nt < 3</think>\n<answer>1\n2</answer>", {}, 1.0),
    ("format_reward_func", "t</think><answer>1</answer>", {}, 0.0),
    ("format_reward_func", "<think>t</think>\n<answer>1</answer>", {}, 0.0),
    ("thought_len_reward_func", LONG + "</think>", {}, 1.0),
    ("thought_len_reward_func", " " + LONG[1:] + "</think>", {}, 0.0),
    ("thought_len_reward_func", LONG + "\n" + LONG + "</think>", {}, 0.0),
    ("thought_len_reward_func", "x\n<think>" + LONG + "</think>", {}, 1.0),
    ("reward_len", "", {}, 20.0),
    ("reward_len", "x" * 23, {}, 3.0),
    ("reward_longer", "日本", {}, 2.0),
    ("think_answer_format_reward", "<think>a</think><answer>b</answer>", {}, 1.0),
    ("think_answer_format_reward", "<think>a\n</think><answer>b</answer>", {}, 0.0),
    ("boxed_reward", r"\boxed{2} \boxed{3}", {"ground_truth": "2"}, 1.0),
    ("boxed_reward", r"\boxed{\frac{1}{2}}", {"ground_truth": r"\frac{1"}, 1.0),
    ("boxed_reward", "none", {"ground_truth": ""}, 1.0),
]

EQUATIONS: list[tuple[str, list[int], float, float]] = [
    ("1+2*3", [1, 2, 3], 7, 1.0),
    ("3*2+1", [1, 2, 3], 7, 1.0),
    ("1+2", [1, 2, 3], 3, 0.0),  # a number not used
    ("1/3", [1, 3], 1 / 3, 1.0),
    ("1/3", [1, 3], 0.33333, 1.0),  # within 1e-5
    ("7//2", [7, 2], 3, 1.0),
    ("-7//2", [7, 2], -4, 1.0),
    ("2**3", [2, 3], 8, 1.0),
    ("-2**2", [2, 2], -4, 1.0),
    ("2**-1", [2, 1], 0.5, 1.0),
    ("2**3**2", [2, 3, 2], 512, 1.0),
    ("1.5*2", [1, 5, 2], 3, 1.0),
    (".5+5.", [5, 5], 5.5, 1.0),
    ("--1++2", [1, 2], 3, 1.0),
    ("(1\t+ 2)", [1, 2], 3, 1.0),
    ("1..2", [1, 2], 1, 0.0),
    ("007", [7], 7, 0.0),
    ("0+1", [0, 1], 1, 1.0),
    ("2(3)", [2, 3], 6, 0.0),
    ("1 2", [1, 2], 12, 0.0),
    ("()+1", [1], 1, 0.0),
    ("...", [], 0, 0.0),
    ("", [], 0, 0.0),
    ("(1", [1], 1, 0.0),
    ("1/0", [1, 0], 1, 0.0),
    ("(-8)**(1/3)", [8, 1, 3], 2, 0.0),  # a complex number
    ("9**9**9", [9, 9, 9], 1, 0.0),
    ("1+2=3", [1, 2, 3], 3, 0.0),
    ("７", [7], 7, 0.0),
    ("1_0", [1, 0], 10, 0.0),
    ("x", [], 1, 0.0),
]


@pytest.mark.parametrize(("name", "completion", "columns", "value"), TABLE)
def test_a_tutorial_reward_gives_its_own_value(
    name: str, completion: str, columns: dict[str, Any], value: Any
) -> None:
    assert called(name, completion, **columns) == (pytest.approx(value, abs=1e-9) if type(value) is float else value)


@pytest.mark.parametrize(("equation", "nums", "target", "value"), EQUATIONS)
def test_an_equation_is_worth_what_python_makes_of_it(
    equation: str, nums: list[int], target: float, value: float
) -> None:
    completion = f"t</think>\n<answer> {equation} </answer>"
    assert called("equation_reward_func", completion, target=target, nums=nums) == value


def test_the_first_answer_on_one_line_is_the_equation() -> None:
    broken = "<answer>1\n+2</answer>"
    assert called("equation_reward_func", broken, target=3, nums=[1, 2]) == 0.0
    assert called("equation_reward_func", broken + "<answer>1+2</answer>", target=3, nums=[1, 2]) == 1.0
    assert called("equation_reward_func", "<answer>1</answer><answer>1+2</answer>", target=3, nums=[1, 2]) == 0.0


@pytest.mark.parametrize(
    "equation",
    ["9**9**9", "(" * 900, "-" * 900 + "1", "(" * 450 + ")" * 450, "2**" * 300 + "2", "1" * 10_000, "(" * 10**6],
)
def test_a_hostile_equation_is_worth_nothing_and_takes_no_time(equation: str) -> None:
    nums = [int(n) for n in re.findall("[0-9]+", equation) if len(n) < 1000]
    start = time.perf_counter()
    assert called("equation_reward_func", f"<answer>{equation}</answer>", target=1, nums=nums) == 0.0
    assert time.perf_counter() - start < 1.0


SOFT = re.compile(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>")
THINK_ANSWER = re.compile(r"^<think>.*?</think><answer>.*?</answer>$")
PIECES = {
    "soft_format_reward_func": [
        "<reasoning>",
        "</reasoning>",
        "<answer>",
        "</answer>",
        "\n",
        " ",
        "\u2028",
        "a",
        "<",
    ],
    "think_answer_format_reward": ["<think>", "</think>", "<answer>", "</answer>", "</think><answer>", "\n", "a"],
}


@pytest.mark.parametrize(("name", "pattern"), list(zip(PIECES, (SOFT, THINK_ANSWER), strict=True)))
def test_a_linear_format_reward_agrees_with_the_tutorials_pattern(name: str, pattern: re.Pattern[str]) -> None:
    dice, found = random.Random(0), 0
    for _ in range(60_000):
        text = PIECES[name][0] * dice.choice((0, 1, 1, 1)) + "".join(dice.choices(PIECES[name], k=dice.randint(0, 9)))
        text += dice.choice(("", "</answer>", "</answer>\n"))
        matched = pattern.match(text) is not None
        assert (called(name, text) > 0) is matched, text
        found += matched
    assert found > 1000, "too few of the texts have the format"


@pytest.mark.parametrize(
    ("name", "hostile"),
    [
        ("soft_format_reward_func", "<reasoning>" + "</reasoning><answer>" * 50_000),
        ("soft_format_reward_func", "<reasoning>" + "</reasoning> " * 50_000),
        ("soft_format_reward_func", "<reasoning>" + "</reasoning>" + " " * 500_000 + "\n" * 500_000),
        ("think_answer_format_reward", "<think>" + "</think><answer>" * 60_000),
        ("think_answer_format_reward", "<think>" * 100_000 + "</answer>"),
    ],
)
def test_a_format_reward_takes_linear_time(name: str, hostile: str) -> None:
    start = time.perf_counter()
    assert called(name, hostile) == 0.0
    assert time.perf_counter() - start < 0.5


def test_messages_are_worth_the_same_as_their_text() -> None:
    for name, completion, columns, value in TABLE:
        if not name.startswith("extract_"):
            assert called(name, in_chat(completion), **columns) == pytest.approx(value, abs=1e-9)


def test_a_completion_that_is_no_text_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="must be text or a list of messages"):
        tutorials.reward_len(completions=[[]])
    with pytest.raises(ValueError, match="must be text or a list of messages"):
        tutorials.reward_len(completions=[[{"role": "assistant"}]])


def test_the_first_question_is_logged_with_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "6 times 12?"}]
    with caplog.at_level(logging.INFO, logger="dunwu.rewards"):
        tutorials.correctness_reward_func(prompts=[prompt], completions=[in_chat(GOOD)], answer=["71"])
    assert caplog.messages == [
        f"{'-' * 20} Question:\n6 times 12?\nAnswer:\n71\nResponse:\n{GOOD}\nExtracted:\n72",
    ]


def test_no_module_of_the_package_executes_text() -> None:
    for path in Path(tutorials.__file__).parent.glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        assert not [n.id for n in nodes if isinstance(n, ast.Name) and n.id in ("eval", "exec", "compile")], path


@pytest.mark.skipif(not GOLDEN.is_file(), reason="shared/golden/tutorial_rewards.jsonl is not beside this checkout")
def test_every_row_of_the_shared_golden_file_comes_out() -> None:
    rows = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
    wrong = []
    for row in rows:
        got = called(row["function"], row["completion"], **{key: row[key] for key in COLUMNS if key in row})
        numeric = isinstance(row["value"], int | float)
        if abs(got - row["value"]) > 1e-9 if numeric else got != row["value"]:
            wrong.append((row["function"], row["completion"], got, row["value"]))
    assert len(rows) > 5000 and not wrong
