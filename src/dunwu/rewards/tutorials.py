"""The tutorials' own rewards, value for value, defects included.

Every reward of the four tutorials (T1 and T2: the GSM8K course and its notebook; T3: Datawhale-R1 on Countdown; T4:
the trainer explained) under its own name, so that an old script scores as it always did. They are not what we
recommend: each has a repaired twin in `formats`, `numbers`, `countdown` or `text`.

Differences that change no value: nothing is executed (T3 called `eval`; here an expression is read by the
interpreter's parser and computed by a bounded calculator), no file is written (T3 kept one completion in ten), what
T1 printed goes to the logger `dunwu.rewards` at level INFO, and two patterns that take quadratic time are replaced by
functions that find the same in linear time. A completion may be text or messages.
"""

from __future__ import annotations

import ast
import logging
import operator
import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

from dunwu.rewards.formats import Completions, completion_text

__all__ = [
    "boxed_reward",
    "correctness_reward_func",
    "equation_reward_func",
    "extract_hash_answer",
    "extract_xml_answer",
    "format_reward_func",
    "int_reward_func",
    "reward_len",
    "reward_longer",
    "soft_format_reward_func",
    "strict_format_reward_func",
    "think_answer_format_reward",
    "thought_len_reward_func",
    "xmlcount_reward_func",
]

_logger = logging.getLogger("dunwu.rewards")

_STRICT = re.compile(r"^<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$")
_SOFT_JOINT = re.compile(r"</reasoning>\s*<answer>")
_R1_FORMAT = re.compile(r"^<think>([^<]*(?:<(?!/?think>)[^<]*)*)<\/think>\n<answer>([\s\S]*?)<\/answer>$", re.DOTALL)
_ALLOWED = re.compile(r"^[\d+\-*/().\s]+$")

_MAX_CHARACTERS = 1_000
_MAX_DEPTH = 200
_MAX_BITS = 100_000


def extract_xml_answer(text: str) -> str:
    """T1: what follows the last `<answer>`, up to the next `</answer>`, stripped; without tags the whole text."""
    return text.split("<answer>")[-1].split("</answer>")[0].strip()


def extract_hash_answer(text: str) -> str | None:
    """T1: what stands after the first `####` (and before a second), stripped; None where there is none."""
    return text.split("####")[1].strip() if "####" in text else None


def correctness_reward_func(
    prompts: Completions, completions: Completions, answer: Sequence[str | None], **columns: object
) -> list[float]:
    """T1: 2.0 where the extracted answer is the gold string, else 0.0. Logs the first question with its response."""
    responses = [completion_text(c) for c in completions]
    extracted = [extract_xml_answer(text) for text in responses]
    if responses and _logger.isEnabledFor(logging.INFO):
        question = prompts[0] if isinstance(prompts[0], str) else prompts[0][-1]["content"]
        line = "-" * 20
        _logger.info(
            "%s Question:\n%s\nAnswer:\n%s\nResponse:\n%s\nExtracted:\n%s",
            *(line, question, answer[0], responses[0], extracted[0]),
        )
    return [2.0 if got == gold else 0.0 for got, gold in zip(extracted, answer, strict=True)]


def int_reward_func(completions: Completions, **columns: object) -> list[float]:
    """T1: 0.5 where the extracted answer `.isdigit()`, else 0.0."""
    return [0.5 if extract_xml_answer(completion_text(c)).isdigit() else 0.0 for c in completions]


def strict_format_reward_func(completions: Completions, **columns: object) -> list[float]:
    """T1: 0.5 for the tags on lines of their own around one line each, else 0.0 (no DOTALL)."""
    return [0.5 if _STRICT.match(completion_text(c)) else 0.0 for c in completions]


def soft_format_reward_func(completions: Completions, **columns: object) -> list[float]:
    """T1: 0.5 where the text starts with both pairs of tags around one line each, else 0.0 (no DOTALL)."""
    return [0.5 if _is_soft_format(completion_text(c)) else 0.0 for c in completions]


def xmlcount_reward_func(completions: Completions, **columns: object) -> list[float]:
    """T1: 0.125 for each of four tags that stands once on its line, −0.001 a character after the answer."""
    return [_count_xml(completion_text(c)) for c in completions]


def format_reward_func(completions: Completions, **columns: object) -> list[float]:
    """T3: 1.0 where `<think>` + completion is `<think>…</think>`, a line break, `<answer>…</answer>`, else 0.0."""
    return [1.0 if _R1_FORMAT.search("<think>" + completion_text(c)) else 0.0 for c in completions]


def equation_reward_func(
    completions: Completions, target: Sequence[float | str], nums: Sequence[Sequence[int]], **columns: object
) -> list[float]:
    """T3: 1.0 where the first one-line answer uses the numbers and comes within 1e-5 of the target, else 0.0.

    The value is that of Python's own arithmetic (`//`, `**`, decimals and signs included), computed without
    `eval`. It differs from the tutorial's only where that one does not return or the text is absurd (over 1,000
    characters, over 200 levels deep, numbers over 100,000 bits): then it is 0.0.
    """
    rows = zip(completions, target, nums, strict=True)
    return [_equation(completion_text(c), gold, numbers) for c, gold, numbers in rows]


def thought_len_reward_func(completions: Completions, **columns: object) -> list[float]:
    """T3: 1.0 where the first one-line `<think>…</think>` has over 1,000 characters after strip, else 0.0."""
    thoughts = [_on_one_line("<think>" + completion_text(c), "<think>", "</think>") for c in completions]
    return [1.0 if t is not None and len(t.strip()) > 1000 else 0.0 for t in thoughts]


def reward_len(completions: Completions, **columns: object) -> list[float]:
    """T4: |20 − number of characters| (so it rewards the distance from 20)."""
    return [float(abs(20 - len(completion_text(c)))) for c in completions]


def reward_longer(completions: Completions, **columns: object) -> list[float]:
    """T4: the number of characters."""
    return [float(len(completion_text(c))) for c in completions]


def think_answer_format_reward(completions: Completions, **columns: object) -> list[float]:
    """T4: 1.0 where the text is `<think>…</think><answer>…</answer>` on one line, else 0.0."""
    return [1.0 if _is_think_answer(completion_text(c)) else 0.0 for c in completions]


def boxed_reward(completions: Completions, ground_truth: Sequence[str], **columns: object) -> list[float]:
    """T4: 1.0 where the first `\\boxed{…}`, up to its first `}` (none: ""), is the ground truth, else 0.0."""
    contents = [_on_one_line(completion_text(c), "\\boxed{", "}") or "" for c in completions]
    return [1.0 if got == gold else 0.0 for got, gold in zip(contents, ground_truth, strict=True)]


def _count_xml(text: str) -> float:
    count = 0.125 * sum(text.count(tag) == 1 for tag in ("<reasoning>\n", "\n</reasoning>\n"))
    if text.count("\n<answer>\n") == 1:
        count += 0.125 - 0.001 * len(text.split("\n</answer>\n")[-1])
    if text.count("\n</answer>") == 1:
        count += 0.125 - 0.001 * (len(text.split("\n</answer>")[-1]) - 1)
    return count


def _is_soft_format(text: str) -> bool:
    """What `re.match(r"<reasoning>.*?</reasoning>\\s*<answer>.*?</answer>", text)` finds, in linear time."""
    start = len("<reasoning>")
    line_end = _line_end(text, start)
    last_close = text.rfind("</answer>", start, line_end)
    for joint in _SOFT_JOINT.finditer(text, start) if text.startswith("<reasoning>") else ():
        if joint.start() > line_end:
            return False
        if joint.end() > line_end:  # the white space contained a line break: the answer is on a line of its own
            return text.find("</answer>", joint.end(), _line_end(text, joint.end())) >= 0
        if joint.end() <= last_close:
            return True
    return False


def _is_think_answer(text: str) -> bool:
    """What `re.match(r"^<think>.*?</think><answer>.*?</answer>$", text)` finds, in linear time."""
    line = text.removesuffix("\n")
    joint = line.find("</think><answer>", len("<think>"))
    answer = joint + len("</think><answer>")
    framed = line.startswith("<think>") and line.endswith("</answer>") and "\n" not in line
    return framed and joint >= 0 and answer <= len(line) - len("</answer>")


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return end if end >= 0 else len(text)


def _on_one_line(text: str, opening: str, closing: str) -> str | None:
    """What the pattern `opening(.*?)closing` finds first without DOTALL, in linear time."""
    for line in text.split("\n"):
        _, opened, rest = line.partition(opening)
        inside, closed, _ = rest.partition(closing)
        if opened and closed:
            return inside
    return None


def _equation(text: str, target: float | str, nums: Sequence[int]) -> float:
    inside = _on_one_line("<think>" + text, "<answer>", "</answer>")
    if inside is None:
        return 0.0
    equation = inside.strip()
    try:
        used = [int(digits) for digits in re.findall(r"\d+", equation)]
        if sorted(used) != sorted(nums) or not _ALLOWED.match(equation):
            return 0.0
        return 1.0 if abs(float(_calculate(equation)) - float(target)) < 1e-5 else 0.0
    except (ArithmeticError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return 0.0  # the tutorial gives 0 for any exception; these are all that this code can meet


Number: TypeAlias = int | float


def _calculate(expression: str) -> Number:
    """The value Python gives to an expression of digits, signs and parentheses; an error where it gives none."""
    short = re.sub(r"[ \t]+", " ", expression)
    if len(short) > _MAX_CHARACTERS:
        raise ValueError(f"over {_MAX_CHARACTERS} characters")
    return _number(ast.parse(short, mode="eval").body, depth=0)


def _number(node: ast.expr, depth: int) -> Number:
    if depth > _MAX_DEPTH:
        raise ValueError(f"over {_MAX_DEPTH} levels")
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            value = _number(operand, depth + 1)
            return -value if isinstance(sign, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _bounded(_OPERATORS[type(op)](_number(left, depth + 1), _number(right, depth + 1)))
    raise TypeError(f"{type(node).__name__} has no number")  # `2(3)`, `()`, `...`: never a number in Python either


def _power(base: Number, exponent: Number) -> object:
    whole = isinstance(base, int) and isinstance(exponent, int) and exponent > 0
    if whole and abs(base) > 1 and int(base).bit_length() * exponent > _MAX_BITS:
        raise OverflowError(f"over {_MAX_BITS} bits")
    return base**exponent


def _bounded(value: object) -> Number:
    if isinstance(value, complex):
        raise TypeError("a complex number cannot be compared with the target")
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise OverflowError(f"over {_MAX_BITS} bits")
    assert isinstance(value, int | float)
    return value


_OPERATORS: dict[type[ast.operator], Callable[[Number, Number], object]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: _power,
}
