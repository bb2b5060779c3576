"""Countdown: does an expression use the given numbers, each once, and reach the target?

A tokenizer and a two-stack evaluator over exact fractions, for `+ - − * × / ÷`, parentheses and plain integers. It is
not Python: `**`, `//`, decimals, signs in front of a number, names and `2(3)` are no expressions here. It answers
within 10 ms on any input of any length: too long is wrong.

    >>> solves("(1 + 2) / 3", [1, 2, 3], 1)
    True
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from numbers import Real

from dunwu.errors import DataError
from dunwu.rewards.formats import Completions, answer_in_tags, completion_text
from dunwu.rewards.text import thought

__all__ = ["equation_solves", "evaluate_expression", "solves", "trials_right_and_new"]

MAX_CHARACTERS = 400
"""Longest expression that is read: 100 numbers of two digits with their signs and spaces."""

_MAX_DIGITS = 12
_TOKEN = re.compile(r"\s*(?:(0|[1-9][0-9]*)(?![0-9])|([-−+*×/÷()]))")
_SIGNS = {"−": "-", "×": "*", "÷": "/"}
_VERDICT = re.compile(r" (yes|no)[ .]*$")
_RANK = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2}
_APPLY: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


def solves(expression: str, nums: Sequence[int], target: float) -> bool:
    """Whether `expression` uses every number of `nums` exactly once and nothing else, and equals `target` exactly.

    Raises:
        DataError: where `nums` or `target` are no numbers (a text "24" would never be equal to any value).
    """
    if not all(isinstance(given, Real) for given in (*nums, target)):
        raise DataError(
            f"nums and target must be numbers, got nums={nums!r:.99}, target={target!r:.50}; convert them"
        )
    tokens = _tokens(expression)
    if tokens is None or sorted(t for t in tokens if isinstance(t, int)) != sorted(nums):
        return False
    value = _value(tokens)
    return value is not None and value == target


def evaluate_expression(expression: str) -> Fraction | None:
    """The exact value of `expression`; None where it is not one (or divides by zero)."""
    tokens = _tokens(expression)
    return None if tokens is None else _value(tokens)


def equation_solves(
    completions: Completions, nums: Sequence[Sequence[int]], target: Sequence[float], **columns: object
) -> list[float]:
    """1.0 where the last `<answer>…</answer>` solves the row (`solves`), else 0.0.

    Repairs `equation_reward_func` (T3): `eval` of what a model wrote (`9**9**9` never returns), `1.5` counted as 1
    and 5, `//` and `**` let through, values only nearly equal accepted, and answers of two lines not found.
    """
    answers = [answer_in_tags(completion_text(c)) for c in completions]
    rows = zip(answers, nums, target, strict=True)
    return [float(answer is not None and solves(answer, n, t)) for answer, n, t in rows]


def trials_right_and_new(
    completions: Completions, nums: Sequence[Sequence[int]], target: Sequence[float], **columns: object
) -> list[float]:
    """Share of the thought's lines that are right trials not made before in it, 0 to 1; 0.0 without a line.

    A right trial, `17-14=3, 17*3=51 yes`, comes from the row's numbers (each once, or a result of before) to a single
    one, in right steps, and its verdict, where it has one, is true. A line that the token limit cut is left out.

    Beside `thought_lines_differ` it closes a way out: a wrong calculation is always a new line.
    """
    rows = zip(completions, nums, target, strict=True)
    return [_share_right_and_new(_finished_lines(completion_text(c)), n, t) for c, n, t in rows]


def _finished_lines(text: str) -> list[str]:
    said = thought(text)
    lines = (thought(text + "</think>") or "").split("\n")[:-1] if said is None else said.split("\n")
    return [line.strip() for line in lines if line.strip()]


def _share_right_and_new(lines: Sequence[str], nums: Sequence[int], target: float) -> float:
    right = sum(_trial_is_right(line, nums, target) for line in set(lines))
    return right / len(lines) if lines else 0.0


def _trial_is_right(line: str, nums: Sequence[int], target: float) -> bool:
    """Each step takes its numbers from the table and puts its result there; one is left, as the verdict says."""
    verdict = _VERDICT.search(line)
    table, last = list[float | Fraction](nums), Fraction(0)
    for step in line[: verdict.start() if verdict else None].split(","):
        left, equals, right = step.partition("=")
        tokens, made = _tokens(left), evaluate_expression(right)
        used = [token for token in tokens or () if isinstance(token, int)]
        if tokens is None or not equals or made is None or _value(tokens) != made:
            return False
        for number in used:
            if number not in table:
                return False
            table.remove(number)
        table.append(made)
        last = made
    return len(table) == 1 and (verdict is None or (verdict[1] == "yes") is (last == target))


def _tokens(expression: str) -> list[int | str] | None:
    """Integers and signs in order; None for anything else in the text."""
    if len(expression) > MAX_CHARACTERS:
        return None
    text, position, tokens = expression.strip(), 0, list[int | str]()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(match[1] or "") > _MAX_DIGITS:
            return None
        tokens.append(int(match[1]) if match[1] else _SIGNS.get(match[2], match[2]))
        position = match.end()
    return tokens


def _value(tokens: list[int | str]) -> Fraction | None:
    """Two stacks, values and signs; `operand` is whether a number or an opening parenthesis must come next."""
    values, signs, operand = list[Fraction](), list[str](), True
    for token in tokens:
        if operand is not (isinstance(token, int) or token == "("):
            return None
        if isinstance(token, int):
            values.append(Fraction(token))
        elif token == "(":
            signs.append(token)
        elif not _fold(values, signs, token):
            return None
        operand = token in _APPLY or token == "("
    return values[0] if not operand and _fold(values, signs, "end") else None


def _fold(values: list[Fraction], signs: list[str], token: str) -> bool:
    """Apply the signs that bind at least as tightly as `token`, then take it in; False where that cannot be done."""
    rank = _RANK.get(token, 1)
    while signs and _RANK[signs[-1]] >= rank:
        right = values.pop()
        sign = signs.pop()
        if sign == "/" and right == 0:
            return False
        values[-1] = _APPLY[sign](values[-1], right)
    if token == ")":
        return bool(signs) and signs.pop() == "("
    if token in _APPLY:
        signs.append(token)
        return True
    return not signs
