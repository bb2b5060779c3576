"""Rules for a run that cannot learn: nothing is scored, cut, told apart or moved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Final

from dunwu._utils.commands import dunwu_command
from dunwu._utils.language import translated
from dunwu.observers.run_history import RunHistory, Told, gain, is_format

__all__ = [
    "all_cut",
    "answer_never",
    "dead_groups",
    "format_never",
    "learning_rate_zero",
    "no_gradient",
    "no_reward",
    "nothing_changes",
]

_MOST: Final = 0.95
_PENALTY_WORDS: Final = ("penal", "repet", "length", "len", "overlong", "differ")
"""In names of rewards that ordinary answers get 0 from."""


def no_reward(run: RunHistory, n: int) -> Told | None:
    """No function could score any completion."""
    rewards = run.last("reward", n)
    if not rewards or not all(map(math.isnan, rewards)):
        return None
    return (
        translated("In the last {n} steps no completion got a reward: every function returned None.", n=n),
        translated("Look at the columns that the rewards read, and at what they return for a right text."),
    )


def all_cut(run: RunHistory, n: int) -> Told | None:
    """Nearly every completion ran into the token limit."""
    cut = run.last("completions/clipped_ratio", n)
    if not cut or min(cut) < 0.9 or fmean(cut) < _MOST:
        return None
    limit = run.config.get("max_completion_length") or f"{run.last('completions/max_length', 1)[0]:.0f}"
    return (
        translated(
            "{share:.0%} of the completions of the last {n} steps were cut by the token limit of {limit}; the reward "
            "is {reward:.2f}.",
            share=fmean(cut),
            n=n,
            limit=limit,
            reward=run.mean("reward", n),
        ),
        translated("Raise max_completion_length, or look whether the model ends its answers."),
    )


def format_never(run: RunHistory, n: int) -> Told | None:
    """No reward, and the format is never paid although completions end by themselves."""
    rewards, cut = run.last("reward", n), run.last("completions/clipped_ratio", n)
    formats = [name for name in run.reward_names() if is_format(name)]
    if not rewards or abs(fmean(rewards)) > 0.02 or not formats or (cut and fmean(cut) > 0.5):
        return None
    if any(run.ever_paid(name, n) for name in formats):
        return None
    return (
        translated(
            "In the last {n} steps the reward was {reward:.2f}, and {name} paid 0 to every completion.",
            n=n,
            reward=fmean(rewards),
            name=", ".join(formats),
        ),
        translated(
            "Look at the chat template, a prefill and the format's pattern: `{command}` scores a text.",
            command=dunwu_command("rewards"),
        ),
    )


def dead_groups(run: RunHistory, n: int) -> Told | None:
    """Nearly every group has one reward only."""
    dead = run.last("frac_reward_zero_std", n)
    if not dead or min(dead) < 0.9 or fmean(dead) < _MOST:
        return None
    reward, command = run.mean("reward", n), dunwu_command("rewards")
    if reward == 0:
        remedy = translated("Score a right text with `{command}`; if it is paid, take easier rows.", command=command)
    elif run.is_paid_alike(n):
        remedy = translated(
            "The rewards give every completion the same: score a wrong text with `{command}`.", command=command
        )
    elif run.reward_moved() > 0:
        remedy = translated("The model has learned these rows: stop here, or take harder ones.")
    else:
        remedy = translated(
            "It takes a reward that tells answers of one prompt apart: harder or easier rows, more num_generations, "
            "temperature 1."
        )
    what = translated(
        "In the last {n} steps {share:.0%} of the groups were dead: all completions of a prompt earned the same "
        "(reward {reward:.2f}), and nothing can be learned from that.",
        share=fmean(dead),
        n=n,
        reward=reward,
    )
    return what, remedy


def answer_never(run: RunHistory, n: int) -> Told | None:
    """A reward for answers has never paid anything: too hard, or a checker that swallows its errors."""
    for name in run.reward_names():
        is_other = is_format(name) or any(word in name.lower() for word in _PENALTY_WORDS)
        if is_other or len(run.steps) < n or run.weight(name) == 0 or run.ever_paid(name):
            continue
        return (
            translated("{name} has paid exactly 0 to every completion of {n} steps.", name=name, n=len(run.steps)),
            translated(
                "Take easier rows; or the function swallows an error: score a right text with `{command}`.",
                command=dunwu_command("rewards"),
            ),
        )
    return None


def no_gradient(run: RunHistory, n: int) -> Told | None:
    """No gradient although groups have a spread."""
    norms, dead = run.last("grad_norm", n), run.last("frac_reward_zero_std", n)
    if not norms or max(norms) > 1e-12 or not dead or max(dead) >= 1:
        return None
    what = translated(
        "The gradient was 0 in the last {n} steps, although {share:.0%} of the groups had completions of different "
        "rewards.",
        n=n,
        share=1 - fmean(dead),
    )
    if run.config.get("mask_truncated_completions"):
        return what, translated(
            "Those that differ were cut, and mask_truncated_completions leaves them out: raise max_completion_length."
        )
    return what, translated("Look at which parameters train (the launch names their number) and at the loss.")


def learning_rate_zero(run: RunHistory, n: int) -> Told | None:
    """A learning rate that was 0 since the start."""
    if len(run.steps) < n or "learning_rate" not in run.config or any(run.each("learning_rate")):
        return None
    return (
        translated("The learning rate was 0 in all {n} steps, so no weight has moved.", n=len(run.steps)),
        translated(
            "Set learning_rate: 5e-7 to 5e-6 for all weights of a model of 0.5B to 3B, ten times that for an adapter."
        ),
    )


def nothing_changes(run: RunHistory, n: int) -> Told | None:
    """A gradient, and yet no figure has moved since the start; a run that has learned may stand still."""
    norms = run.last("grad_norm", n)
    if not norms or min(norms) <= 0 or run.is_paid_alike(n) or run.reward_moved():
        return None
    if not all(_is_steady(run.column(name)) for name in ("completions/mean_length", "entropy")):
        return None
    return (
        translated(
            "In {n} steps neither reward ({reward:.2f}) nor length nor entropy has moved.",
            n=len(run.steps),
            reward=run.mean("reward", n),
        ),
        translated(
            "A higher learning rate (an adapter needs about ten times that of all weights), float32 weights, a "
            "shorter warm-up."
        ),
    )


def _is_steady(values: Sequence[float]) -> bool:
    """Whether the values have a level, and kept it within 3 %."""
    if not values:
        return False
    rise, _ = gain(values)
    return abs(rise) <= 0.03 * abs(fmean(values))
