"""How good a model is on a task: greedy and sampled, strict and lenient, with error bars.

`Task.grade` decides what is right, whatever the rewards pay for.

    report = evaluate(engine, task, prompts, samples=4, max_new_tokens=160)
    print(report.table())
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from dunwu._utils.distributed import ParallelContext
from dunwu.core.protocols import Engine, Task
from dunwu.core.records import Completion, Grade, Prompt, SamplingParams
from dunwu.engines import ready
from dunwu.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Evaluation",
    "GradeKind",
    "GradedCompletion",
    "Proportion",
    "evaluate",
    "pass_at_k",
]

GradeKind: TypeAlias = Literal["strict", "lenient", "formatted"]
"""A field of `Grade`."""

_KINDS: tuple[GradeKind, ...] = ("strict", "lenient", "formatted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """A proportion with its standard error.

    Example: `str(Proportion(value=0.62, error=0.022))` is `"62.0 % ± 2.2"`.
    """

    value: float
    """Between 0 and 1."""
    error: float
    """Standard error of the mean over prompts (completions of one prompt are not independent)."""

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % ± {100 * self.error:.1f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedCompletion:
    """One completion with its grade.

    Example: `GradedCompletion(prompt=p, completion=c, grade=Grade(strict=True, lenient=True, formatted=True))`
    """

    prompt: Prompt
    """What was asked."""
    completion: Completion
    """What the model answered."""
    grade: Grade
    """Whether it was right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The graded completions of all prompts, and what they come to.

    Example: `Evaluation(task="countdown", greedy=(right, wrong), sampled=((right, wrong), (wrong, wrong)))`
    """

    task: str
    """The task's name."""
    greedy: tuple[GradedCompletion, ...]
    """One completion a prompt, temperature 0."""
    sampled: tuple[tuple[GradedCompletion, ...], ...]
    """Several completions a prompt at the sampling temperature."""
    seconds: float = 0.0
    """Wall time it took."""

    def share(self, kind: GradeKind, *, greedy: bool) -> Proportion:
        """Share of completions whose grade is true in `kind`."""
        groups = [(one,) for one in self.greedy] if greedy else list(self.sampled)
        return _proportion([statistics.fmean(getattr(one.grade, kind) for one in group) for group in groups])

    def pass_at(self, k: int, kind: GradeKind = "strict") -> Proportion:
        """Probability that at least one of k samples is right, averaged over prompts."""
        return _proportion(
            [pass_at_k(len(group), sum(getattr(one.grade, kind) for one in group), k) for group in self.sampled]
        )

    @property
    def samples(self) -> int:
        """Samples a prompt."""
        return len(self.sampled[0]) if self.sampled else 0

    def mean_tokens(self, *, greedy: bool) -> float:
        """Mean completion length in tokens."""
        return statistics.fmean(len(one.completion.ids) for one in self._all(greedy))

    def truncated_fraction(self, *, greedy: bool) -> float:
        """Share of completions that the token limit cut."""
        return statistics.fmean(one.completion.finish_reason == "length" for one in self._all(greedy))

    def metrics(self) -> dict[str, float]:
        """Everything under plain names, shares between 0 and 1."""
        found: dict[str, float] = {"prompts": float(len(self.greedy)), "samples": float(self.samples)}
        for name, greedy in (("greedy", True), ("sampled", False)):
            for kind in _KINDS:
                share = self.share(kind, greedy=greedy)
                found |= {f"{name}_{kind}": share.value, f"{name}_{kind}_error": share.error}
            found[f"{name}_tokens"] = self.mean_tokens(greedy=greedy)
            found[f"{name}_cut"] = self.truncated_fraction(greedy=greedy)
        return found | {f"pass@{k}": self.pass_at(k).value for k in self._ks()}

    def table(self) -> str:
        """The same as a table for people, ± one standard error."""
        lines = [
            f"{self.task}: {len(self.greedy)} prompts, {self.samples} samples each (± one standard error)",
            f"{'':12}{'greedy':>18}{'sampled':>18}",
        ]
        for kind in _KINDS:
            row = [str(self.share(kind, greedy=greedy)) for greedy in (True, False)]
            lines.append(f"{'format' if kind == 'formatted' else kind:12}{row[0]:>18}{row[1]:>18}")
        tokens = [
            f"{self.mean_tokens(greedy=g):.1f} ({100 * self.truncated_fraction(greedy=g):.0f} % cut)"
            for g in (True, False)
        ]
        lines.append(f"{'tokens':12}{tokens[0]:>18}{tokens[1]:>18}")
        lines += [f"pass@{k:<7}{self.pass_at(k)!s:>36}" for k in self._ks()]
        return "\n".join(lines)

    def _all(self, greedy: bool) -> Sequence[GradedCompletion]:
        return self.greedy if greedy else [one for group in self.sampled for one in group]

    def _ks(self) -> list[int]:
        """The k of the pass@k that are reported: one, half of the samples, all of them."""
        return sorted({1, self.samples // 2, self.samples} - {0})


def evaluate(
    engine: Engine,
    task: Task,
    prompts: Sequence[Prompt],
    *,
    policy: nn.Module | None = None,
    version: int | None = None,
    parallel: ParallelContext | None = None,
    samples: int = 4,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    seed: int = 0,
) -> Evaluation:
    """Complete every prompt once greedily and `samples` times at `temperature`, and grade the completions.

    Args:
        engine: makes the completions.
        task: grades them.
        prompts: from `rollout.training_prompts.prompts_for_model`.
        policy: the model whose weights the engine must have; None: those it has.
        version: optimizer steps that the policy has taken.
        parallel: the ranks among which the prompts are shared; each gets the whole evaluation.
        samples: sampled completions a prompt.
        max_new_tokens: token limit of a completion.
        temperature, seed: of the sampled completions.

    Raises:
        ConfigError: without prompts or samples.
    """
    began = time.monotonic()
    sampling = SamplingParams(n=samples, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    # Forced: a best checkpoint loaded at a run's end changes the weights, and no optimizer step shows it.
    with ready(engine, policy, version=version, force=True):
        answers = _answers(engine, task, prompts, sampling, parallel or ParallelContext())
    return Evaluation(
        task=task.name,
        greedy=tuple(one for one, _ in answers),
        sampled=tuple(several for _, several in answers),
        seconds=time.monotonic() - began,
    )


def _answers(
    engine: Engine, task: Task, prompts: Sequence[Prompt], sampling: SamplingParams, parallel: ParallelContext
) -> list[tuple[GradedCompletion, tuple[GradedCompletion, ...]]]:
    """The greedy and the sampled answers to each prompt, in order, from all ranks."""
    if not prompts or sampling.n < 1:
        raise ConfigError(
            f"an evaluation needs prompts and samples, got {len(prompts)} prompts and {sampling.n} samples"
        )
    mine = parallel.share(list(enumerate(prompts)))
    asked = [prompt for _, prompt in mine]
    greedy = _graded(engine, task, asked, replace(sampling, n=1, temperature=0.0))
    sampled = _graded(engine, task, asked, sampling)
    here = [(place, one, several) for (place, _), (one,), several in zip(mine, greedy, sampled, strict=True)]
    everywhere = sorted(parallel.all_gather_list(here), key=lambda entry: entry[0])
    return [(one, several) for _, one, several in everywhere]


def pass_at_k(n: int, right: int, k: int) -> float:
    """1 − C(n − right, k) / C(n, k): the unbiased estimate from n samples (Codex, arXiv 2107.03374, eq. 1).

    Example: `pass_at_k(4, 1, 2)` is `0.5`.

    Raises:
        ConfigError: when k is more than n.
    """
    if not 1 <= k <= n:
        raise ConfigError(f"pass@{k} cannot be estimated from {n} samples; draw at least {k}")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def _graded(
    engine: Engine, task: Task, prompts: Sequence[Prompt], sampling: SamplingParams
) -> list[tuple[GradedCompletion, ...]]:
    completions = engine.generate(prompts, sampling) if prompts else []
    return [
        tuple(GradedCompletion(prompt=p, completion=c, grade=task.grade(p.row, c.text)) for c in several)
        for p, several in zip(prompts, completions, strict=True)
    ]


def _proportion(per_prompt: Sequence[float]) -> Proportion:
    error = statistics.stdev(per_prompt) / math.sqrt(len(per_prompt)) if len(per_prompt) > 1 else 0.0
    return Proportion(value=statistics.fmean(per_prompt), error=error)
