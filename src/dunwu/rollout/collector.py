"""A step's prompts become what the trainer learns from: sampled, scored, compared, packed; on every rank its share.

What it is: the order in which `rollout`'s functions are called with a run's settings, and what ranks tell each other.
What it is not: the loop, the loss, or an engine.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from dunwu._utils.distributed import gathered
from dunwu._utils.logging import voice
from dunwu.config import GRPOConfig
from dunwu.core.algorithm import Objective, denominator
from dunwu.core.metrics import RolloutFacts, rollout_facts, rollout_metrics
from dunwu.core.protocols import Engine, Scorer
from dunwu.core.records import Batch, Group, Pending, Prompt, Sampling
from dunwu.model.reference import Reference
from dunwu.rollout.collect import collect, kl_penalties, with_advantages, with_penalties
from dunwu.rollout.micro_batches import counted_lengths, pack
from dunwu.rollout.token_budget import TokenBudget

__all__ = ["Collector", "warn_of_other_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """Everything a step needs besides its prompts.

    Example: `Collector(args=args, objective=objective, engine=engine, scorer=runner, reference=None, precision=ctx)`
    """

    args: GRPOConfig
    """The run's options."""
    objective: Objective
    """The algorithm."""
    engine: Engine
    """Makes completions."""
    scorer: Scorer
    """Scores them."""
    reference: Reference | None
    """The reference model; None without a KL term."""
    precision: Callable[[], AbstractContextManager[Any]]
    """The trainer's autocast: the reference must compute as the policy does."""
    budget: TokenBudget
    """Tokens a forward pass may compute."""

    def step(self, prompts: Sequence[Prompt], model: Any, index: int) -> Pending:
        """Sample and pack step `index` from the weights of `model`; this rank's share of the prompts."""
        began = time.perf_counter()
        self.engine.load(model)
        groups = self._sampled(prompts, self.sampling(step=index))
        rollout_time = time.perf_counter() - began
        with self.precision():
            self.budget.settle(model, lambda tokens: self._sample(groups, tokens))
        if self.objective.beta and self.objective.kl_in == "reward":
            groups = self._penalised(groups)
        groups = with_advantages(groups, self.objective, others=self._others(groups))
        masked = self.args.mask_truncated_completions
        lengths = gathered(counted_lengths(groups, mask_truncated=masked), self.args.world_size)
        return Pending(
            groups=groups,
            batches=self._packed(groups),
            denominator=denominator(lengths, self.objective.aggregation, self.args.max_completion_length),
            updates_left=self.args.num_iterations,
            metrics={
                **rollout_metrics(gathered(rollout_facts(groups), self.args.world_size)),
                "time/rollout": rollout_time,
            },
        )

    def held_out(self, prompts: Sequence[Prompt], model: Any) -> list[RolloutFacts]:
        """Facts of rollouts for an evaluation with the weights of `model`, from all ranks."""
        self.engine.load(model)
        # The step is fixed, so that two evaluations draw the same random numbers and differ by the weights alone.
        sampling = self.sampling(step=-1, n=self.args.num_generations_eval or self.args.num_generations)
        return gathered(rollout_facts(self._sampled(prompts, sampling)), self.args.world_size)

    def sampling(self, *, step: int, n: int | None = None) -> Sampling:
        """How the run samples at a step."""
        args = self.args
        return Sampling(
            n=n or args.num_generations,
            max_new_tokens=args.max_completion_length,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            min_p=args.min_p or 0.0,
            repetition_penalty=args.repetition_penalty,
            stop=tuple(args.stop_strings or ()),
            seed=args.seed,
            step=step,
        )

    def _sampled(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Group]:
        # Every world_size-th prompt: groups stay whole, so that no reward has to travel.
        share = prompts[self.args.process_index :: self.args.world_size]
        with self.engine.awake():
            return collect(share, self.engine, self.scorer, sampling)

    def _packed(self, groups: list[Group]) -> list[Batch]:
        batches = pack(
            groups,
            aggregation=self.objective.aggregation,
            tokens=self._tokens(),
            mask_truncated=self.args.mask_truncated_completions,
            skip_zero_advantage=self.objective.zero_advantage_is_free,
            shared_prompts=self.budget.shared_prompts,
        )
        return self._with_references(batches) if self.objective.beta else batches

    def _penalised(self, groups: list[Group]) -> list[Group]:
        everything = pack(
            groups, aggregation="token", tokens=self._tokens(), shared_prompts=self.budget.shared_prompts
        )
        penalties = kl_penalties(self._with_references(everything), self.objective.kl_estimator)
        return with_penalties(groups, [self.objective.beta * penalty for penalty in penalties])

    def _sample(self, groups: list[Group], tokens: int) -> list[Batch]:
        batches = pack(groups[:1], aggregation="token", tokens=tokens, shared_prompts=self.budget.shared_prompts)
        return [batch.to(self.args.device) for batch in batches]

    def _tokens(self) -> int:
        assert self.budget.tokens is not None, "settled before anything is packed"
        return self.budget.tokens

    def _with_references(self, batches: list[Batch]) -> list[Batch]:
        _, done = self.budget.attempt(
            batches,
            lambda parts: [self._with_reference(batch) for batch in parts],
            undo=lambda: None,
            can_retry=lambda: True,
        )
        return done

    def _with_reference(self, batch: Batch) -> Batch:
        assert self.reference is not None
        with self.precision():
            logps = self.reference.logps(batch.to(self.args.device), self.args.temperature)
        return replace(batch, reference_logps_BC=logps.to(batch.mask_BC.device))

    def _others(self, groups: list[Group]) -> list[Group]:
        """Groups of other ranks, where a batch-wide standard deviation needs their rewards."""
        if self.args.world_size == 1 or self.objective.scale != "batch":
            return []
        keys = {group.prompt.key for group in groups}
        return [group for group in gathered(groups, self.args.world_size) if group.prompt.key not in keys]


def warn_of_other_rows(prompts: Sequence[Prompt], world_size: int) -> None:
    """Say where processes hold different rows: each takes its share of a list that should be one."""
    digest = hashlib.sha256("\0".join(prompt.text for prompt in prompts).encode()).hexdigest()
    if len(set(gathered([digest], world_size))) > 1 and os.environ.get("RANK", "0") == "0":
        voice().warning(
            "the processes hold different training rows, so some are seen twice and others never: give the split or "
            "the shuffle before it a seed"
        )
