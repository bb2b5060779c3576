"""Synthetic traces that the embedded model is trained on: a search written down, trial by trial.

<think>17-14=3, 17-3=14 no
17-14=3, 17*3=51 yes
</think>
<answer>17*(17-14)</answer>
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from dunwu.tasks.countdown_solver import Chain, chains

__all__ = ["TraceConfig", "trace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceConfig:
    """Parameters of the synthetic search. Arithmetic and verdicts are always right; only the search is weak.

    Example: `TraceConfig(insight=0.1, give_up=0.6, orderly=0.6, broken=0.2, max_trials=14)`
    """

    insight: float
    """Probability that a trial is taken from the solutions."""
    give_up: float
    """Probability of answering with the last trial although it was wrong, after each wrong one."""
    orderly: float = 0.6
    """Probability that a trial is the one after the last in the fixed order of `chains`; else any untried one."""
    broken: float = 0.2
    """Share of completions whose tags are broken."""
    max_trials: int = 14
    """Most trials of a trace."""


def trace(nums: tuple[int, ...], target: int, limit: int, config: TraceConfig, rng: random.Random) -> str:
    """One completion for the puzzle: trials until one is right, or until the search is given up."""
    ways = chains(tuple(sorted(nums)), limit)
    left = list(range(len(ways)))
    at, lines = -1, []
    while True:
        at = _next(ways, left, at, target, config, rng)
        left.remove(at)
        right = ways[at].value == target
        lines.append(f"{', '.join(ways[at].steps)} {'yes' if right else 'no'}\n")
        if right or not left or len(lines) == config.max_trials or rng.random() < config.give_up:
            break
    text = f"<think>{''.join(lines)}</think>\n<answer>{ways[at].expression}</answer>"
    return rng.choice(_BREAKS)(text) if rng.random() < config.broken else text


def _next(
    ways: tuple[Chain, ...], left: list[int], at: int, target: int, config: TraceConfig, rng: random.Random
) -> int:
    """The index of the next trial, one not tried yet."""
    if rng.random() < config.insight:
        solutions = [k for k in left if ways[k].value == target]
        if solutions:
            return rng.choice(solutions)
    if at >= 0 and rng.random() < config.orderly:
        return min(left, key=lambda k: (k - at) % len(ways))
    return rng.choice(left)


_BREAKS: tuple[Callable[[str], str], ...] = (
    lambda text: text.removeprefix("<think>"),
    lambda text: text.replace("</think>\n", ""),
    lambda text: text.replace("</think>\n", "</think>"),
    lambda text: text.replace("<answer>", "").replace("</answer>", ""),
    lambda text: text.removesuffix("</answer>"),
)
