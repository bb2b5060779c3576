"""The repaired rewards: numbers as numbers (property 24), Countdown exactly (property 25), formats of many lines."""

import functools
import time
from fractions import Fraction

import pytest

from dunwu import rewards
from dunwu.rewards import countdown, formats, numbers, text


@pytest.mark.parametrize(
    "written", ["72", "72.0", "$72.00", " 72 ", "72.", "**72**", "**72**.", "`72`", "+72", "$72$"]
)
def test_seventy_two_is_seventy_two_however_it_is_written(written: str) -> None:
    assert numbers.numbers_equal(written, "72")
    assert numbers.strict_correct(f"<answer>{written}</answer>", "72")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1,450", 1450),
        ("1,450.50", Fraction(2901, 2)),
        ("-5", -5),
        ("−5", -5),
        ("-$5", -5),
        ("$-5", -5),
        (r"\$5", 5),
        (r"\boxed{5}", 5),
        (".5", Fraction(1, 2)),
        ("50 %", 50),
        ("50%", 50),
        (r"50\%", 50),
        ("0.1", Fraction(1, 10)),
    ],
)
def test_a_number_is_read_exactly(written: str, value: Fraction) -> None:
    assert numbers.parse_number(written) == value


@pytest.mark.parametrize(
    "written",
    [
        "7 2",
        "72x",
        "x72",
        "1,45",
        "1,2345",
        "1.2.3",
        "--5",
        "-$-5",
        "²",
        "７２",
        "",
        "-",
        "1/2",
        "1e3",
        "72 72",
        "9" * 65,
    ],
)
def test_what_is_not_one_number_is_none(written: str) -> None:
    assert numbers.parse_number(written) is None


def test_fifty_percent_is_not_a_half() -> None:
    assert not numbers.numbers_equal("50 %", "0.5")
    assert not numbers.numbers_equal("50%", 0.5)


def test_a_float_means_the_decimal_it_prints() -> None:
    assert numbers.numbers_equal("0.1", 0.1)
    assert numbers.numbers_equal(1e-9, "0.000000001")
    assert not numbers.numbers_equal(float("nan"), float("nan"))


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("48/2 = 24. The answer is 72.", 72),
        ("so 10-3=7", 7),
        ("so x is 10-3", 3),
        ("so x is (10)-3", 3),
        ("it is -3", -3),
        ("a debt of -$3", -3),
        ("costs $1,450.50!", Fraction(2901, 2)),
        ("答案是72个", 72),
        ("72x", None),
        ("first 5, then 72x", 5),
        ("1.2.3", None),
        ("nothing", None),
        ("...72", 72),
    ],
)
def test_the_last_number_of_a_text_is_found(said: str, value: Fraction | None) -> None:
    assert numbers.last_number(said) == value


def test_strict_needs_the_tags_and_lenient_does_not() -> None:
    bare, dressed = "It is 72.", "<answer>72</answer> for 5 apples"
    assert not numbers.strict_correct(bare, "72") and numbers.lenient_correct(bare, "72")
    assert numbers.strict_correct(dressed, "72") and numbers.lenient_correct(dressed, "72")
    assert not numbers.strict_correct("<answer>72", "72"), "an answer that was never closed is no answer"
    assert not numbers.strict_correct("<answer>72 apples</answer>", "72")


def test_number_rewards_return_none_where_the_gold_answer_is_no_number() -> None:
    said = ["<answer>72.0</answer>", "it is 72", "<answer>7</answer>", "<answer>7</answer>"]
    gold = ["72", "72", "unknown", None]
    assert rewards.number_matches(said, answer=gold) == [1.0, 0.0, None, None]
    assert rewards.number_matches_anywhere(said, answer=gold) == [1.0, 1.0, None, None]
    assert rewards.answer_is_number(["<answer>-3.5</answer>", "<answer>²</answer>", "3"]) == [0.5, 0.0, 0.0]


@pytest.mark.parametrize(
    ("expression", "nums", "target"),
    [
        ("(1 + 2) / 3", [1, 2, 3], 1),
        ("44 + 19 + 35", [44, 19, 35], 98),
        ("8 / (3 - 8 / 3)", [8, 3, 8, 3], 24),  # only exact fractions give 24
        ("10 × 5 ÷ 2 − 1", [10, 5, 2, 1], 24),
        ("10-5-2", [2, 5, 10], 3),
        ("16/4/2", [16, 4, 2], 2),
        ("1+2*3", [1, 2, 3], 7),
        ("((((1))))+2", [1, 2], 3),
        ("0*7", [0, 7], 0),
        ("1/3", [1, 3], Fraction(1, 3)),
        ("1-\n2", [1, 2], -1),
    ],
)
def test_a_right_expression_solves(expression: str, nums: list[int], target: float) -> None:
    assert countdown.solves(expression, nums, target)


@pytest.mark.parametrize(
    ("expression", "nums", "target"),
    [
        ("2**3", [2, 3], 8),
        ("7//2", [7, 2], 3),
        ("1.5*2", [1, 5, 2], 3),
        ("-1+2", [1, 2], 1),
        ("(-1)+2", [1, 2], 1),
        ("1--2", [1, 2], 3),
        ("1-+2", [1, 2], -1),
        ("+1", [1], 1),
        ("2(3)", [2, 3], 6),
        ("(2)(3)", [2, 3], 6),
        ("(2)3", [2, 3], 6),
        ("1 2", [1, 2], 12),
        ("007", [7], 7),
        ("1+", [1], 1),
        ("*1", [1], 1),
        ("()", [], 0),
        ("()+1", [1], 1),
        ("(1", [1], 1),
        ("1)", [1], 1),
        (")1(", [1], 1),
        ("", [], 0),
        ("1/0", [1, 0], 1),
        ("1/(2-2)", [1, 2, 2], 1),
        ("10+10", [10], 20),  # used twice
        ("10", [10, 5], 10),  # one not used
        ("1/3", [1, 3], 0.333333),  # nearly is not equal
        ("1+2=3", [1, 2, 3], 3),
        ("a+1", [1], 1),
        ("９", [9], 9),
        ("1_0", [10], 10),
        ("1+2;", [1, 2], 3),
    ],
)
def test_a_wrong_expression_or_a_trick_does_not_solve(expression: str, nums: list[int], target: float) -> None:
    assert not countdown.solves(expression, nums, target)


@pytest.mark.parametrize(
    "expression",
    [
        "(" * 10**7,
        "9**9**9",
        "1+" * 10**6 + "1",
        " " * 10**7,
        "(" * 199 + "1" + ")" * 199,
        "/".join(["999999999989"] * 30),
        "1/" * 199 + "1",
        "9" * 10**7,
    ],
)
def test_countdown_answers_within_ten_milliseconds_on_any_input(expression: str) -> None:
    nums = [int(n) for n in expression.split("/")] if "/" in expression else [1, 2]
    took = []
    for _ in range(3):  # the best of three: another process may hold the processor for a moment
        start = time.perf_counter()
        countdown.solves(expression, nums, 1)
        countdown.equation_solves([f"<answer>{expression}</answer>"[-200_000:]], [nums], [1])
        took.append(time.perf_counter() - start)
    assert min(took) < 0.010


def test_countdown_takes_the_last_answer_even_of_two_lines() -> None:
    said = "<think>t</think>\n<answer>1</answer> no: <answer>\n1 +\n2\n</answer>"
    assert rewards.equation_solves([said, "1+2", "<answer>1+2"], [[1, 2]] * 3, [3] * 3) == [1.0, 0.0, 0.0]


def test_countdown_refuses_a_target_that_is_text() -> None:
    with pytest.raises(ValueError, match="must be numbers"):
        countdown.solves("1+2", [1, 2], "3")  # type: ignore[arg-type]


def test_the_value_of_an_expression_is_exact() -> None:
    assert countdown.evaluate_expression("1/3+1/6") == Fraction(1, 2)
    assert countdown.evaluate_expression("1/0") is None


MANY_LINES = "<reasoning>\na\nb\n</reasoning>\n<answer>\n72\n</answer>\n"


@pytest.mark.parametrize(
    ("said", "value"),
    [
        (MANY_LINES, 1.0),
        (" <reasoning>a</reasoning><answer>1</answer> ", 1.0),
        ("<reasoning></reasoning><answer>1</answer>", 0.0),  # nothing in it
        ("<reasoning>a</reasoning><answer> </answer>", 0.0),
        (MANY_LINES + "and more", 0.0),
        ("so " + MANY_LINES, 0.0),
        (MANY_LINES * 2, 0.0),
        ("<answer>1</answer><reasoning>a</reasoning>", 0.0),
        ("<reasoning>a<answer></reasoning>1</answer>", 0.0),
        ("", 0.0),
    ],
)
def test_the_format_reward_reads_many_lines_and_wants_each_tag_once(said: str, value: float) -> None:
    assert rewards.reasoning_answer_format([said]) == [value]


def test_a_prefilled_opening_tag_is_put_back() -> None:
    said = "a\nb</think>\n\n<answer>1</answer>"
    assert rewards.think_answer_format_prefilled([said, "<think>" + said]) == [1.0, 0.0]
    assert rewards.think_answer_format([said, "<think>" + said]) == [0.0, 1.0]
    assert rewards.think_answer_tags_prefilled([said, "a</think>", "a"]) == [1.0, 0.5, 0.25]
    assert rewards.think_answer_tags(["<think>" + said, said]) == [1.0, 0.75]


def test_the_tag_count_does_not_punish_what_follows_and_wants_the_order() -> None:
    rambling = MANY_LINES.rstrip() + " because " * 1000
    assert rewards.reasoning_answer_tags([MANY_LINES, rambling, "none", ""]) == [1.0, 1.0, 0.0, 0.0]
    assert formats.tag_share("</answer><answer></reasoning><reasoning>") == 0.25
    assert formats.tag_share("<answer><answer>") == 0.0


def test_the_last_complete_answer_is_read_and_only_near_the_end() -> None:
    assert formats.answer_in_tags("<answer>1</answer><answer> 2 </answer><answer>3") == "2"
    assert formats.answer_in_tags("1</answer>") is None
    assert formats.answer_in_tags("<answer>1</answer>" + " " * 200_000) is None


def test_the_length_reward_is_best_at_its_length() -> None:
    assert rewards.length_near(["x" * 20, "x" * 23, ""]) == [0.0, -3.0, -20.0]
    assert functools.partial(rewards.length_near, characters=2)(["xy"]) == [0.0]


def test_a_long_thought_may_have_many_lines() -> None:
    lines = "a\n" * 600
    said = [f"<think>{lines}</think>", f"{lines}</think>", f"<think>{lines}", "<think>a</think>" + lines]
    assert rewards.thought_is_long(said) == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("said", "inside"),
    [
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{1} then \boxed{2", "1"),
        (r"\boxed{1 and \boxed{2}", "2"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{}", ""),
        ("none } {", None),
    ],
)
def test_the_last_complete_box_is_read_with_its_braces(said: str, inside: str | None) -> None:
    assert text.boxed_answer(said) == inside


def test_a_box_is_compared_as_a_number_where_it_is_one() -> None:
    said = [r"\boxed{2.0}", r"\boxed{\frac{1}{2}}", "none", r"\boxed{1}", r"\boxed{3}"]
    truth = ["2", r"\frac{1}{2}", "", None, 4]
    assert rewards.boxed_answer_matches(said, ground_truth=truth) == [1.0, 1.0, 0.0, None, 0.0]


def test_repeated_lines_of_a_thought_lower_the_share_of_new_ones() -> None:
    said = [
        "<think>1+2=3 no\n1+3=4 no\n1+2=3 no\n1+2=3 no\n</think>\n<answer>1+2</answer>",
        "<think>1+2=3 yes\n</think>\n<answer>1+2</answer>",
        "1+2=3 no\n\n 1+2=3 no\n2+2",  # a prefilled tag, and cut off: two of three lines are new
        "<think></think><answer>3</answer>",
    ]
    assert rewards.thought_lines_differ(said) == [0.5, 1.0, pytest.approx(2 / 3), 0.0]
