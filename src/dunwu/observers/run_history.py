"""The metrics of a run so far, as rules about it ask for them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, variance
from typing import Any, Final, TypeAlias

from dunwu.observers.progress_table import reward_means

__all__ = ["RunHistory", "Told", "gain", "is_format"]

Told: TypeAlias = tuple[str, str]
"""What is wrong with a run, with its figures, and what to do: a sentence each."""

_FORMAT_WORDS: Final = ("format", "xml", "tag")
_FEWEST_PROMPTS: Final = 40
"""Prompts that a judgement rests on at least."""


@dataclass(slots=True, kw_only=True)
class RunHistory:
    """Steps and evaluations of a run.

    Example: `RunHistory(steps=[{"step": 1.0, "reward": 0.25}]).column("reward")` is `[0.25]`.
    """

    steps: list[Mapping[str, float]] = field(default_factory=list)
    """The metrics of each step, with `step` and `learning_rate`."""
    evaluations: list[Mapping[str, float]] = field(default_factory=list)
    """The metrics of each evaluation, with `step`."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The run's options by name."""
    prompts_per_step: int = 0
    """Prompts a step; 0 where nobody said."""

    @property
    def step(self) -> int:
        """The last step's number."""
        return int(self.steps[-1]["step"])

    @property
    def updates(self) -> int:
        """Updates from the same rollouts: steps that show the same completions."""
        return int(self.config.get("num_iterations") or 1)

    def window(self, samplings: int) -> int:
        """Steps that hold so many samplings, and 40 prompts."""
        few = -(-_FEWEST_PROMPTS // self.prompts_per_step) if self.prompts_per_step else 0
        return max(samplings, few) * self.updates

    def each(self, name: str) -> Iterator[float]:
        """One metric of every step that has it."""
        return (step[name] for step in self.steps if name in step)

    def column(self, name: str) -> list[float]:
        """`each` as a list."""
        return list(self.each(name))

    def last(self, name: str, n: int) -> list[float]:
        """One metric of the last `n` steps; empty where there are fewer, or one lacks it."""
        found = [step[name] for step in self.steps[-n:] if name in step]
        return found if len(found) == n else []

    def mean(self, name: str, n: int) -> float:
        """Its mean over the last steps, at most `n`; NaN where there is none."""
        found = [step[name] for step in self.steps[-n:] if not math.isnan(step.get(name, math.nan))]
        return fmean(found) if found else math.nan

    def reward_names(self) -> list[str]:
        """The reward functions."""
        return list(reward_means(self.steps[-1])) if self.steps else []

    def weight(self, reward: str) -> float:
        """The weight of a reward function."""
        weights = self.config.get("reward_weights")
        return float(weights[self.reward_names().index(reward)]) if weights else 1.0

    def ever_paid(self, reward: str, n: int | None = None) -> bool:
        """Whether a reward function gave anything but 0 in the last `n` steps (None: ever), or no score at all."""
        steps = self.steps if n is None else self.steps[-n:]
        names = (f"rewards/{reward}/mean", f"rewards/{reward}/std")
        return any(step.get(name, math.nan) != 0 for step in steps for name in names)

    def reward_moved(self) -> int:
        """Whether the reward has risen (1) or fallen (-1) since the start, beyond its noise and 1 % of itself."""
        rewards = [reward for reward in self.each("reward") if not math.isnan(reward)]
        rise, noise = gain(rewards)
        if abs(rise) <= max(2 * noise, 0.01 * abs(fmean(rewards or [0.0])), 1e-9):
            return 0
        return 1 if rise > 0 else -1

    def is_paid_alike(self, n: int) -> bool:
        """Whether all completions of a step earned the same in the last `n` steps, whatever their prompt."""
        return not any(step.get("reward_std", 1.0) for step in self.steps[-n:])

    def reward_until(self, step: int, n: int) -> list[float]:
        """The rewards of the `n` steps up to one."""
        return [each["reward"] for each in self.steps if step - n < each["step"] <= step and "reward" in each]

    def held_out_rewards(self) -> list[tuple[int, float]]:
        """Step and held-out reward of each evaluation."""
        found = []
        for metrics in self.evaluations:
            name = next((name for name in metrics if name.endswith("_reward")), None)
            if name is not None:
                found.append((int(metrics["step"]), metrics[name]))
        return found

    def samples_otherwise(self) -> bool:
        """Whether the sampler's probabilities are of another distribution than the policy's on purpose."""
        config = self.config
        cut = (config.get("top_k") or 0) > 0 or (config.get("top_p") or 1.0) < 1 or config.get("min_p")
        return bool(cut or (config.get("repetition_penalty") or 1.0) != 1)


def gain(values: Sequence[float]) -> tuple[float, float]:
    """The mean of the last third less that of the first, and the standard error of this difference.

    Example: `gain([0.0, 0.0, 0.5, 0.5, 1.0, 1.0])` is `(1.0, 0.0)`; of fewer than six values the error is infinite.
    """
    if len(values) < 6:
        return 0.0, math.inf
    n = len(values) // 3
    first, last = values[:n], values[-n:]
    return fmean(last) - fmean(first), math.sqrt((variance(first) + variance(last)) / n)


def is_format(reward: str) -> bool:
    """Whether a reward's name says that it pays the format, and not the answer."""
    return any(word in reward.lower() for word in _FORMAT_WORDS)
