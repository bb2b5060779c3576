"""What to try after a run: rules on its figures, each with the command that does it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dunwu._utils.commands import dunwu_command
from dunwu._utils.language import translated
from dunwu.reports.figures import Figure, evaluation_figures, training_figures
from dunwu.reports.progress import Progress
from dunwu.reports.run_folder import RunFolder
from dunwu.reports.settings import flat_options

__all__ = ["Suggestion", "is_still_rising", "suggestions"]

_MUCH_CUT = 0.10
_MOSTLY_DEAD = 0.5
_MANY_REPEATS = 0.10
_SOLVED = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """One thing to try.

    Example: `Suggestion(text="The reward was still rising.", command="dunwu train runs/a --resume")`
    """

    text: str
    """What was seen, and what helps."""
    command: str = ""
    """How; empty where no single command does it."""


def suggestions(run: RunFolder, progress: Progress) -> list[Suggestion]:
    """What the run's figures ask for, the most urgent first; at most four."""
    seen = _Seen(run, progress)
    found = [suggestion for rule in _RULES for suggestion in rule(seen)]
    return (found or [_read_on(run)])[:4]


class _Seen:
    """What the rules look at."""

    def __init__(self, run: RunFolder, progress: Progress) -> None:
        self.run, self.progress = run, progress
        self.options: Mapping[str, Any] = flat_options(run.recipe)
        self.figures = {**training_figures(run.steps), **evaluation_figures(run.summary, "after")}
        self.steps = int(run.steps[-1].get("step", 0)) if run.steps else 0
        self.can_resume = any(run.path.glob("checkpoint-*"))

    def value(self, *names: str) -> float:
        """The first of the figures that is there; 0 without any."""
        found: list[Figure] = [self.figures[name] for name in names if name in self.figures]
        return found[0].value if found else 0.0

    def train(self, *words: object) -> str:
        """The command that trains by this run's recipe with something changed; it takes the next free folder."""
        return dunwu_command("train", self.run.path, *words)

    def go_on(self, *words: object) -> str:
        """The command that goes on with this run."""
        return dunwu_command("train", self.run.path, "--resume", *words)


def _not_finished(seen: _Seen) -> Iterator[Suggestion]:
    if seen.run.outcome == "finished":
        return
    if seen.can_resume:
        yield Suggestion(text=translated("It is not finished: go on where it stopped."), command=seen.go_on())
    else:
        yield Suggestion(
            text=translated("It is not finished, and left no checkpoint: start anew, and keep one every 50 steps."),
            command=seen.train("--train.save_strategy", "steps", "--train.save_steps", 50),
        )


def _cut(seen: _Seen) -> Iterator[Suggestion]:
    share = max(seen.value("sampled_cut"), seen.value("train/cut"))
    if share < _MUCH_CUT:
        return
    repeats = seen.value("repeats")
    if repeats >= _MANY_REPEATS:
        yield Suggestion(
            text=translated(
                "{cut:.0%} of completions are cut at the token limit, and {repeats:.0%} of the attempts in them are "
                "repeats: the model goes in circles, and a higher limit would only make them longer. Reward lines "
                "that differ (thought_lines_differ), or raise that reward's weight.",
                cut=share,
                repeats=repeats,
            )
        )
        return
    limit = seen.options.get("train.max_completion_length", 256)
    yield Suggestion(
        text=translated("{cut:.0%} of completions are cut at the token limit: raise it.", cut=share),
        command=seen.train("--train.max_completion_length", 2 * int(limit)),
    )


def _dead(seen: _Seen) -> Iterator[Suggestion]:
    share = seen.value("train/dead")
    if share < _MOSTLY_DEAD:
        return
    if seen.value("sampled_strict", "greedy_strict") >= _SOLVED:
        yield Suggestion(
            text=translated(
                "{dead:.0%} of the last groups were dead, for nearly all answers are right: harder rows teach more.",
                dead=share,
            )
        )
        return
    group = int(seen.options.get("train.num_generations", 8))
    yield Suggestion(
        text=translated(
            "{dead:.0%} of the last groups were dead: all of a group's answers earned the same, so nothing was "
            "learned from them. More completions a prompt, easier rows, or a reward with steps in between.",
            dead=share,
        ),
        command=seen.train("--train.num_generations", 2 * group),
    )


def _rising(seen: _Seen) -> Iterator[Suggestion]:
    if seen.run.outcome != "finished" or not is_still_rising([entry.get("reward") for entry in seen.run.steps]):
        return
    text = translated("The reward was still rising at the end: take more steps.")
    words = ("--train.max_steps", 2 * seen.steps)
    yield Suggestion(text=text, command=seen.go_on(*words) if seen.can_resume else seen.train(*words))


def _learned_nothing(seen: _Seen) -> Iterator[Suggestion]:
    if seen.progress.direction != "none" or seen.run.outcome != "finished":
        return
    if all(entry.get("grad_norm") == 0 for entry in seen.run.steps):
        yield Suggestion(
            text=translated("The gradient was 0 in every step: no group had answers that were paid differently."),
            command=dunwu_command("rollouts", seen.run.path, "--step", "all", "--sort", "reward"),
        )
        return
    rate = seen.options.get("train.learning_rate", 1e-6)
    yield Suggestion(
        text=translated("Nothing changed beyond noise: take more steps, or a higher learning rate."),
        command=seen.train("--train.learning_rate", f"{3 * float(rate):.3g}", "--train.max_steps", 2 * seen.steps),
    )


def _few_prompts(seen: _Seen) -> Iterator[Suggestion]:
    prompts = float((seen.run.summary.get("after") or {}).get("prompts", math.inf))
    if seen.progress.direction == "none" and prompts < 200:
        yield Suggestion(
            text=translated("{n:.0f} held-out prompts show large changes only: evaluate on more.", n=prompts),
            command=seen.train("--evaluate.rows", 500),
        )


def _fell(seen: _Seen) -> Iterator[Suggestion]:
    if seen.progress.direction != "fell":
        return
    rate = seen.options.get("train.learning_rate", 1e-6)
    yield Suggestion(
        text=translated("It got worse: try a third of the learning rate."),
        command=seen.train("--train.learning_rate", f"{float(rate) / 3:.3g}"),
    )


def _one_seed(seen: _Seen) -> Iterator[Suggestion]:
    if seen.progress.direction == "rose" and seen.run.outcome == "finished":
        yield Suggestion(
            text=translated("One seed is one seed: see how far others are from it."), command=seen.train("--seeds", 3)
        )


_RULES: tuple[Callable[[_Seen], Iterator[Suggestion]], ...] = (
    *(_not_finished, _cut, _dead, _rising, _fell, _learned_nothing, _few_prompts, _one_seed),
)


def _read_on(run: RunFolder) -> Suggestion:
    return Suggestion(
        text=translated("Read what it said before you change a setting."),
        command=dunwu_command("rollouts", run.path, "--sort", "reward"),
    )


def is_still_rising(values: Sequence[float | None]) -> bool:
    """Whether a line through the last third rises by more than three standard errors of its slope.

    Example: `is_still_rising([0.0, 0.1] * 20)` is `False`.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    recent = known[-(len(known) // 3) :]
    if len(known) < 30:
        return False
    places = range(len(recent))
    slope, start = statistics.linear_regression(places, recent)
    rest = sum((value - start - slope * place) ** 2 for place, value in zip(places, recent, strict=True))
    spread = sum((place - (len(recent) - 1) / 2) ** 2 for place in places)
    return slope > 3 * math.sqrt(rest / (len(recent) - 2) / spread) and slope > 0
