"""What can be wrong with a run, decided from the metrics of its steps: each rule a pure function, all in one list.

They are the rows of `examples/en/not_learning.md`, section 3. A rule looks at the last so many steps and speaks only
where all of them agree.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from dunwu.observers.drift_rules import collapse, format_wins, held_out, kl_explodes, ratio_off, sampler_gap
from dunwu.observers.run_history import RunHistory, Told
from dunwu.observers.standstill_rules import (
    all_cut,
    answer_never,
    dead_groups,
    format_never,
    learning_rate_zero,
    no_gradient,
    no_reward,
    nothing_changes,
)

__all__ = ["RULES", "Finding", "Rule", "check_rules"]

Severity: TypeAlias = Literal["severe", "warning"]
"""`severe`: a run cannot learn like this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong with a run.

    Example: `Finding(name="dead_groups", step=12, what="All groups are dead.", remedy="Take easier rows.",
    severity="severe")`
    """

    name: str
    """The rule's name."""
    step: int
    """The step that made it sure."""
    what: str
    """One sentence, with the figures."""
    remedy: str
    """What to do: one sentence."""
    severity: Severity
    """`severe` where the run cannot learn like this, `warning` otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One thing that can be wrong.

    Example: `Rule(name="always", steps=3, severity="warning", tell=lambda run, steps: ("It is.", "Let it be."))`
    """

    name: str
    """Short name."""
    steps: int
    """Samplings in a row that it must hold for; more where a step has few prompts (`RunHistory.window`)."""
    severity: Severity
    """How bad it is."""
    tell: Callable[[RunHistory, int], Told | None]
    """Called with the history and the number of steps to look at; None where nothing is wrong, or not surely."""
    unless: tuple[str, ...] = ()
    """Rules that name the cause of this one: where one of them holds, this one is silent."""


RULES: Final[tuple[Rule, ...]] = (
    Rule(name="no_reward", steps=3, severity="severe", tell=no_reward),
    Rule(name="learning_rate_zero", steps=5, severity="severe", tell=learning_rate_zero),
    Rule(name="all_cut", steps=5, severity="severe", tell=all_cut),
    Rule(name="format_never", steps=5, severity="severe", tell=format_never, unless=("no_reward", "all_cut")),
    Rule(
        name="dead_groups",
        steps=5,
        severity="severe",
        tell=dead_groups,
        unless=("no_reward", "all_cut", "format_never"),
    ),
    Rule(name="no_gradient", steps=5, severity="severe", tell=no_gradient, unless=("dead_groups",)),
    Rule(name="sampler_gap", steps=5, severity="severe", tell=sampler_gap),
    Rule(name="ratio_off", steps=5, severity="severe", tell=ratio_off),
    Rule(name="kl_explodes", steps=5, severity="severe", tell=kl_explodes),
    Rule(name="collapse", steps=5, severity="warning", tell=collapse),
    Rule(
        name="answer_never",
        steps=20,
        severity="warning",
        tell=answer_never,
        unless=("no_reward", "all_cut", "format_never", "dead_groups"),
    ),
    Rule(name="format_wins", steps=50, severity="warning", tell=format_wins, unless=("answer_never", "all_cut")),
    Rule(name="held_out", steps=10, severity="warning", tell=held_out),
    Rule(
        name="nothing_changes",
        steps=100,
        severity="warning",
        tell=nothing_changes,
        unless=("learning_rate_zero", "all_cut", "format_never", "dead_groups", "no_gradient"),
    ),
)
"""In the order of causes: what stands earlier explains what stands later."""


def check_rules(run: RunHistory, rules: Sequence[Rule] = RULES, known: Collection[str] = ()) -> list[Finding]:
    """What is wrong at the last step of the history.

    Args:
        run: the history.
        rules: in the order of causes.
        known: names of findings that still stand, which silence others too.
    """
    found: list[Finding] = []
    if not run.steps:
        return found
    for rule in rules:
        causes = {finding.name for finding in found} | set(known)
        told = rule.tell(run, run.window(rule.steps)) if causes.isdisjoint(rule.unless) else None
        if told is not None:
            what, remedy = told
            finding = Finding(name=rule.name, step=run.step, what=what, remedy=remedy, severity=rule.severity)
            found.append(finding)
    return found
