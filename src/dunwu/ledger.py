"""Where a run keeps its figures between two logs.

What it is: sums over tokens that become means once a step, and figures of steps that become means once a log.
What it is not: a tracker; transformers' callbacks carry what it gives to those.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ["Ledger"]


class Ledger:
    """Figures of the steps since the last log, and token sums of the step in hand."""

    def __init__(self) -> None:
        self._steps: dict[str, list[float]] = defaultdict(list)
        self._sums: dict[str, Tensor] = {}

    def open_step(self) -> None:
        """Forget the token sums of the step before."""
        self._sums.clear()

    def add_tokens(self, sums: Mapping[str, Tensor]) -> None:
        """Add a micro-batch's token sums; `tokens` among them is their number."""
        for name, value in sums.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def token_means(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Mean of each figure over the step's tokens; `reduce` adds a tensor up over ranks."""
        names = sorted(self._sums)
        found = dict(zip(names, reduce(torch.stack([self._sums[name] for name in names])).tolist(), strict=True))
        tokens = max(found.pop("tokens"), 1.0)
        return {name: value / tokens for name, value in found.items()}

    def note(self, figures: Mapping[str, float]) -> None:
        """Note figures of the step in hand."""
        for name, value in figures.items():
            self._steps[name].append(value)

    def latest(self) -> dict[str, float]:
        """The last value of every figure noted since the last log."""
        return {name: values[-1] for name, values in self._steps.items()}

    def state(self) -> dict[str, list[float]]:
        """What a checkpoint must keep, so that a log after a resume has the steps before it."""
        return {name: list(values) for name, values in self._steps.items()}

    def load_state(self, state: Mapping[str, list[float]]) -> None:
        """Put back what `state` gave."""
        self._steps.clear()
        for name, values in state.items():
            self._steps[name] = list(values)

    def means(self) -> dict[str, float]:
        """Means since the last call, which they end."""
        means = {name: sum(values) / len(values) for name, values in self._steps.items()}
        self._steps.clear()
        return means
