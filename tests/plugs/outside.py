"""A package of somebody else's: one plug of each kind, none of which Dunwu knows of."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch

from dunwu import (
    Completion,
    Grade,
    Group,
    LossInputs,
    LossOutputs,
    Observer,
    Prompt,
    RunInfo,
    SamplingParams,
    StepResult,
)
from dunwu.engines import TransformersEngine
from dunwu.model.weights import named_weights


def sapo(x: LossInputs, /, *, tau_positive: float = 1.0, tau_negative: float = 1.05) -> LossOutputs:
    """Soft adaptive policy optimisation (arXiv 2511.20347): a sigmoid of the ratio in the place of the clip.

    f(ρ) = σ(τ(ρ − 1)) · 4/τ, whose slope at ρ = 1 is 1, with a τ for each sign of the advantage.
    """
    tau_B1 = torch.where(x.advantages_B1 > 0, tau_positive, tau_negative)
    gate_BC = torch.sigmoid(tau_B1 * (x.ratio_BC - 1)) * 4 / tau_B1
    return LossOutputs(loss_BC=-gate_BC * x.advantages_B1)


class OwnWeights:
    """An engine with a copy of the weights, as one on another device or server has: what is not synced is stale."""

    def __init__(self, model: Any, tokenizer: Any, *, greeting: str = "") -> None:
        self.tokenizer, self.greeting = tokenizer, greeting
        self.inner = TransformersEngine(copy.deepcopy(model), tokenizer)
        self.versions: list[int] = []
        self.is_open = False

    def sync_weights(self, policy: torch.nn.Module, *, version: int) -> None:
        self.versions.append(version)
        self.inner.model.load_state_dict(dict(named_weights(policy)), strict=False)

    @contextmanager
    def session(self) -> Iterator[None]:
        self.is_open = True
        try:
            yield
        finally:
            self.is_open = False

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
        assert self.is_open, "asked outside of its session"
        with self.inner.session():
            return self.inner.generate(prompts, sampling)


class Echo:
    """An environment that repeats the model's last words back to it, so many times."""

    def __init__(self, *, times: int = 1) -> None:
        self.times = times

    def reply(self, row: Mapping[str, Any], messages: Sequence[Mapping[str, str]]) -> dict[str, str] | None:
        answers = sum(message["role"] == "assistant" for message in messages)
        return {"role": "user", "content": f"{messages[-1]['content'][:2]}?"} if answers <= self.times else None


class Tally(Observer):
    """Counts what it hears."""

    heard: ClassVar[list[str]] = []  # shared: a recipe makes the object by itself

    def on_run_start(self, run: RunInfo) -> None:
        self.heard.append(f"start {run.total_steps}")

    def on_rollouts(self, step: int, groups: Sequence[Group]) -> None:
        self.heard.append(f"rollouts {step}")

    def on_step(self, step: StepResult) -> None:
        self.heard.append(f"step {step.index}")

    def on_run_end(self) -> None:
        self.heard.append("end")


def says_a(completions: Sequence[Any], **columns: Any) -> list[float]:
    """Share of the digit 1 in what the model wrote."""
    texts = [
        c if isinstance(c, str) else "".join(m["content"] for m in c if m["role"] == "assistant") for c in completions
    ]
    return [text.count("1") / max(1, len(text)) for text in texts]


class Ones:
    """A task: say ones. It is no dataclass and knows nothing of ours but the method names."""

    name = "ones"

    def __init__(self, *, size: int = 8) -> None:
        self.size = size
        self.rewards = (says_a,)
        self.max_reward = 1.0

    def rows(self, split: str) -> list[dict[str, Any]]:
        start = {"train": 1, "validation": 100, "test": 200}[split]
        return [{"n": start + i} for i in range(self.size)]

    def prompt(self, row: Mapping[str, Any]) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"{row['n']} 3 4 = 10"}]

    def gold_completion(self, row: Mapping[str, Any]) -> str:
        return "111"

    def grade(self, row: Mapping[str, Any], text: str) -> Grade:
        right = set(text) == {"1"}
        return Grade(strict=right, lenient="1" in text, formatted=right)
