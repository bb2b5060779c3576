"""Rewards on the text as such: its length, its thought, what stands in `\\boxed{}`.

The repaired versions of T4's and T3's text rewards. Lengths are characters, as in the tutorials; give another length
with `functools.partial(length_near, characters=50)`.

    >>> length_near(completions=["x" * 23])
    [-3.0]
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dunwu.rewards.formats import Completions, completion_text
from dunwu.rewards.numbers import numbers_equal

__all__ = [
    "boxed_answer",
    "boxed_answer_matches",
    "length_near",
    "thought",
    "thought_is_long",
    "thought_lines_differ",
]

_BRACE = re.compile(r"\\boxed\{|\\[{}]|[{}]")  # \{ and \} are printed, they do not group


def length_near(completions: Completions, *, characters: int = 20, **columns: object) -> list[float]:
    """Minus the distance of the length from `characters`: 0.0 at best.

    Repairs `reward_len` (T4): as printed there it rewards the *distance*, so the model learns to ramble.
    """
    return [-float(abs(characters - len(completion_text(c)))) for c in completions]


def thought_is_long(completions: Completions, *, characters: int = 1000, **columns: object) -> list[float]:
    """1.0 where the thought has more than `characters` characters after strip, else 0.0.

    Repairs `thought_len_reward_func` (T3), which without DOTALL sees thoughts of one line only. Its authors withdrew
    it, for length is not reasoning: it is here for experiments.
    """
    thoughts = [thought(completion_text(c)) for c in completions]
    return [float(t is not None and len(t.strip()) > characters) for t in thoughts]


def thought_lines_differ(completions: Completions, **columns: object) -> list[float]:
    """Share of the thought's lines that are not repetitions of an earlier line, 0 to 1; 0.0 without a thought.

    A model that is rewarded for its answer alone learns to repeat itself: the thought grows, and half of it is
    written twice. A thought that was cut off counts as far as it goes.
    """
    thoughts = [thought(completion_text(c) + "</think>") or "" for c in completions]  # closes those that were cut off
    lines = [[line.strip() for line in text.splitlines() if line.strip()] for text in thoughts]
    return [len(set(found)) / len(found) if found else 0.0 for found in lines]


def thought(text: str, tags: Sequence[str] = ("think",)) -> str | None:
    """What stands before the first closing tag, after its opening tag; None where none of `tags` is closed.

    A missing opening tag is taken for one that the prompt ended with. The first of `tags` that is closed counts.
    """
    for tag in tags:
        before, closed, _ = text.partition(f"</{tag}>")
        if closed:
            return before.rpartition(f"<{tag}>")[2]
    return None


def boxed_answer_matches(
    completions: Completions, ground_truth: Sequence[str | int | float | None], **columns: object
) -> list[float | None]:
    """1.0 where the last `\\boxed{}` equals column `ground_truth`, as a number where both are; None without one.

    Repairs `boxed_reward` (T4): it stops at the first closing brace (`\\boxed{\\frac{1}{2}}`), takes the first box
    and not the last, compares strings, and pays a text without a box where the ground truth is empty.
    """
    pairs = zip(completions, ground_truth, strict=True)
    return [None if truth is None else _matches(boxed_answer(completion_text(c)), truth) for c, truth in pairs]


def boxed_answer(text: str) -> str | None:
    """What stands in the last complete `\\boxed{…}`, nested braces included, stripped; None where there is none."""
    opened, start, end = list[re.Match[str]](), -1, -1
    for mark in _BRACE.finditer(text):
        if mark[0] in ("{", "\\boxed{"):
            opened.append(mark)
        elif mark[0] == "}" and opened:
            opening = opened.pop()
            if opening[0] != "{" and opening.end() > start:
                start, end = opening.end(), mark.start()
    return text[start:end].strip() if start >= 0 else None


def _matches(answer: str | None, truth: str | int | float) -> float:
    return float(answer is not None and (answer == str(truth).strip() or numbers_equal(answer, truth)))
