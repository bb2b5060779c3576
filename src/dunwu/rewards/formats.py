"""Tags in completions: what stands between them, and rewards for having them.

The readers that all rewards share (`completion_text`, `answer_in_tags`), and repaired versions of the tutorials'
format rewards. Answers themselves are checked in `numbers`, `countdown` and `text`.

    >>> think_answer_format(completions=["<think>2+2\\n= 4</think>\\n<answer>4</answer>"])
    [1.0]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from dunwu.errors import DataError

__all__ = [
    "Completions",
    "answer_in_tags",
    "completion_text",
    "has_format",
    "reasoning_answer_format",
    "reasoning_answer_tags",
    "tag_share",
    "think_answer_format",
    "think_answer_format_prefilled",
    "think_answer_tags",
    "think_answer_tags_prefilled",
]

Completion: TypeAlias = str | Sequence[Mapping[str, str]]
"""One completion: text, or a list of messages."""

Completions: TypeAlias = Sequence[Completion]
"""What a reward function is given: one text, or one list of messages, a row."""

REASONING_ANSWER = ("reasoning", "answer")
THINK_ANSWER = ("think", "answer")

_TAIL = 100_000
"""Characters from the end in which an answer is looked for, so that a text of any length is read quickly."""


def completion_text(completion: Completion) -> str:
    """The text of a completion: itself, or the content of the model's message, its last one after several turns.

    Raises:
        DataError: where it is neither.
    """
    if isinstance(completion, str):
        return completion
    try:
        answers = [message for message in completion if message.get("role", "assistant") == "assistant"]
        content = (answers or completion)[-1]["content"]
    except (AttributeError, IndexError, KeyError, TypeError):
        content = None
    if not isinstance(content, str):
        raise DataError(
            f"a completion must be text or a list of messages like [{{'role': 'assistant', 'content': '…'}}]; "
            f"got {completion!r:.200}. Pass the text that the model wrote"
        )
    return content


def answer_in_tags(text: str, tag: str = "answer") -> str | None:
    """What stands in the last complete `<answer>…</answer>`, stripped; None where there is none.

    Only the last 100,000 characters are read. Repairs `extract_xml_answer`, which takes a text without tags for an
    answer, and an answer that was never closed for a finished one.
    """
    tail = text[-_TAIL:]
    end = tail.rfind(f"</{tag}>")
    start = tail.rfind(f"<{tag}>", 0, max(end, 0))
    return tail[start + len(tag) + 2 : end].strip() if start >= 0 else None


def has_format(text: str, tags: tuple[str, str] = REASONING_ANSWER, *, prefilled: bool = False) -> bool:
    """Whether `text` is `<first>…</first><second>…</second>` and nothing else but white space around them.

    Each tag stands there exactly once and neither part is blank; both may have many lines. `prefilled`: the prompt
    already ends with the first opening tag, so the completion starts after it.
    """
    first, second = tags
    whole = f"<{first}>{text}" if prefilled else text
    if any(whole.count(mark) != 1 for mark in _marks(tags)):
        return False  # also keeps the pattern below linear: it has one way to match
    pattern = rf"\s*<{first}>(.*)</{first}>\s*<{second}>(.*)</{second}>\s*"
    match = re.fullmatch(pattern, whole, re.DOTALL)
    return match is not None and all(part.strip() for part in match.groups())


def tag_share(text: str, tags: tuple[str, str] = REASONING_ANSWER, *, prefilled: bool = False) -> float:
    """Share (0 to 1, steps of 0.25) of the four tags that stand exactly once and after the ones before them."""
    whole = f"<{tags[0]}>{text}" if prefilled else text
    good, position = 0, -1
    for mark in _marks(tags):
        found = whole.find(mark)
        if found > position and whole.find(mark, found + 1) < 0:
            good, position = good + 1, found
    return good / 4


def reasoning_answer_format(completions: Completions, **columns: object) -> list[float]:
    """1.0 where the completion is `<reasoning>…</reasoning><answer>…</answer>`, else 0.0.

    Repairs `strict_format_reward_func` and `soft_format_reward_func` (T1): without DOTALL they give 0 to every
    reasoning of more than one line, and they reward empty tags.
    """
    return [float(has_format(completion_text(c))) for c in completions]


def think_answer_format(completions: Completions, **columns: object) -> list[float]:
    """1.0 where the completion is `<think>…</think><answer>…</answer>`, else 0.0.

    Repairs `think_answer_format_reward` (T4): no DOTALL, and a line break between the two parts fails it.
    """
    return [float(has_format(completion_text(c), THINK_ANSWER)) for c in completions]


def think_answer_format_prefilled(completions: Completions, **columns: object) -> list[float]:
    """As `think_answer_format`, for a prompt that already ends with `<think>`.

    Repairs `format_reward_func` (T3): it demands exactly one line break between the parts, and rewards empty ones.
    """
    return [float(has_format(completion_text(c), THINK_ANSWER, prefilled=True)) for c in completions]


def reasoning_answer_tags(completions: Completions, **columns: object) -> list[float]:
    """Share of `<reasoning> </reasoning> <answer> </answer>` in place, 0.0 to 1.0.

    Repairs `xmlcount_reward_func` (T1): it takes off 0.001 for every character after the answer, the whole text's
    length where the last line break is missing, so that a right answer may score below zero.
    """
    return [tag_share(completion_text(c)) for c in completions]


def think_answer_tags(completions: Completions, **columns: object) -> list[float]:
    """Share of `<think> </think> <answer> </answer>` in place, 0.0 to 1.0; see `reasoning_answer_tags`."""
    return [tag_share(completion_text(c), THINK_ANSWER) for c in completions]


def think_answer_tags_prefilled(completions: Completions, **columns: object) -> list[float]:
    """As `think_answer_tags`, for a prompt that already ends with `<think>` (which then always counts: 0.25)."""
    return [tag_share(completion_text(c), THINK_ANSWER, prefilled=True) for c in completions]


def _marks(tags: tuple[str, str]) -> list[str]:
    return [mark for tag in tags for mark in (f"<{tag}>", f"</{tag}>")]
