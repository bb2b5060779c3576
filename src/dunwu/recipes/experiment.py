"""One run, from a recipe to its summary: evaluate, train, save, evaluate again, draw.

What it is: what `dunwu train` and `dunwu quickstart` do. What it is not: a loop (`dunwu.training.trainer`).

The run's folder holds, besides the model and tokenizer: `summary.json` (before, after, seconds of training),
`metrics.jsonl` (a line a step), `rollouts.jsonl` (all that the model said), `curves.png` and `recipe.yaml`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers import PrinterCallback, ProgressCallback

from dunwu._utils.logging import get_logger
from dunwu.core.protocols import Task
from dunwu.core.records import Prompt
from dunwu.observers import Console, MetricsLog, RolloutLog, draw_curves
from dunwu.recipes.evaluation import Evaluation, GradedCompletion, evaluate
from dunwu.recipes.recipe import Recipe, make_config, make_task, make_trainer, prompt_rows
from dunwu.rewards import thought
from dunwu.rollout.prompts import PromptSettings, build_prompts
from dunwu.rollout.training_prompts import max_prompt_tokens
from dunwu.tasks.countdown_traces import summarise
from dunwu.training.checkpoint import last_complete_checkpoint
from dunwu.training.trainer import GRPOTrainer

__all__ = ["ExperimentResult", "Run", "figures"]


@dataclass(frozen=True, kw_only=True)
class ExperimentResult:
    """What a run came to.

    Example: `ExperimentResult(folder=Path("runs/quickstart"), seconds=291.0, before=…, after=…, steps=[…])`
    """

    folder: Path
    """Where everything is."""
    seconds: float
    """Wall time of training alone."""
    before: Evaluation | None
    """Held-out evaluation before the first step; None where the recipe asks for none."""
    after: Evaluation | None
    """The same prompts and random numbers after the last step."""
    steps: list[dict[str, float]]
    """Metrics of each step."""


class Run:
    """A recipe on its way: made once, finished once.

    Raises:
        ValueError: for anything in the recipe that does not fit, before anything is trained.
    """

    def __init__(self, recipe: Recipe, *, log_every: int = 5) -> None:
        self.recipe = recipe
        self.config = make_config(recipe, disable_tqdm=True)
        self.folder = Path(str(self.config.output_dir))
        self.task: Task = make_task(recipe)
        self.trainer: GRPOTrainer = make_trainer(recipe, self.task, self.config)
        self.checkpoint = self._checkpoint()
        done = int(self.checkpoint.rpartition("-")[2]) if self.checkpoint is not None else 0
        self.history = MetricsLog(self.folder / "metrics.jsonl", after=done)
        self.trainer.observers += [
            Console(self.trainer.planned_steps(), every=log_every),
            self.history,
            RolloutLog(self.folder / "rollouts.jsonl", after=done),
        ]
        # The console prints the figures; transformers' own printout would say them twice.
        for printer in (PrinterCallback, ProgressCallback):
            self.trainer.remove_callback(printer)
        self.held_out = self._held_out()

    def finish(self) -> ExperimentResult:
        """Evaluate, train, save, evaluate, and write everything down."""
        before = self.evaluate("before training")
        began = time.monotonic()
        self.trainer.train(resume_from_checkpoint=self.checkpoint)
        seconds = time.monotonic() - began
        self.trainer.save_model()
        after = self.evaluate("after training")
        outcome = ExperimentResult(
            folder=self.folder, seconds=seconds, before=before, after=after, steps=self.history.steps
        )
        if self.is_first:
            self._write(outcome)
        return outcome

    @property
    def is_first(self) -> bool:
        """Whether this is the process, of several, that writes and speaks."""
        return bool(self.trainer.is_world_process_zero())

    def evaluate(self, when: str) -> Evaluation | None:
        """Held-out evaluation of the model as it is; None where the recipe asks for none."""
        section = self.recipe.evaluate
        if section is None:
            return None
        if self.is_first:
            get_logger().info(f"{when}: {len(self.held_out)} held-out prompts …")
        return evaluate(
            self.trainer.engine,
            self.task,
            self.held_out,
            samples=section.samples,
            max_new_tokens=self.config.max_completion_length,
            temperature=self.config.temperature,
            seed=self.config.seed,
        )

    def _held_out(self) -> list[Prompt]:
        section = self.recipe.evaluate
        if section is None:
            return []
        rows = prompt_rows(self.task, list(self.task.rows(section.split)[: section.rows]))
        room = max_prompt_tokens(self.trainer.model, self.config.max_completion_length)
        prompts, _ = build_prompts(rows, self.trainer.processing_class, PromptSettings(room=room))
        return prompts

    def _checkpoint(self) -> str | None:
        last = last_complete_checkpoint(self.folder)
        if last is None:
            return None
        if not self.recipe.resume:
            get_logger().warning(
                f"{last} is there from an earlier run; this one starts anew (resume: true goes on from it)"
            )
            return None
        get_logger().info(f"going on from {last}")
        return str(last)

    def _write(self, outcome: ExperimentResult) -> None:
        tokenizer = self.trainer.processing_class
        summary: dict[str, Any] = {"task": self.task.name, "seconds": outcome.seconds, "steps": len(outcome.steps)}
        for name, evaluation in (("before", outcome.before), ("after", outcome.after)):
            summary[name] = figures(evaluation, tokenizer) if evaluation is not None else None
        (self.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        content = {name: value for name, value in asdict(self.recipe).items() if value is not None}
        text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
        (self.folder / "recipe.yaml").write_text(text, encoding="utf-8")
        if outcome.steps:
            draw_curves(outcome.steps, self.folder / "curves.png", panels=self._panels(), title=self.task.name)

    def _panels(self) -> dict[str, list[str]]:
        return {
            "rewards": [f"rewards/{name}/mean" for name in self.trainer.scorer.names],
            "completion length (tokens)": ["completions/mean_length"],
            "entropy (nats)": ["entropy"],
            "groups with one reward": ["frac_reward_zero_std"],
        }


def figures(evaluation: Evaluation, tokenizer: Any) -> dict[str, float]:
    """What `summary.json` says of one evaluation; shares between 0 and 1.

    `greedy` and `sampled` are strict accuracy; `format`, the share in the demanded format, and `thought_tokens`, the
    mean length of the thought, are those of the sampled answers; `seconds` is what the evaluation took. Where the
    thoughts hold calculations, how true they are.
    """
    answers = [answer for group in evaluation.sampled for answer in group]
    named = evaluation.figures()
    return {
        "greedy": named["greedy_strict"],
        "sampled": named["sampled_strict"],
        "format": named["sampled_formatted"],
        "seconds": evaluation.seconds,
        "thought_tokens": _mean_tokens([_thought(answer.completion.text) for answer in answers], tokenizer),
        **_truth(answers),
        **named,
    }


def _thought(text: str) -> str:
    """The thought; all of the text where it does not end."""
    found = thought(text, ("think", "reasoning"))
    return text if found is None else found


def _mean_tokens(texts: Sequence[str], tokenizer: Any) -> float:
    return sum(len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]) / len(texts)


def _truth(answers: Sequence[GradedCompletion]) -> dict[str, float]:
    """Of thoughts about a target: trials, and the shares of right arithmetic, right verdicts and repeats."""
    if "target" not in answers[0].prompt.row:
        return {}
    found = summarise([a.completion.text for a in answers], [int(a.prompt.row["target"]) for a in answers])
    return {
        name: float(value) for name, value in asdict(found).items() if value is not None and name != "completions"
    }
