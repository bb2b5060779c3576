"""How good is a model on a task: greedy and sampled, strict and lenient, with an error bar.

What it is: the same prompts and engine as training, the task's own judge, and the arithmetic of pass@k.
What it is not: a reward; `Task.judge` says what is right, whatever training was paid for.

    report = evaluate(engine, task, prompts, samples=4, max_new_tokens=160)
    print(report.table())
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from dunwu.core.protocols import Engine, Task
from dunwu.core.records import Completion, Grade, Prompt, SamplingParams

__all__ = ["Evaluation", "GradedCompletion", "Proportion", "evaluate", "pass_at_k"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """A proportion with its standard error.

    Example: `Proportion(value=0.62, error=0.022)` prints as `62.0 % ± 2.2`
    """

    value: float
    """Between 0 and 1."""
    error: float
    """Standard error of the mean over prompts (completions of one prompt are not independent)."""

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % ± {100 * self.error:.1f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedCompletion:
    """One completion with its verdict.

    Example: `GradedCompletion(prompt=p, completion=c, verdict=Grade(strict=True, lenient=True, formatted=True))`
    """

    prompt: Prompt
    """What was asked."""
    completion: Completion
    """What was said."""
    verdict: Grade
    """Whether it was right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The outcome.

    Example: `Evaluation(task="countdown", greedy=(…500 answers…), sampled=((…4 answers…), …))`
    """

    task: str
    """The task's name."""
    greedy: tuple[GradedCompletion, ...]
    """One answer a prompt, temperature 0."""
    sampled: tuple[tuple[GradedCompletion, ...], ...]
    """Several answers a prompt at the sampling temperature."""
    seconds: float = 0.0
    """Wall time it took."""

    def share(self, kind: str, *, greedy: bool) -> Proportion:
        """Share of answers whose verdict is true in `kind`: `strict`, `lenient` or `formatted`."""
        groups = [(answer,) for answer in self.greedy] if greedy else list(self.sampled)
        return _share([statistics.fmean(getattr(a.verdict, kind) for a in group) for group in groups])

    def pass_at(self, k: int, kind: str = "strict") -> Proportion:
        """Probability that at least one of k samples is right, averaged over prompts."""
        return _share(
            [pass_at_k(len(group), sum(getattr(a.verdict, kind) for a in group), k) for group in self.sampled]
        )

    @property
    def samples(self) -> int:
        """Samples a prompt."""
        return len(self.sampled[0]) if self.sampled else 0

    def mean_tokens(self, *, greedy: bool) -> float:
        """Mean completion length in tokens."""
        answers = self.greedy if greedy else [answer for group in self.sampled for answer in group]
        return statistics.fmean(len(answer.completion.ids) for answer in answers)

    def truncated_fraction(self, *, greedy: bool) -> float:
        """Share of completions that the token limit cut."""
        answers = self.greedy if greedy else [answer for group in self.sampled for answer in group]
        return statistics.fmean(answer.completion.finish_reason == "length" for answer in answers)

    def figures(self) -> dict[str, float]:
        """All figures under plain names, shares between 0 and 1."""
        found: dict[str, float] = {"prompts": float(len(self.greedy)), "samples": float(self.samples)}
        for name, greedy in (("greedy", True), ("sampled", False)):
            for kind in ("strict", "lenient", "formatted"):
                share = self.share(kind, greedy=greedy)
                found |= {f"{name}_{kind}": share.value, f"{name}_{kind}_error": share.error}
            found[f"{name}_tokens"] = self.mean_tokens(greedy=greedy)
            found[f"{name}_cut"] = self.truncated_fraction(greedy=greedy)
        for k in sorted({1, self.samples // 2, self.samples} - {0}):
            found[f"pass@{k}"] = self.pass_at(k).value
        return found

    def table(self) -> str:
        """The outcome for people."""
        lines = [
            f"{self.task}: {len(self.greedy)} prompts, {self.samples} samples each (± one standard error)",
            f"{'':12}{'greedy':>18}{'sampled':>18}",
        ]
        for label, kind in (("strict", "strict"), ("lenient", "lenient"), ("format", "formatted")):
            row = [str(self.share(kind, greedy=greedy)) for greedy in (True, False)]
            lines.append(f"{label:12}{row[0]:>18}{row[1]:>18}")
        tokens = [
            f"{self.mean_tokens(greedy=g):.1f} ({100 * self.truncated_fraction(greedy=g):.0f} % cut)"
            for g in (True, False)
        ]
        lines.append(f"{'tokens':12}{tokens[0]:>18}{tokens[1]:>18}")
        lines += [f"pass@{k:<7}{self.pass_at(k)!s:>36}" for k in sorted({1, self.samples // 2, self.samples} - {0})]
        return "\n".join(lines)


def evaluate(
    engine: Engine,
    task: Task,
    prompts: Sequence[Prompt],
    *,
    samples: int = 4,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    seed: int = 0,
) -> Evaluation:
    """Ask every prompt once greedily and `samples` times at `temperature`, and judge.

    Raises:
        ValueError: without prompts or samples.
    """
    if not prompts or samples < 1:
        raise ValueError(f"an evaluation needs prompts and samples, got {len(prompts)} prompts and {samples} samples")
    began = time.monotonic()
    greedy = engine.generate(prompts, SamplingParams(n=1, max_new_tokens=max_new_tokens, temperature=0.0, seed=seed))
    drawn = engine.generate(
        prompts, SamplingParams(n=samples, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    )
    return Evaluation(
        task=task.name,
        greedy=tuple(_judged(task, p, c) for p, (c,) in zip(prompts, greedy, strict=True)),
        sampled=tuple(tuple(_judged(task, p, c) for c in several) for p, several in zip(prompts, drawn, strict=True)),
        seconds=time.monotonic() - began,
    )


def pass_at_k(n: int, right: int, k: int) -> float:
    """1 − C(n − right, k) / C(n, k): the unbiased estimate from n samples (Codex, arXiv 2107.03374, eq. 1).

    Raises:
        ValueError: when k is more than n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} cannot be estimated from {n} samples; draw at least {k}")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def _judged(task: Task, prompt: Prompt, completion: Completion) -> GradedCompletion:
    return GradedCompletion(prompt=prompt, completion=completion, verdict=task.grade(prompt.row, completion.text))


def _share(per_prompt: Sequence[float]) -> Proportion:
    error = statistics.stdev(per_prompt) / math.sqrt(len(per_prompt)) if len(per_prompt) > 1 else 0.0
    return Proportion(value=statistics.fmean(per_prompt), error=error)
