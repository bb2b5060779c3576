"""A doctor in small: says during the run what is wrong with it, with a remedy, and at the end whether it learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from dunwu._utils.language import translated
from dunwu._utils.logging import get_logger
from dunwu.core.protocols import Observer
from dunwu.core.records import Group, RunInfo, StepResult
from dunwu.observers.finding_rules import RULES, Finding, Rule, check_rules
from dunwu.observers.jsonl import JsonlFile
from dunwu.observers.run_history import RunHistory

__all__ = ["Findings", "verdict"]

_FEWEST_STEPS = 6
_FEW_STEPS = 100
"""A reward that stays within its noise over fewer steps proves nothing."""


class Findings(Observer):
    """Logs a sentence and a remedy as soon as a rule is sure that something is wrong, and a verdict at the end.

    A finding is told once; again only after it has not held for as many steps as it takes to be sure of it. A run
    that resumes takes its history from the metrics log in its folder, if there is one.

    Args:
        rules: what to look for; default: `finding_rules.RULES`.
    """

    def __init__(self, *, rules: Sequence[Rule] = RULES) -> None:
        self.rules = rules
        self.findings: list[Finding] = []
        """All that was told, in order."""
        self.history = RunHistory()
        """What the rules look at."""
        self._standing: dict[str, int] = {}

    def on_run_start(self, run: RunInfo) -> None:
        """Begin a history, or go on with the one that the run's folder has."""
        self.findings, self._standing = [], {}
        self.history = RunHistory(config=run.config, prompts_per_step=run.prompts_per_step)
        if run.resumed_from:
            log = JsonlFile(Path(run.folder) / "metrics.jsonl", keep_until=run.resumed_from)
            self.history.steps.extend(log.read_kept())

    def on_step(self, step: StepResult) -> None:
        """Keep the metrics, and look for what is wrong."""
        own = {"step": float(step.index), "learning_rate": step.learning_rate}
        self.history.steps.append({**step.metrics, **own})
        self._look()

    def on_evaluation(self, step: int, metrics: Mapping[str, float], groups: Sequence[Group]) -> None:
        """Keep the held-out figures."""
        self.history.evaluations.append({**metrics, "step": float(step)})
        self._look()

    def on_run_end(self) -> None:
        """Log the verdict."""
        if self.history.steps:
            get_logger().info(self.verdict())

    def verdict(self) -> str:
        """Whether the run learned, and if not, the likeliest cause: one to three sentences."""
        return verdict(self.history, check_rules(self.history, self.rules), self.findings)

    def _look(self) -> None:
        holding = check_rules(self.history, self.rules, known=self._standing)
        for finding in holding:
            if finding.name not in self._standing:
                self.findings.append(finding)
                get_logger().warning(f"! step {finding.step}: {finding.what} {finding.remedy}")
        self._forget({finding.name for finding in holding})

    def _forget(self, holding: set[str]) -> None:
        """Drop what has not held for as long as it takes to be sure of it."""
        waits = {rule.name: self.history.window(rule.steps) for rule in self.rules}
        for name in list(self._standing):
            self._standing[name] += 1
            if self._standing[name] > waits[name] and name not in holding:
                del self._standing[name]
        self._standing.update(dict.fromkeys(holding, 0))


def verdict(run: RunHistory, holding: Sequence[Finding], told: Sequence[Finding] = ()) -> str:
    """Whether a run learned, and if not, the likeliest cause: one to three sentences.

    Args:
        run: its history.
        holding: what is wrong at its end, in the order of causes.
        told: what was wrong during the run.
    """
    rewards = [reward for reward in run.each("reward") if not math.isnan(reward)]
    moved = run.reward_moved()
    causes = list(holding) or ([] if moved > 0 else list(told))
    if not causes and len(rewards) < _FEWEST_STEPS:
        return translated("{n} steps are too few to tell whether it learns.", n=len(run.steps))
    said = [_reward_sentence(run, rewards, moved)]
    if causes:
        worst = next((cause for cause in causes if cause.severity == "severe"), causes[0])
        said += [worst.what, worst.remedy]
    elif moved <= 0 and len(rewards) < _FEW_STEPS:
        said.append(translated("So few steps prove nothing: give it more."))
    elif moved <= 0:
        said.append(
            translated("Nothing here says why: examples/en/not_learning.md goes through what else it can be.")
        )
    return " ".join(said)


def _reward_sentence(run: RunHistory, rewards: Sequence[float], moved: int) -> str:
    n = len(run.steps)
    if not rewards:
        return translated("Did not learn: no completion of {n} steps got a reward.", n=n)
    start, end = _ends(rewards)
    if moved < 0:
        return translated(
            "Did not learn: in {n} steps the reward fell from {start:.2f} to {end:.2f}.", n=n, start=start, end=end
        )
    if moved == 0:
        return translated(
            "Did not learn: in {n} steps the reward stayed within its noise ({start:.2f}, then {end:.2f}).",
            n=n,
            start=start,
            end=end,
        )
    return translated(
        "Learned: in {n} steps the reward rose from {start:.2f} to {end:.2f}{most}.",
        n=n,
        start=start,
        end=end,
        most=_most_of_it(run),
    )


def _most_of_it(run: RunHistory) -> str:
    """Which reward function rose most, where there are several."""
    ends = {name: _ends(run.column(f"rewards/{name}/mean")) for name in run.reward_names()}
    if len(ends) < 2:
        return ""
    name = max(ends, key=lambda name: run.weight(name) * (ends[name][1] - ends[name][0]))
    return translated(
        " (most of it {name}: {start:.2f} to {end:.2f})", name=name, start=ends[name][0], end=ends[name][1]
    )


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Means over the first and the last few."""
    known = [value for value in values if not math.isnan(value)] or [math.nan]
    few = max(1, min(20, len(known) // 4))
    return fmean(known[:few]), fmean(known[-few:])
