"""One run, from a recipe to its summary: evaluate, train, save, evaluate again, draw.

The run's folder then contains, besides model and tokenizer: `summary.json` (before, after, seconds of training),
`metrics.jsonl` (a line a step), `rollouts.jsonl` (a line a completion), `curves.png` and `recipe.yaml`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from transformers import PrinterCallback, ProgressCallback

from dunwu._utils.distributed import ParallelContext
from dunwu._utils.logging import get_logger
from dunwu.core.protocols import Observer
from dunwu.core.records import Prompt
from dunwu.errors import ConfigError
from dunwu.observers import Console, MetricsLog, RolloutLog, draw_curves
from dunwu.recipes.evaluation import Evaluation, evaluate
from dunwu.recipes.options import Options
from dunwu.recipes.recipe import Recipe, prompt_rows, recipe_as_yaml
from dunwu.recipes.wiring import make_config, make_observers, make_task, make_trainer
from dunwu.rewards import thought
from dunwu.rollout.training_prompts import prompts_for_model
from dunwu.training.checkpoint import last_complete_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dunwu.core.protocols import Task

__all__ = ["Experiment", "ExperimentResult", "summary_metrics"]


@dataclass(frozen=True, kw_only=True)
class ExperimentResult:
    """What a run came to.

    Example: `ExperimentResult(folder=Path("runs/quickstart"), seconds=291.0, before=None, after=None, steps=[])`
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
    """Metrics of each step; empty on other processes than the main one."""


class Experiment:
    """A recipe's objects, ready to run once.

    Raises:
        DunwuError: for anything in the recipe that does not fit, before anything is trained.
    """

    def __init__(self, recipe: Recipe, *, log_every: int = 5) -> None:
        self.recipe = recipe
        self.config = make_config(recipe, disable_tqdm=True)
        self.folder = _folder(self.config.output_dir)
        self.task: Task = make_task(recipe)
        observers, self.metrics_log = _with_defaults(make_observers(recipe), log_every)
        self.trainer = make_trainer(replace(recipe, observers=[]), self.task, self.config, observers=observers)
        self.parallel: ParallelContext = self.trainer.parallel
        self.checkpoint = self._checkpoint()
        # `Console` prints the metrics; transformers' own callbacks would print them again.
        for printer in (PrinterCallback, ProgressCallback):
            self.trainer.remove_callback(printer)
        self.held_out = self._held_out_prompts()

    @property
    def is_main(self) -> bool:
        """Whether this is the process, of several, that writes and prints."""
        return self.parallel.is_main

    def run(self) -> ExperimentResult:
        """Evaluate, train, save, evaluate, and write the summary."""
        before = self.evaluate_held_out("before training")
        began = time.monotonic()
        self.trainer.train(resume_from_checkpoint=self.checkpoint)
        seconds = time.monotonic() - began
        self.trainer.save_model()
        after = self.evaluate_held_out("after training")
        result = ExperimentResult(
            folder=self.folder, seconds=seconds, before=before, after=after, steps=self.metrics_log.steps
        )
        if self.is_main:
            self._write(result)
        return result

    def evaluate_held_out(self, when: str) -> Evaluation | None:
        """Held-out evaluation of the model as it is; None where the recipe asks for none.

        Args:
            when: what is logged before it: `before training`.
        """
        section = self.recipe.evaluate
        if section is None:
            return None
        get_logger().info(f"{when}: {len(self.held_out)} held-out prompts …")
        return evaluate(
            self.trainer.engine,
            self.task,
            self.held_out,
            policy=self.trainer.model,
            version=self.trainer.state.global_step,
            parallel=self.parallel,
            samples=section.samples,
            max_new_tokens=self.config.max_completion_length,
            temperature=self.config.temperature,
            seed=self.config.seed,
        )

    def _held_out_prompts(self) -> list[Prompt]:
        section = self.recipe.evaluate
        if section is None:
            return []
        return prompts_for_model(
            prompt_rows(self.task, list(self.task.rows(section.split)[: section.rows])),
            self.trainer.model,
            self._tokenizer(),
            max_completion_length=self.config.max_completion_length,
            template_kwargs=cast("Options | None", self.config.chat_template_kwargs),
        )

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return cast("PreTrainedTokenizerBase", self.trainer.processing_class)

    def _checkpoint(self) -> str | None:
        last = last_complete_checkpoint(self.folder)
        if last is None:
            return None
        if not self.recipe.resume:
            get_logger().warning(
                f"{last} is there from an earlier run; this one starts anew (resume: true continues from it)"
            )
            return None
        get_logger().info(f"resuming from {last}")
        return str(last)

    def _write(self, result: ExperimentResult) -> None:
        summary: Options = {"task": self.task.name, "seconds": result.seconds, "steps": len(result.steps)}
        for name, evaluation in (("before", result.before), ("after", result.after)):
            found = summary_metrics(evaluation, self.task, self._tokenizer()) if evaluation is not None else None
            summary[name] = found
        (self.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        (self.folder / "recipe.yaml").write_text(recipe_as_yaml(self.recipe), encoding="utf-8")
        if result.steps:
            draw_curves(result.steps, self.folder / "curves.png", panels=self._panels(), title=self.task.name)

    def _panels(self) -> dict[str, list[str]]:
        return {
            "rewards": [f"rewards/{name}/mean" for name in self.trainer.scorer.names],
            "completion length (tokens)": ["completions/mean_length"],
            "entropy (nats)": ["entropy"],
            "groups with one reward": ["frac_reward_zero_std"],
        }


def summary_metrics(evaluation: Evaluation, task: Task, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """What `summary.json` records of one evaluation; shares between 0 and 1.

    `greedy` and `sampled` are strict accuracy; `format`, the share in the demanded format, and `thought_tokens`, the
    mean length of the thought, are those of the sampled completions; `seconds` is what the evaluation took. A task
    may add its own: its method `summary_metrics(completions, rows)` gets the sampled texts and their rows.
    """
    sampled = [one for group in evaluation.sampled for one in group]
    texts, rows = [one.completion.text for one in sampled], [one.prompt.row for one in sampled]
    named = evaluation.metrics()
    own = getattr(task, "summary_metrics", None)
    return {
        "greedy": named["greedy_strict"],
        "sampled": named["sampled_strict"],
        "format": named["sampled_formatted"],
        "seconds": evaluation.seconds,
        "thought_tokens": _mean_tokens([_thought(text) for text in texts], tokenizer),
        **(own(texts, rows) if own is not None else {}),
        **named,
    }


def _thought(text: str) -> str:
    """The thought; all of the text where it does not end."""
    found = thought(text, ("think", "reasoning"))
    return text if found is None else found


def _mean_tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> float:
    return sum(len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]) / len(texts)


def _with_defaults(named: Sequence[Observer], log_every: int) -> tuple[list[Observer], MetricsLog]:
    """Console, metrics and rollouts are watched in every run; one that the recipe names takes the default's place."""
    defaults: list[Observer] = [Console(every=log_every), MetricsLog(), RolloutLog()]
    missing = [default for default in defaults if not any(isinstance(one, type(default)) for one in named)]
    observers = [*missing, *named]
    return observers, next(one for one in observers if isinstance(one, MetricsLog))


def _folder(output_dir: object) -> Path:
    folder = Path(str(output_dir))
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"train.output_dir={str(folder)!r} is a file; name a folder, or one that can be made")
    return folder
