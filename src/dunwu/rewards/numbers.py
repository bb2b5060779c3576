"""Numbers compared as numbers, and the rewards and grades built on it (GSM8K and similar tasks).

72 = 72.0 = $72.00 = **72**, and 1,450 = 1450; exact, by fractions. There is no algebra and there are no units: `72x`,
`7 2` and `72 apples` are no numbers here. A percent sign is taken for a unit: 50 % is 50, never 0.5.

    >>> strict_correct("<answer>$1,450.00</answer>", "1450"), lenient_correct("It is 72.", "72")
    (True, True)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from dunwu.rewards.formats import Completions, answer_in_tags, completion_text

__all__ = [
    "answer_is_number",
    "last_number",
    "lenient_correct",
    "number_matches",
    "number_matches_anywhere",
    "numbers_equal",
    "parse_number",
    "strict_correct",
]

Gold = str | int | float
"""A gold answer as datasets give it."""

_LONGEST = 64
"""Characters a number may have: longer ones are no answer, and would cost time."""

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|(?<!\.)\.[0-9]+)"
_SIGNED = rf"[-−+]?\\?[$€£¥￥]?[-−]?{_DIGITS}"
_NUMBER = re.compile(rf"(?![-−+]\\?[$€£¥￥]?[-−])({_SIGNED})\s*\\?%?")
# In running text: not glued to ASCII letters or further digits ("72x", "v2", "1.2.3"), but Chinese may touch it;
# a sign after a letter, a digit or ")" is an operator ("10-3").
_IN_TEXT = re.compile(
    rf"(?<![A-Za-z0-9_])(?<![0-9][.,])((?:(?<!\))[-−+])?\\?[$€£¥￥]?{_DIGITS})(?![A-Za-z0-9_])(?![.,][0-9])"
)
_MARKUP = " \t\r\n*_`"
_WRAPPER = re.compile(r"\\boxed\{([^{}]*)\}|\$([^$]*)\$|\\\(([^()]*)\\\)")


def parse_number(text: str) -> Fraction | None:
    """The number that `text` is, exactly; None where it is anything else or anything more.

    Read: a sign (- + −), thousands commas in their places, decimals, one currency sign, a percent sign as a unit, a
    final full stop, Markdown emphasis, `\\boxed{}` and `$…$` around it. Not read: words, fractions, exponents,
    digits of other scripts, numbers of more than 64 characters.
    """
    bare = _without_markup(text)
    match = _NUMBER.fullmatch(bare) if len(bare) <= _LONGEST else None
    return _fraction(match[1]) if match else None


def last_number(text: str) -> Fraction | None:
    """The last number anywhere in `text`, exactly; None where there is none."""
    found = None
    for match in _IN_TEXT.finditer(text):
        found = match[1]
    return _fraction(found) if found and len(found) <= _LONGEST else None


def numbers_equal(a: Gold, b: Gold) -> bool:
    """Whether both are numbers (`parse_number`) and the same one."""
    left = _gold(a)
    return left is not None and left == _gold(b)


def strict_correct(text: str, gold: Gold) -> bool:
    """Whether the last `<answer>…</answer>` of `text` contains the gold number and nothing else."""
    answer = answer_in_tags(text)
    return answer is not None and numbers_equal(answer, gold)


def lenient_correct(text: str, gold: Gold) -> bool:
    """Whether the last number anywhere in `text` is the gold number, or `strict_correct` is true."""
    wanted = _gold(gold)
    return wanted is not None and (last_number(text) == wanted or strict_correct(text, gold))


def number_matches(completions: Completions, answer: Sequence[Gold | None], **columns: object) -> list[float | None]:
    """1.0 where the number in the answer tags equals column `answer` as a number, else 0.0.

    None where the gold answer is no number. Repairs `correctness_reward_func` (T1), which compares strings: "72.0",
    "$72" and "1,450" fail there.
    """
    pairs = zip(completions, answer, strict=True)
    return [_score(strict_correct, completion_text(c), gold) for c, gold in pairs]


def number_matches_anywhere(
    completions: Completions, answer: Sequence[Gold | None], **columns: object
) -> list[float | None]:
    """1.0 where `lenient_correct`, else 0.0; None without a gold number. For models that have no format yet."""
    pairs = zip(completions, answer, strict=True)
    return [_score(lenient_correct, completion_text(c), gold) for c, gold in pairs]


def answer_is_number(completions: Completions, **columns: object) -> list[float]:
    """0.5 where the answer tags contain a number, else 0.0.

    Repairs `int_reward_func` (T1): `isdigit` refuses "-3", "3.5" and "1,000" and lets "²" pass, and a text without
    tags could earn it.
    """
    answers = [answer_in_tags(completion_text(c)) for c in completions]
    return [0.5 if a is not None and parse_number(a) is not None else 0.0 for a in answers]


def _score(correct: Callable[[str, Gold], bool], text: str, gold: Gold | None) -> float | None:
    if gold is None or _gold(gold) is None:
        return None  # a row without a readable gold answer tells nothing about the model
    return float(correct(text, gold))


def _gold(value: Gold) -> Fraction | None:
    if isinstance(value, str):
        return parse_number(value)
    return Fraction(str(value)) if math.isfinite(value) else None  # by str: the float 0.1 means 1/10


def _without_markup(text: str) -> str:
    bare = text.strip(_MARKUP).removesuffix(".").strip(_MARKUP)
    wrapped = _WRAPPER.fullmatch(bare)
    return (wrapped[1] or wrapped[2] or wrapped[3] or "").strip(_MARKUP) if wrapped else bare


def _fraction(number: str) -> Fraction:
    return Fraction(re.sub(r"[,+\\$€£¥￥]", "", number).replace("−", "-"))
