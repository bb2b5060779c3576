"""The reward functions of `trl.rewards`, with the values that TRL 1.16's have.

Completions are text, or messages of which the model's last counts. Mathematics is judged by the package math-verify
(`dunwu[math]`). In a recipe: `rewards: [dunwu.trl.rewards:accuracy_reward]`.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from dunwu.errors import ConfigError
from dunwu.rewards.formats import Completions, completion_text

__all__ = [
    "accuracy_reward",
    "get_cosine_scaled_reward",
    "get_repetition_penalty_reward",
    "get_soft_overlong_punishment",
    "reasoning_accuracy_reward",
    "think_format_reward",
]

LogExtra: TypeAlias = Callable[[str, list[object]], None]

_ONE_THOUGHT: Final = re.compile(r"<think>(?!.*<think>).*?</think>", re.DOTALL)
_PARSING_SECONDS, _JUDGING_SECONDS = 10, 5


def think_format_reward(completions: Completions, **columns: object) -> list[float]:
    """1.0 where a completion begins with `<think>`, which comes once, and closes it; else 0.0.

    Example: `think_format_reward(["<think>2+2</think>4", "4"])` is `[1.0, 0.0]`.
    """
    return [float(_ONE_THOUGHT.match(completion_text(c)) is not None) for c in completions]


def accuracy_reward(
    completions: Completions, solution: Sequence[str], log_extra: LogExtra | None = None, **columns: object
) -> list[float | None]:
    """1.0 where the answer (in LaTeX, `\\boxed{}` first) equals column `solution`, else 0.0; None without a solution.

    Raises:
        ConfigError: where math-verify is not installed.
    """
    _require_math_verify("accuracy_reward")
    judged = [_judged(completion_text(c), gold) for c, gold in zip(completions, solution, strict=True)]
    return _logged(judged, solution, log_extra)


def reasoning_accuracy_reward(
    completions: Completions,
    solution: Sequence[str],
    reasoning_delimiters: Sequence[str] | None = None,
    log_extra: LogExtra | None = None,
    **columns: object,
) -> list[float | None]:
    """`accuracy_reward` of what follows the thought; 0.0 where the thought has no end.

    Args:
        completions: what is judged.
        solution: the right answers.
        reasoning_delimiters: texts that end a thought; the first of them that occurs counts. None: `</think>`.
        log_extra: given by the trainer.
        columns: not read.

    Raises:
        ConfigError: where math-verify is not installed.
    """
    _require_math_verify("reasoning_accuracy_reward")
    ends = ["</think>"] if reasoning_delimiters is None else list(reasoning_delimiters)
    judged = []
    for completion, gold in zip(completions, solution, strict=True):
        text = completion_text(completion)
        end = next((end for end in ends if end in text), None)
        unfinished = _Judgement(value=0.0, gold="[incomplete reasoning]", answer="[incomplete reasoning]")
        judged.append(unfinished if end is None else _judged(text.rpartition(end)[2], gold))
    return _logged(judged, solution, log_extra)


def get_cosine_scaled_reward(
    max_len: int,
    min_value_wrong: float = -1.0,
    max_value_wrong: float = -0.5,
    min_value_correct: float = 0.5,
    max_value_correct: float = 1.0,
) -> _CosineScaled:
    """A reward for right answers that falls with their length in tokens, and for wrong ones that rises.

    A right one goes from `max_value_correct` (no tokens) to `min_value_correct` (`max_len` and more) along half a
    cosine, a wrong one from `min_value_wrong` to `max_value_wrong` (arXiv 2502.03373, appendix C.1). None where
    `accuracy_reward` is None.

    Raises:
        ConfigError: for a `max_len` below 1.
    """
    if max_len < 1:
        raise ConfigError(f"max_len must be at least 1 token, got {max_len!r}")
    return _CosineScaled(
        max_len=max_len,
        correct=(max_value_correct, min_value_correct),
        wrong=(min_value_wrong, max_value_wrong),
    )


def get_repetition_penalty_reward(ngram_size: int = 3, max_penalty: float = -1.0) -> _RepetitionPenalty:
    """A reward of `max_penalty` times the share of n-grams of tokens that repeat an earlier one.

    arXiv 2502.03373, appendix C.2. 0.0 for fewer than `ngram_size` tokens.

    Raises:
        ConfigError: for a penalty above 0, or n-grams of no tokens.
    """
    if max_penalty > 0 or ngram_size < 1:
        raise ConfigError(
            f"max_penalty must be 0 or less and ngram_size at least 1, got {max_penalty!r} and {ngram_size!r}"
        )
    return _RepetitionPenalty(ngram_size=ngram_size, max_penalty=max_penalty)


def get_soft_overlong_punishment(max_completion_len: int, soft_punish_cache: int) -> _SoftOverlongPunishment:
    """A reward of 0.0 up to `max_completion_len − soft_punish_cache` tokens, then falling to −1.0 at the limit.

    DAPO, arXiv 2503.14476, eq. 13.

    Example: `get_soft_overlong_punishment(100, 20)(completion_ids=[[1] * 90])` is `[-0.5]`.
    """
    return _SoftOverlongPunishment(limit=max_completion_len, cache=soft_punish_cache)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judgement:
    """What math-verify makes of one answer.

    Example: `_Judgement(value=1.0, gold="[1/3, '1/3']", answer="[1/3, '1/3']")`
    """

    value: float | None
    """1.0 or 0.0; None where the solution cannot be read."""
    gold: str
    """The solution as it was read."""
    answer: str
    """The answer as it was read."""


@dataclass(frozen=True, kw_only=True)
class _CosineScaled:
    """Picklable, so that it can be sandboxed.

    Example: `_CosineScaled(max_len=100, correct=(1.0, 0.5), wrong=(-1.0, -0.5))`
    """

    __name__ = "cosine_scaled_reward"  # as in TRL's metrics
    max_len: int
    """Tokens from which on the value is that of the longest."""
    correct: tuple[float, float]
    """Values of the shortest and the longest right answer."""
    wrong: tuple[float, float]
    """Values of the shortest and the longest wrong answer."""

    def __call__(
        self,
        completions: Completions,
        solution: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: object,
    ) -> list[float | None]:
        """One value a completion, None where the solution cannot be read."""
        judged = accuracy_reward(completions, solution)
        return [
            None if right is None else self._scaled(len(ids), bool(right))
            for right, ids in zip(judged, completion_ids, strict=True)
        ]

    def _scaled(self, length: int, right: bool) -> float:
        shortest, longest = self.correct if right else self.wrong
        share = (1 + math.cos(min(length / self.max_len, 1.0) * math.pi)) / 2
        return longest + (shortest - longest) * share


@dataclass(frozen=True, kw_only=True)
class _RepetitionPenalty:
    """Picklable, so that it can be sandboxed.

    Example: `_RepetitionPenalty(ngram_size=2, max_penalty=-1.0)(completion_ids=[[5, 5, 5, 5, 5]])` is `[-0.75]`.
    """

    __name__ = "repetition_penalty_reward"
    ngram_size: int
    """Tokens of an n-gram."""
    max_penalty: float
    """Value where all n-grams but one are repetitions, nearly."""

    def __call__(self, completion_ids: Sequence[Sequence[int]], **columns: object) -> list[float]:
        """One value a completion."""
        return [self._penalty(list(ids)) for ids in completion_ids]

    def _penalty(self, ids: list[int]) -> float:
        grams = [tuple(ids[i : i + self.ngram_size]) for i in range(len(ids) - self.ngram_size + 1)]
        repeated = 1 - len(set(grams)) / len(grams) if grams else 0.0
        return repeated * self.max_penalty if repeated else 0.0


@dataclass(frozen=True, kw_only=True)
class _SoftOverlongPunishment:
    """Picklable, so that it can be sandboxed.

    Example: `_SoftOverlongPunishment(limit=100, cache=20)(completion_ids=[[1] * 80, [1] * 101])` is `[0.0, -1.0]`.
    """

    __name__ = "soft_overlong_punishment_reward"
    limit: int
    """Tokens beyond which the value is −1."""
    cache: int
    """Tokens before the limit over which the value falls."""

    def __call__(self, completion_ids: Sequence[Sequence[int]], **columns: object) -> list[float]:
        """One value a completion."""
        return [self._punishment(len(ids)) for ids in completion_ids]

    def _punishment(self, length: int) -> float:
        free = self.limit - self.cache
        if length <= free:
            return 0.0
        return (free - length) / self.cache if length <= self.limit else -1.0


def _require_math_verify(name: str) -> None:
    try:
        import math_verify
    except ImportError as error:
        raise ConfigError(f"{name} needs math-verify, which is not installed: pip install 'dunwu[math]'") from error
    # It interrupts itself by signal.alarm, in the main thread only, and would warn of every call elsewhere.
    if threading.current_thread() is not threading.main_thread():
        for part in ("parser", "grader"):
            logging.getLogger(f"{math_verify.__name__}.{part}").setLevel(logging.ERROR)


def _judged(text: str, solution: str) -> _Judgement:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    in_main = threading.current_thread() is threading.main_thread()
    parsing, judging = (_PARSING_SECONDS, _JUDGING_SECONDS) if in_main else (None, None)
    gold = parse(solution, parsing_timeout=parsing)
    if not gold:
        return _Judgement(value=None, gold="[unparseable]", answer="[skipped]")
    # Only well-formed LaTeX that is marked as the answer counts, a box before all else.
    latex = LatexExtractionConfig(
        boxed_match_priority=0, try_extract_without_anchor=False, normalization_config=NormalizationConfig(units=True)
    )
    answer = parse(text, extraction_config=[latex], extraction_mode="first_match", parsing_timeout=parsing)
    return _Judgement(
        value=float(verify(gold, answer, timeout_seconds=judging)),
        gold=str(gold),
        answer=str(answer) if answer else "[unparseable]",
    )


def _logged(judged: Sequence[_Judgement], solution: Sequence[str], log_extra: LogExtra | None) -> list[float | None]:
    if log_extra is not None:
        log_extra("solution", list(solution))
        log_extra("gold_parsed", [one.gold for one in judged])
        log_extra("answer_parsed", [one.answer for one in judged])
    return [one.value for one in judged]
