"""One run, from a recipe to its summary: evaluate, train, save, evaluate again, draw.

What the run's folder contains then: `reports.run_folder`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dunwu._utils.distributed import ParallelContext
from dunwu._utils.logging import get_logger
from dunwu.observers import CurvePlot, Findings, MetricsLog, RunTitle, Share, standard_observers
from dunwu.observers import HeldOut as HeldOutPoint
from dunwu.recipes.card import card_facts, card_results
from dunwu.recipes.evaluation import Evaluation
from dunwu.recipes.evaluation_file import read_evaluation, write_evaluation
from dunwu.recipes.held_out import HeldOut, make_held_out
from dunwu.recipes.options import Options
from dunwu.recipes.recipe import Recipe
from dunwu.recipes.run_files import OpenSession, RunFiles
from dunwu.recipes.start import choose_start
from dunwu.recipes.wiring import make_config, make_observers, make_task_and_check_model, make_trainer
from dunwu.reports.picture import answer_reward, draw_folder
from dunwu.reports.report_card import write_report
from dunwu.reports.run_folder import RunFolder
from dunwu.rewards import thought
from dunwu.training.interruption import RunInterrupted

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
    summary: Options = field(default_factory=dict)
    """The content of `summary.json`; empty on other processes."""


class Experiment:
    """A recipe's objects, ready to run once.

    A folder that holds a run already is left as it is: the next free name is taken, `NAME-2`.

    Args:
        recipe: the recipe.
        log_every: steps between lines on the console.
        overwrite: remove an earlier run in the folder instead.

    Raises:
        DunwuError: for anything in the recipe that does not fit, before anything is trained.
    """

    def __init__(self, recipe: Recipe, *, log_every: int = 5, overwrite: bool = False) -> None:
        self.recipe = recipe
        self.config = make_config(recipe, disable_tqdm=True)
        parallel = ParallelContext(rank=self.config.process_index, size=self.config.world_size)
        self.start = choose_start(recipe, Path(str(self.config.output_dir)), overwrite=overwrite, parallel=parallel)
        self.folder = self.start.folder
        self.config.output_dir = str(self.folder)
        self.task: Task = make_task_and_check_model(recipe)
        observers = standard_observers(make_observers(recipe), every=log_every)
        self.metrics_log = next(one for one in observers if isinstance(one, MetricsLog))
        self.picture = next(one for one in observers if isinstance(one, CurvePlot))
        self.findings = next(one for one in observers if isinstance(one, Findings))
        self.trainer = make_trainer(replace(recipe, observers=[]), self.task, self.config, observers=observers)
        self.parallel: ParallelContext = self.trainer.parallel
        self.held_out = self._held_out()
        prompts = self.held_out.prompts if self.held_out is not None else []
        self.trainer.card_facts |= card_facts(recipe, self.task, prompts)

    @property
    def is_main(self) -> bool:
        """Whether this is the process, of several, that writes and prints."""
        return self.parallel.is_main

    def run(self) -> ExperimentResult:
        """Evaluate, train, save, evaluate, and write what the run came to.

        Raises:
            RunInterrupted: by Ctrl-C or SIGTERM; model, checkpoint and figures so far are written before.
        """
        files = RunFiles(self.recipe, self.start, parallel=self.parallel)
        try:
            with files.session() as session:
                return self._run(session)
        finally:
            if self.is_main and (self.folder / "summary.json").is_file():
                self._draw_and_report()

    def _draw_and_report(self) -> None:
        """What stands in the folder, for people; last, for it says how the session has ended."""
        run = RunFolder(self.folder)
        if run.steps:
            draw_folder(run)
        write_report(run)

    def _run(self, session: OpenSession) -> ExperimentResult:
        checkpoint = str(self.start.checkpoint) if self.start.checkpoint is not None else None
        before = self._evaluated_before()
        self._prepare_picture(before)
        try:
            self.trainer.train(resume_from_checkpoint=checkpoint)
        except RunInterrupted:
            self.trainer.save_model()
            self._finish(self._result(before, None), status="interrupted")
            raise
        finally:
            session.update(self.trainer.state.global_step, self._seconds())
        self.trainer.save_model()
        after = self.evaluate_held_out("after training")
        result = self._finish(self._result(before, after), status="finished")
        if self.config.push_to_hub:  # `save_model` has pushed the model without its figures
            self.trainer.push_to_hub("Figures before and after training")
        return result

    def evaluate_held_out(self, when: str) -> Evaluation | None:
        """Held-out evaluation of the model as it is; None where the recipe asks for none.

        Args:
            when: what is logged before it: `before training`.
        """
        if self.held_out is None:
            return None
        get_logger().info(f"{when}: {len(self.held_out.prompts)} held-out prompts …")
        return self.held_out.evaluate(
            self.trainer.engine,
            self.trainer.model,
            version=self.trainer.state.global_step,
            parallel=self.parallel,
        )

    def _evaluated_before(self) -> Evaluation | None:
        """The evaluation before the first step: of a resumed run, the one that its first start has made."""
        if self.held_out is None:
            return None
        file = self.folder / "evaluation_before.jsonl"
        if self.start.checkpoint is not None:
            prompts, samples = self.held_out.prompts, self.held_out.section.samples
            there = read_evaluation(file, self.task, prompts, samples=samples)
            changed = any(name.startswith(("evaluate.", "task.", "rewards")) for name in self.start.changed)
            if not self.parallel.any(there is None or changed):
                return there
        before = self.evaluate_held_out("before training")
        if before is not None and self.is_main:
            write_evaluation(file, before)
        return before

    def _held_out(self) -> HeldOut | None:
        if self.recipe.evaluate is None:
            return None
        return make_held_out(
            self.task,
            self.recipe.evaluate,
            self.config,
            model=self.trainer.model,
            tokenizer=self._tokenizer(),
            scorer=self.trainer.scorer,
        )

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return cast("PreTrainedTokenizerBase", self.trainer.processing_class)

    def _seconds(self) -> float:
        """Seconds of training, over all starts of the run."""
        return self.metrics_log.steps[-1].get("seconds", 0.0) if self.metrics_log.steps else 0.0

    def _result(self, before: Evaluation | None, after: Evaluation | None) -> ExperimentResult:
        steps = self.metrics_log.steps
        return ExperimentResult(folder=self.folder, seconds=self._seconds(), before=before, after=after, steps=steps)

    def _finish(self, result: ExperimentResult, *, status: str) -> ExperimentResult:
        """Write what the run came to; the result with its summary."""
        if not self.is_main:
            return result
        if result.after is not None:
            write_evaluation(self.folder / "evaluation_after.jsonl", result.after)
        self.trainer.card_facts |= card_results(result.before, result.after)
        self.trainer.write_model_card(self.folder)
        summary = self._summary(result, status)
        (self.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        return replace(result, summary=summary)

    def _summary(self, result: ExperimentResult, status: str) -> Options:
        summary: Options = {
            "task": self.task.name,
            "status": status,
            "has_answers": getattr(self.task, "has_answers", True),
            "seconds": result.seconds,
            "steps": self.trainer.state.global_step,
        }
        for name, evaluation in (("before", result.before), ("after", result.after)):
            found = summary_metrics(evaluation, self.task, self._tokenizer()) if evaluation is not None else None
            summary[name] = found
        told = [{"step": one.step, "what": one.what, "remedy": one.remedy} for one in self.findings.findings]
        return {**summary, "verdict": self.findings.verdict(), "findings": told}

    def _prepare_picture(self, before: Evaluation | None) -> None:
        model, seed = Path(self.recipe.model).name, self.config.seed
        self.picture.title = self.picture.title or RunTitle(model=model, task=self.task.name, seed=seed)
        if before is not None and before.has_answers:
            self.picture.held_out = [held_out_point(0, before)]
            self.picture.answer_reward = self.picture.answer_reward or answer_reward(_graded(before))


def held_out_point(step: int, evaluation: Evaluation) -> HeldOutPoint:
    """An evaluation as the picture shows it."""
    shares = {
        kind: evaluation.share("strict", greedy=greedy) for kind, greedy in (("greedy", True), ("sampled", False))
    }
    return HeldOutPoint(
        step=step,
        **{kind: Share(value=share.value, low=share.low, high=share.high) for kind, share in shares.items()},
    )


def _graded(evaluation: Evaluation) -> Iterator[tuple[Mapping[str, float | None], bool]]:
    """Each sampled answer's scores, and whether it is right."""
    for group in evaluation.sampled:
        yield from ((one.scores, one.grade.lenient) for one in group)


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
