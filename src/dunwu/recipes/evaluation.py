"""How good a model is on a task: greedy and sampled, strict and lenient, with intervals.

`Task.grade` decides what is right, whatever the rewards pay for; the mean rewards are given beside it.

    report = evaluate(engine, task, prompts, samples=4, max_new_tokens=160)
    print(report.table())
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from dunwu._utils.distributed import ParallelContext
from dunwu._utils.language import marked, translated
from dunwu._utils.terminal_text import pad_left, pad_right
from dunwu.core.proportion import Proportion, mean_proportion
from dunwu.core.protocols import Engine, Scorer, Task
from dunwu.core.records import Completion, Grade, Prompt, SamplingParams
from dunwu.engines import ready
from dunwu.errors import ConfigError
from dunwu.rollout.collect import collect

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Evaluation",
    "GradeKind",
    "GradedCompletion",
    "evaluate",
    "pass_at_k",
]

GradeKind: TypeAlias = Literal["strict", "lenient", "formatted"]
"""A field of `Grade`."""

_KINDS: Mapping[GradeKind, str] = {
    "strict": marked("strict"),
    "lenient": marked("lenient"),
    "formatted": marked("format"),
}
"""Kind of grade to its row's heading."""


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
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """Each reward function's value; empty where rewards were not asked for."""
    reward: float | None = None
    """Their weighted sum."""


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
    has_answers: bool = True
    """Whether the task knows what is right; where it does not, the rewards are all there is."""

    def share(self, kind: GradeKind, *, greedy: bool) -> Proportion:
        """Share of completions whose grade is true in `kind`."""
        groups = [(one,) for one in self.greedy] if greedy else list(self.sampled)
        shares = [statistics.fmean(getattr(one.grade, kind) for one in group) for group in groups]
        return mean_proportion(shares, samples=len(groups[0]))

    def pass_at(self, k: int, kind: GradeKind = "strict") -> Proportion:
        """Probability that at least one of k samples is right, averaged over prompts."""
        return mean_proportion(
            [pass_at_k(len(group), sum(getattr(one.grade, kind) for one in group), k) for group in self.sampled]
        )

    def mean_rewards(self, *, greedy: bool) -> dict[str, float]:
        """Means: the weighted sum under `reward`, each function under `reward/NAME`; NaN where nothing scored."""
        everyone = self._all(greedy)
        names = list(everyone[0].scores)
        if not names:
            return {}
        columns = {"reward": [one.reward for one in everyone]}
        columns |= {f"reward/{name}": [one.scores.get(name) for one in everyone] for name in names}
        return {name: _mean(values) for name, values in columns.items()}

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
                found[f"{name}_{kind}"] = share.value
                found |= {f"{name}_{kind}_low": share.low, f"{name}_{kind}_high": share.high}
            found[f"{name}_tokens"] = self.mean_tokens(greedy=greedy)
            found[f"{name}_cut"] = self.truncated_fraction(greedy=greedy)
            prefix = "greedy_" if greedy else ""
            found |= {f"{prefix}{reward}": mean for reward, mean in self.mean_rewards(greedy=greedy).items()}
        return found | {f"pass@{k}": self.pass_at(k).value for k in self._ks()}

    def table(self) -> str:
        """The same as a table for people, with 95 % intervals."""
        lines = [
            translated(f"{self.task}: {len(self.greedy)} prompts, {self.samples} samples each [95 % interval]"),
            _row("", translated("greedy"), translated("sampled")),
        ]
        for kind in _KINDS if self.has_answers else ():
            row = [str(self.share(kind, greedy=greedy)) for greedy in (True, False)]
            lines.append(_row(translated(_KINDS[kind]), *row))
        tokens = [
            translated(f"{self.mean_tokens(greedy=g):.1f} ({100 * self.truncated_fraction(greedy=g):.0f} % cut)")
            for g in (True, False)
        ]
        lines.append(_row(translated("tokens"), *tokens))
        greedy, sampled = self.mean_rewards(greedy=True), self.mean_rewards(greedy=False)
        lines += [_row(_short(name), f"{greedy[name]:.3f}", f"{sampled[name]:.3f}") for name in greedy]
        lines += [f"{f'pass@{k}':22}{self.pass_at(k)!s:>44}" for k in self._ks() if self.has_answers]
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
    scorer: Scorer | None = None,
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
        engine, task: make the completions, and grade them.
        prompts: from `rollout.training_prompts.prompts_for_model`.
        scorer: the rewards, if they are to be measured too.
        policy, version: the model whose weights the engine must have, and its steps; None: those it has.
        parallel: the ranks among which the prompts are shared; each gets the whole evaluation.
        samples, max_new_tokens, temperature, seed: how many sampled completions a prompt, and how they are drawn.

    Raises:
        ConfigError: without prompts or samples.
        RewardError: when a reward fails, as in training.
    """
    began = time.monotonic()
    sampling = SamplingParams(n=samples, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    # Forced: a best checkpoint loaded at a run's end changes the weights, and no optimizer step shows it.
    with ready(engine, policy, version=version, force=True):
        answers = _answers(engine, task, prompts, scorer, sampling, parallel or ParallelContext())
    return Evaluation(
        task=task.name,
        greedy=tuple(one for one, _ in answers),
        sampled=tuple(several for _, several in answers),
        seconds=time.monotonic() - began,
        has_answers=getattr(task, "has_answers", True),
    )


def _answers(
    engine: Engine,
    task: Task,
    prompts: Sequence[Prompt],
    scorer: Scorer | None,
    sampling: SamplingParams,
    parallel: ParallelContext,
) -> list[tuple[GradedCompletion, tuple[GradedCompletion, ...]]]:
    """The greedy and the sampled answers to each prompt, in order, from all ranks."""
    if not prompts or sampling.n < 1:
        raise ConfigError(
            f"an evaluation needs prompts and samples, got {len(prompts)} prompts and {sampling.n} samples"
        )
    mine = parallel.share(list(enumerate(prompts)))
    asked = [prompt for _, prompt in mine]
    greedy = _graded(engine, task, asked, scorer, replace(sampling, n=1, temperature=0.0))
    sampled = _graded(engine, task, asked, scorer, sampling)
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
    engine: Engine, task: Task, prompts: Sequence[Prompt], scorer: Scorer | None, sampling: SamplingParams
) -> list[tuple[GradedCompletion, ...]]:
    if not prompts:
        return []
    if scorer is None:
        completions = engine.generate(prompts, sampling)
        return [
            tuple(GradedCompletion(prompt=p, completion=c, grade=task.grade(p.row, c.text)) for c in several)
            for p, several in zip(prompts, completions, strict=True)
        ]
    return [
        tuple(
            GradedCompletion(
                prompt=group.prompt,
                completion=rollout.completion,
                grade=task.grade(group.prompt.row, rollout.completion.text),
                scores=rollout.scores,
                reward=rollout.reward,
            )
            for rollout in group.rollouts
        )
        for group in collect(prompts, engine, scorer, sampling)
    ]


def _mean(values: Sequence[float | None]) -> float:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else math.nan


def _row(label: str, greedy: str, sampled: str) -> str:
    return pad_right(label, 22) + pad_left(greedy, 22) + pad_left(sampled, 22)


def _short(name: str) -> str:
    """A reward's name in its column."""
    own = name.removeprefix("reward/")
    return own if len(own) < 22 else f"{own[:20]}…"
