"""What a run's answers to each held-out prompt earned: for pairs of answers to the same prompt."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from dunwu.reports.run_folder import Entry, RunFolder

__all__ = ["HeldOutScores", "ScoreKind", "held_out_scores", "paired_differences"]

ScoreKind: TypeAlias = Literal["sampled_strict", "greedy_strict", "reward"]
"""What is compared: the share of right samples, whether the greedy completion is right, the samples' mean reward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutScores:
    """One number a prompt and kind.

    Example: `HeldOutScores(scores={"greedy_strict": {"3 14 17 = 51": 1.0}}).of("greedy_strict")`
    """

    scores: Mapping[ScoreKind, Mapping[str, float]] = field(default_factory=dict)
    """Kind to prompt to number; a prompt is named by its row, its text and its columns."""

    def of(self, kind: ScoreKind) -> Mapping[str, float]:
        """Prompt to number; empty where there was no evaluation."""
        return self.scores.get(kind, {})


def held_out_scores(run: RunFolder, when: Literal["before", "after"] = "after") -> HeldOutScores:
    """Read `evaluation_before.jsonl` or `evaluation_after.jsonl`."""
    found: dict[ScoreKind, dict[str, list[float]]] = {
        "sampled_strict": defaultdict(list),
        "greedy_strict": defaultdict(list),
        "reward": defaultdict(list),
    }
    for entry in run.evaluated(when):
        name, is_greedy, strict = _prompt(entry), entry.get("sample") is None, entry.get("strict")
        if strict is not None:
            found["greedy_strict" if is_greedy else "sampled_strict"][name].append(float(strict))
        if not is_greedy and entry.get("reward") is not None:
            found["reward"][name].append(float(entry["reward"]))
    return HeldOutScores(
        scores={
            kind: {name: statistics.fmean(values) for name, values in by_prompt.items()}
            for kind, by_prompt in found.items()
        }
    )


def paired_differences(
    first: Sequence[HeldOutScores], second: Sequence[HeldOutScores], kind: ScoreKind
) -> dict[str, float]:
    """Second minus first for each prompt that all runs answered, means over the runs of a setting."""
    tables = [[one.of(kind) for one in side] for side in (first, second)]
    shared = [name for name in tables[0][0] if all(name in table for side in tables for table in side)]
    means = [{name: statistics.fmean(table[name] for table in side) for name in shared} for side in tables]
    return {name: means[1][name] - means[0][name] for name in shared}


def _prompt(entry: Entry) -> str:
    parts = [entry.get("row"), entry.get("prompt"), entry.get("columns")]
    return json.dumps(parts, sort_keys=True, default=str)
