"""What is worth logging: statistics of rollouts, and the values of steps between two logs."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from dunwu.core.records import Group

__all__ = ["MetricsBuffer", "RolloutStats", "logged_metrics", "rollout_metrics", "rollout_row", "rollout_stats"]

_TAKEN: Final = {"loss", "grad_norm", "learning_rate", "epoch", "step_time", "kl", "entropy"}
_TAKEN_FOLDERS: Final = ("clip_ratio/", "importance_ratio/", "sampling/", "time/")
"""What the trainer logs itself, beside the metrics of `rollout_metrics`."""


class MetricsBuffer:
    """Metrics of the steps since the last log, and token sums of the current step."""

    def __init__(self) -> None:
        self._steps: dict[str, list[float]] = defaultdict(list)
        self._latest: dict[str, float] = {}
        self._sums: dict[str, Tensor] = {}

    def start_step(self) -> None:
        """Forget the token sums of the step before."""
        self._sums.clear()

    def add_token_sums(self, sums: Mapping[str, Tensor]) -> None:
        """Add a micro-batch's sums over tokens; `tokens` among them is their number."""
        for name, value in sums.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def token_means(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Mean of each metric over the step's tokens; `reduce` adds a tensor up over ranks."""
        names = sorted(self._sums)
        found = dict(zip(names, reduce(torch.stack([self._sums[name] for name in names])).tolist(), strict=True))
        tokens = max(found.pop("tokens"), 1.0)
        return {name: value / tokens for name, value in found.items()}

    def record(self, metrics: Mapping[str, float], *, keep: bool = True) -> None:
        """Record the metrics of a step; with `keep` False, where nothing is ever logged, only as the latest."""
        self._latest = dict(metrics)
        if keep:
            for name, value in metrics.items():
                self._steps[name].append(value)

    def latest(self) -> dict[str, float]:
        """The metrics of the last step recorded."""
        return dict(self._latest)

    def state(self) -> dict[str, list[float]]:
        """What a checkpoint must keep, so that a log after a resume has the steps before it."""
        return {name: list(values) for name, values in self._steps.items()}

    def load_state(self, state: Mapping[str, list[float]]) -> None:
        """Put back what `state` gave."""
        self._steps.clear()
        for name, values in state.items():
            self._steps[name] = list(values)
        self._latest = {name: values[-1] for name, values in state.items()}

    def pop_means(self) -> dict[str, float]:
        """Means over the steps since the last call; they are forgotten."""
        means = {name: sum(values) / len(values) for name, values in self._steps.items()}
        self._steps.clear()
        return means


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStats:
    """What metrics need of one rollout: small enough to gather from all ranks.

    Example: `RolloutStats(length=41, terminated=True, reward=1.0, scores={"equation": 1.0}, zero_std=False)`
    """

    length: int
    """Tokens that the model sampled."""
    terminated: bool
    """Whether it ended by itself."""
    reward: float | None
    """Weighted reward."""
    scores: Mapping[str, float | None]
    """Each function's value."""
    zero_std: bool
    """Whether its whole group got one reward, so that nothing can be learned from it."""


def rollout_stats(groups: Sequence[Group]) -> list[RolloutStats]:
    """Statistics of every rollout, group-major."""
    return [
        RolloutStats(
            length=rollout.completion.sampled_tokens,
            terminated=rollout.completion.finish_reason == "stop",
            reward=rollout.reward,
            scores=rollout.scores,
            zero_std=len({r.reward for r in group.rollouts if r.reward is not None}) < 2,
        )
        for group in groups
        for rollout in group.rollouts
    ]


def rollout_metrics(stats: Sequence[RolloutStats]) -> dict[str, float]:
    """Metrics of a step's rollouts, under TRL's names where they mean the same."""
    lengths = [float(s.length) for s in stats]
    terminated = [float(s.length) for s in stats if s.terminated] or [0.0]
    rewards = [s.reward for s in stats if s.reward is not None]
    metrics = {
        "num_completions": float(len(stats)),
        "completions/mean_length": statistics.fmean(lengths),
        "completions/min_length": min(lengths),
        "completions/max_length": max(lengths),
        "completions/clipped_ratio": statistics.fmean(not s.terminated for s in stats),
        "completions/mean_terminated_length": statistics.fmean(terminated),
        "completions/min_terminated_length": min(terminated),
        "completions/max_terminated_length": max(terminated),
        "reward": statistics.fmean(rewards) if rewards else math.nan,
        "reward_std": statistics.stdev(rewards) if len(rewards) > 1 else 0.0,
        "frac_reward_zero_std": statistics.fmean(s.zero_std for s in stats),
    }
    for name in stats[0].scores:
        values = [value for s in stats if (value := s.scores[name]) is not None]
        metrics[f"rewards/{name}/mean"] = statistics.fmean(values) if values else math.nan
        metrics[f"rewards/{name}/std"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return metrics


def logged_metrics(
    everyone: Iterable[Mapping[str, Sequence[float]]], known: Collection[str] = ()
) -> dict[str, float]:
    """Mean of what reward functions logged under each name (`log_metric`), from the values of all ranks.

    One that has the name of a metric of the run (`known`, or the trainer's own) is called `logged/NAME`. Without a
    finite mean, a name is left out.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for rank in everyone:
        for name, values in rank.items():
            found[name] += values
    means = {name: statistics.fmean(values) for name, values in found.items() if values}
    return {_unlike_ours(name, known): mean for name, mean in sorted(means.items()) if math.isfinite(mean)}


def _unlike_ours(name: str, known: Collection[str]) -> str:
    is_taken = name in known or name in _TAKEN or name.startswith(_TAKEN_FOLDERS)
    return f"logged/{name}" if is_taken else name


def rollout_row(step: int, group: Group, sample: int) -> dict[str, Any]:
    """One rollout as a flat record: the one schema of logs, trackers' tables and dumps.

    Example: `list(rollout_row(3, group, 0))` is `["step", "row", "sample", "prompt", "completion", "messages",
    "tokens", "finish_reason", "reward", "scores", "extras", "advantage"]`; `scores` is a function's name to its
    value, `extras` a column to what a reward function logged of this completion (`log_extra`), and `messages` holds
    the turns of a conversation, the environment's included (None: one turn).
    """
    rollout = group.rollouts[sample]
    return {
        "step": step,
        "row": group.prompt.row_index,
        "sample": sample,
        "prompt": group.prompt.text,
        "completion": rollout.completion.text,
        "messages": [dict(message) for message in rollout.completion.messages] or None,
        "tokens": rollout.completion.sampled_tokens,
        "finish_reason": rollout.completion.finish_reason,
        "reward": rollout.reward,
        "scores": dict(rollout.scores),
        "extras": dict(rollout.extras),
        "advantage": rollout.advantage,
    }
