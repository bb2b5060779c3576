"""An evaluation in a file: a line a graded completion, for the report, for readers, and for a run that is resumed."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dunwu.core.protocols import Task
from dunwu.core.records import Completion, Grade, Prompt
from dunwu.recipes.evaluation import Evaluation, GradedCompletion

__all__ = ["read_evaluation", "write_evaluation"]


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write it; a kill leaves the earlier file. `sample` is None for a greedy completion."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.tmp")
    with beside.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as out:
        for line in _lines(evaluation):
            out.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
    os.replace(beside, path)


def read_evaluation(path: Path, task: Task, prompts: Sequence[Prompt], *, samples: int) -> Evaluation | None:
    """The evaluation in the file, if it is one of these prompts; None otherwise. It has no log-probabilities.

    Args:
        path: the file.
        task: the task that judged.
        prompts: what was asked.
        samples: sampled completions a prompt.
    """
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        found: dict[int, dict[int | None, GradedCompletion]] = defaultdict(dict)
        for entry in entries:
            found[entry["row"]][entry["sample"]] = _graded(entry, prompts[entry["row"]])
        rows = [found[row] for row in range(len(prompts))]
        return Evaluation(
            task=task.name,
            greedy=tuple(row[None] for row in rows),
            sampled=tuple(tuple(row[sample] for sample in range(samples)) for row in rows),
            seconds=float(entries[0]["seconds"]),
            has_answers=getattr(task, "has_answers", True),
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None  # not there, half of it, or of other prompts: it is made anew


def _lines(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    for row, (greedy, several) in enumerate(zip(evaluation.greedy, evaluation.sampled, strict=True)):
        yield {**_line(row, None, greedy), "seconds": evaluation.seconds}
        for sample, one in enumerate(several):
            yield _line(row, sample, one)


def _line(row: int, sample: int | None, one: GradedCompletion) -> dict[str, Any]:
    return {
        "row": row,
        "sample": sample,
        "prompt": one.prompt.text,
        "columns": {name: value for name, value in one.prompt.row.items() if name != "prompt"},
        "completion": one.completion.text,
        "ids": list(one.completion.ids),
        "tokens": one.completion.sampled_tokens,
        "finish_reason": one.completion.finish_reason,
        "strict": one.grade.strict,
        "lenient": one.grade.lenient,
        "formatted": one.grade.formatted,
        "scores": dict(one.scores),
        "reward": one.reward,
    }


def _graded(entry: Mapping[str, Any], prompt: Prompt) -> GradedCompletion:
    if entry["prompt"] != prompt.text:
        raise ValueError("another prompt")
    return GradedCompletion(
        prompt=prompt,
        completion=Completion(
            ids=tuple(entry["ids"]), sampler_logps=(), finish_reason=entry["finish_reason"], text=entry["completion"]
        ),
        grade=Grade(strict=entry["strict"], lenient=entry["lenient"], formatted=entry["formatted"]),
        scores=entry["scores"],
        reward=entry["reward"],
    )
