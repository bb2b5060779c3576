"""A few completions with what they earned, printed as the run goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dunwu._utils.language import translated
from dunwu._utils.logging import get_logger
from dunwu._utils.terminal_text import printable
from dunwu.core.protocols import Observer
from dunwu.core.records import Group, RunInfo, StepResult

__all__ = ["PrintedCompletions", "format_completions"]


class PrintedCompletions(Observer):
    """Logs the first completions of a step.

    Args:
        count: completions to print; None: the run's `num_completions_to_print`.
        every: steps between prints; None: the run's `logging_steps`.
    """

    def __init__(self, count: int | None = None, *, every: int | None = None) -> None:
        self.count, self.every = count, every
        self._count, self._every = count or 2, every or 1

    def on_run_start(self, run: RunInfo) -> None:
        """Take from the run's options what was left open."""
        if self.count is None:
            self._count = int(run.config.get("num_completions_to_print", 2))
        if self.every is None:
            given = float(run.config.get("logging_steps", 1))
            # Below 1 it is a share of the run, as transformers has it.
            self._every = max(1, math.ceil(given * run.total_steps) if given < 1 else int(given))

    def on_step(self, step: StepResult) -> None:
        """Print if it is time."""
        if step.groups and step.index % self._every == 0:
            get_logger().info(format_completions(step.groups, self._count))


def format_completions(groups: Sequence[Group], count: int) -> str:
    """The first `count` rollouts with what they earned, one block each; control characters are written as escapes."""
    shown = [(group.prompt, rollout) for group in groups for rollout in group.rollouts][:count]
    blocks = []
    for prompt, rollout in shown:
        scores = ", ".join(f"{name} {value}" for name, value in rollout.scores.items())
        completion = rollout.completion
        blocks.append(
            translated(
                f"prompt: {printable(prompt.text)}\n"
                f"completion ({completion.sampled_tokens} tokens, {completion.finish_reason}): "
                f"{printable(completion.text)}\n"
                f"reward {rollout.reward} ({scores}), advantage {rollout.advantage:+.3f}"
            )
        )
    return "\n---\n".join(blocks)
