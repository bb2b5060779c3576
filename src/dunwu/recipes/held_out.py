"""The held-out evaluation that a recipe describes: by a run before and after, and by `dunwu eval` at any time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dunwu._utils.distributed import ParallelContext
from dunwu.config.options import as_dict
from dunwu.core.protocols import Engine, Scorer, Task
from dunwu.core.records import Prompt
from dunwu.recipes.evaluation import Evaluation, evaluate
from dunwu.recipes.recipe import EvaluateSection, prompt_rows
from dunwu.rollout.training_prompts import prompts_for_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from dunwu.config import GRPOConfig

__all__ = ["HeldOut", "make_held_out"]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Prompts, and how they are completed and judged: whoever evaluates with it gets the same figures.

    Example: `EvaluateSection(split="test", rows=500, samples=4)` of a run with a token limit of 120 and seed 42 makes
    one whose figures `dunwu eval` repeats to the digit.
    """

    task: Task
    """Judges the completions."""
    prompts: list[Prompt]
    """The held-out rows as the model reads them."""
    section: EvaluateSection
    """The recipe's `evaluate`."""
    max_new_tokens: int
    """Token limit of a completion, as in training."""
    temperature: float = 1.0
    """Of the sampled completions, as in training."""
    seed: int = 0
    """Of the sampled completions: the run's."""
    scorer: Scorer | None = None
    """The rewards, where they are measured too."""

    def evaluate(
        self, engine: Engine, policy: PreTrainedModel, *, version: int = 0, parallel: ParallelContext | None = None
    ) -> Evaluation:
        """Complete and judge; see `evaluation.evaluate`."""
        return evaluate(
            engine,
            self.task,
            self.prompts,
            scorer=self.scorer,
            policy=policy,
            version=version,
            parallel=parallel,
            samples=self.section.samples,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=self.seed,
        )


def make_held_out(
    task: Task,
    section: EvaluateSection,
    config: GRPOConfig,
    *,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    scorer: Scorer | None,
) -> HeldOut:
    """The held-out evaluation of a recipe.

    Args:
        task: what `wiring.make_task` made of the recipe.
        section: the recipe's `evaluate`.
        config: what `wiring.make_config` made of it: token limit, temperature, seed, template.
        model: whose context the prompts must fit.
        tokenizer: its tokenizer.
        scorer: the rewards; left out where the recipe says `evaluate: {rewards: false}`.

    Raises:
        DataError: for a prompt that does not fit.
    """
    rows = list(task.rows(section.split)[: section.rows])
    return HeldOut(
        task=task,
        prompts=prompts_for_model(
            prompt_rows(task, rows),
            model,
            tokenizer,
            max_completion_length=config.max_completion_length,
            template_kwargs=as_dict(config.chat_template_kwargs),
        ),
        section=section,
        max_new_tokens=config.max_completion_length,
        temperature=config.temperature,
        seed=config.seed,
        scorer=scorer if section.rewards else None,
    )
