"""What a recipe's run adds to its model's card: task, data, a question of its own, figures before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dunwu.hub.sources import is_on_disk, looks_local
from dunwu.model.card import CardResult
from dunwu.tasks import TASKS

if TYPE_CHECKING:
    from dunwu.core.protocols import Task
    from dunwu.core.records import Prompt
    from dunwu.recipes.evaluation import Evaluation, GradeKind
    from dunwu.recipes.recipe import Recipe

__all__ = ["card_facts", "card_results"]

_ROWS: tuple[tuple[str, GradeKind, bool], ...] = (
    ("correct, greedy", "strict", True),
    ("correct, sampled", "strict", False),
    ("in the required format, sampled", "formatted", False),
)


def card_facts(recipe: Recipe, task: Task, held_out: Sequence[Prompt]) -> dict[str, Any]:
    """Fields of `ModelCard` that the recipe knows."""
    source = getattr(task, "source", None)
    on_a_hub = isinstance(source, str) and "/" in source and not is_on_disk(source) and not looks_local(source)
    facts: dict[str, Any] = {"task": task.name, "recipe": "recipe.yaml"}
    if on_a_hub:
        facts["datasets"] = (source,)
    if held_out and recipe.task["name"] in set(TASKS) - {"own"}:  # rows of one's own are nobody else's business
        facts["prompt"] = held_out[0].row["prompt"]
    return facts


def card_results(before: Evaluation | None, after: Evaluation | None) -> dict[str, Any]:
    """Fields of `ModelCard` for the figures before and after; none where there are none."""
    if before is None or after is None:
        return {}
    both = (before, after)
    results = [
        CardResult(label=label, before=shares[0], after=shares[1])
        for label, kind, greedy in (_ROWS if after.has_answers else ())
        for shares in [[str(evaluation.share(kind, greedy=greedy)) for evaluation in both]]
    ]
    rewards = [evaluation.mean_rewards(greedy=False) for evaluation in both]
    shown = rewards[1] if not after.has_answers else {}
    numbers = {f"{name}, sampled": [each[name] for each in rewards] for name in shown if name in rewards[0]}
    numbers["tokens a completion, sampled"] = [evaluation.mean_tokens(greedy=False) for evaluation in both]
    results += [
        CardResult(label=label, before=f"{was:.2f}", after=f"{now:.2f}") for label, (was, now) in numbers.items()
    ]
    interval = "; in brackets the 95 % interval (Wilson's score)" if after.has_answers else ""
    measured = f"{len(after.greedy)} held-out prompts, {after.samples} samples each{interval}."
    return {"results": tuple(results), "results_of": measured}
