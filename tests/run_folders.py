"""Run folders as a run writes them, made of the real records, without training."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dunwu.core.metrics import rollout_row
from dunwu.core.records import Completion, Grade, Group, Prompt, Rollout
from dunwu.recipes.evaluation import Evaluation, GradedCompletion
from dunwu.recipes.evaluation_file import write_evaluation
from dunwu.recipes.recipe import load_recipe, recipe_as_yaml
from dunwu.reports.run_record import Outcome, RunRecord, Session, write_record

REWARDS = ("think_answer_format", "thought_lines_differ", "equation_solves")


SETTINGS = {
    "rewards": "[think_answer_format, thought_lines_differ, equation_solves]",
    "train.reward_weights": "[0.3, 1.0, 1.0]",
    "train.learning_rate": "2.5e-4",
    "train.lr_scheduler_type": "linear",
    "train.lr_scheduler_kwargs": "null",
    "train.max_completion_length": "120",
    "train.beta": "0.008",
}
"""Of a run that was made here: the recipe's own may change."""


def make_run(
    folder: Path,
    *,
    options: Mapping[str, str] | None = None,
    rewards: Sequence[float] = (1.0,) * 40,
    before: Sequence[Sequence[bool]] | None = None,
    after: Sequence[Sequence[bool]] | None = None,
    ended: Outcome = "finished",
    cut: float = 0.0,
    dead: float = 0.0,
    texts: Mapping[int, str] | None = None,
    paid: Sequence[Sequence[float]] | None = None,
) -> Path:
    """A run of Countdown.

    Args:
        folder: where.
        options: overrides of the quickstart's recipe.
        rewards: the mean reward of each step.
        before, after: for each held-out prompt whether the greedy completion and then each sample is right.
        ended: how its only start ended.
        cut, dead: share of completions that were cut, and of dead groups, in every step.
        texts: row to the text of all its completions after training.
        paid: as `after`, the rewards, in place of 1.3 for what is wrong and 2.3 for what is right.
    """
    given = {"train.output_dir": str(folder), "train.max_steps": str(len(rewards) or 40), **SETTINGS}
    given |= options or {}
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipe_as_yaml(load_recipe("quickstart", given)), encoding="utf-8")
    session = Session(started="2026-11-21T18:00:00+00:00", to_step=len(rewards), seconds=60.0, ended=ended)
    versions = {"dunwu": "0.1.0", "torch": "2.13.0"}
    record = RunRecord(versions=versions, machine="x86_64, 2 cores", commit="4fd52a1", sessions=(session,))
    write_record(folder, record)
    write_lines(folder / "metrics.jsonl", [_metrics(i + 1, reward, cut, dead) for i, reward in enumerate(rewards)])
    write_lines(folder / "rollouts.jsonl", [row for i in range(len(rewards)) for row in rollout_rows(i + 1)])
    halves = {}
    for when, answers in (("before", before), ("after", after)):
        if answers is not None:
            shown, earned = (texts, paid) if when == "after" else ({}, None)
            halves[when] = evaluation = make_evaluation(answers, texts=shown or {}, paid=earned)
            write_evaluation(folder / f"evaluation_{when}.jsonl", evaluation)
    if ended in ("finished", "interrupted") and rewards:
        summary: dict[str, Any] = {"task": "countdown", "status": ended, "seconds": 60.0, "steps": len(rewards)}
        summary |= {when: halves[when].metrics() if when in halves else None for when in ("before", "after")}
        (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def write_lines(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def _metrics(step: int, reward: float, cut: float, dead: float) -> dict[str, float]:
    return {
        "step": float(step),
        "seconds": 1.5 * step,
        "num_completions": 4.0,
        "completions/mean_length": 20.0,
        "completions/clipped_ratio": cut,
        "frac_reward_zero_std": dead,
        "reward": reward,
        "grad_norm": 0.1,
    }


def rollout_rows(step: int) -> list[dict[str, Any]]:
    """Two groups of two, rows 10·step and 10·step + 1; the second sample of each is right, and the last one cut."""
    rows = []
    for row in (10 * step, 10 * step + 1):
        right = _rollout(2.3, 0.7, f"<answer>{step}</answer>", "stop" if row % 10 == 0 else "length", 30 + row % 10)
        group = Group(prompt=prompt(row), rollouts=(_rollout(1.3, -0.7, "no\nanswer", "stop", 20), right))
        rows += [rollout_row(step, group, sample) for sample in range(2)]
    return rows


def _rollout(reward: float, advantage: float, text: str, finish: Any, tokens: int) -> Rollout:
    completion = Completion(ids=(5,) * tokens, sampler_logps=(-0.1,) * tokens, finish_reason=finish, text=text)
    scores = dict(zip(REWARDS, (1.0, 1.0, float(reward > 2)), strict=True))
    return Rollout(completion=completion, reward=reward, scores=scores, advantage=advantage)


def prompt(row: int) -> Prompt:
    columns = {"nums": [3, 14, row], "target": 42 + row}
    text = f"3 14 {row} = {42 + row}"
    return Prompt(row_index=row, row=columns, original=text, text=f"<|user|>{text}<|end|>", ids=(1, 2))


def make_evaluation(
    answers: Sequence[Sequence[bool]], *, texts: Mapping[int, str], paid: Sequence[Sequence[float]] | None = None
) -> Evaluation:
    """Of prompts whose greedy completion and samples are right or wrong."""
    graded = [
        [
            _graded(row, right, texts.get(row, "so 51" if right else "no idea"), paid[row][place] if paid else None)
            for place, right in enumerate(several)
        ]
        for row, several in enumerate(answers)
    ]
    return Evaluation(
        task="countdown",
        greedy=tuple(several[0] for several in graded),
        sampled=tuple(tuple(several[1:]) for several in graded),
    )


def _graded(row: int, right: bool, text: str, paid: float | None) -> GradedCompletion:
    reward = paid if paid is not None else 2.3 if right else 1.3
    rollout = replace(_rollout(2.3 if right else 1.3, 0.0, text, "stop", 7), reward=reward)
    return GradedCompletion(
        prompt=prompt(row),
        completion=rollout.completion,
        grade=Grade(strict=right, lenient=right, formatted=True),
        scores=rollout.scores,
        reward=reward,
    )


def answers(right: int, of: int, samples: int = 2) -> list[list[bool]]:
    """The first `right` prompts are answered rightly, greedily and in every sample."""
    return [[row < right] * (1 + samples) for row in range(of)]
