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

from dunwu._utils.distributed import all_gather_list
from dunwu._utils.logging import get_logger
from dunwu.config import GRPOConfig
from dunwu.core.algorithm import AlgorithmConfig, loss_denominator
from dunwu.core.metrics import RolloutStats, rollout_metrics, rollout_stats
from dunwu.core.protocols import Engine, Scorer
from dunwu.core.records import Group, MicroBatch, PendingRollouts, Prompt, SamplingParams
from dunwu.model.reference import ReferenceModel
from dunwu.rollout.collect import add_advantages, collect, kl_penalties, subtract_kl_penalty
from dunwu.rollout.micro_batches import make_micro_batches, trained_token_counts
from dunwu.rollout.token_budget import TokenBudget

__all__ = ["RolloutCollector", "warn_if_ranks_differ"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutCollector:
    """Everything a step needs besides its prompts.

    Example: `RolloutCollector(args=args, objective=objective, engine=engine, scorer=runner, reference=None, …)`
    """

    args: GRPOConfig
    """The run's options."""
    objective: AlgorithmConfig
    """The algorithm."""
    engine: Engine
    """Makes completions."""
    scorer: Scorer
    """Scores them."""
    reference: ReferenceModel | None
    """The reference model; None without a KL term."""
    precision: Callable[[], AbstractContextManager[Any]]
    """The trainer's autocast: the reference must compute as the policy does."""
    budget: TokenBudget
    """Tokens a forward pass may compute."""

    def step(self, prompts: Sequence[Prompt], model: Any, index: int) -> PendingRollouts:
        """Sample and pack step `index` from the weights of `model`; this rank's share of the prompts."""
        began = time.perf_counter()
        self.engine.sync_weights(model, version=index)
        groups = self._sampled(prompts, self.sampling(step=index))
        rollout_time = time.perf_counter() - began
        with self.precision():
            self.budget.settle(model, lambda tokens: self._sample(groups, tokens))
        if self.objective.beta and self.objective.kl_in == "reward":
            groups = self._penalised(groups)
        groups = add_advantages(groups, self.objective, others=self._others(groups))
        masked = self.args.mask_truncated_completions
        lengths = all_gather_list(trained_token_counts(groups, mask_truncated=masked), self.args.world_size)
        return PendingRollouts(
            groups=groups,
            batches=self._packed(groups),
            denominator=loss_denominator(lengths, self.objective.loss_aggregation, self.args.max_completion_length),
            updates_left=self.args.num_iterations,
            metrics={
                **rollout_metrics(all_gather_list(rollout_stats(groups), self.args.world_size)),
                "time/rollout": rollout_time,
            },
        )

    def held_out(self, prompts: Sequence[Prompt], model: Any) -> list[RolloutStats]:
        """Facts of rollouts for an evaluation with the weights of `model`, from all ranks."""
        self.engine.sync_weights(model, version=-1)
        # The step is fixed, so that two evaluations draw the same random numbers and differ by the weights alone.
        sampling = self.sampling(step=-1, n=self.args.num_generations_eval or self.args.num_generations)
        return all_gather_list(rollout_stats(self._sampled(prompts, sampling)), self.args.world_size)

    def sampling(self, *, step: int, n: int | None = None) -> SamplingParams:
        """How the run samples at a step."""
        args = self.args
        return SamplingParams(
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

    def _sampled(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[Group]:
        # Every world_size-th prompt: groups stay whole, so that no reward has to travel.
        share = prompts[self.args.process_index :: self.args.world_size]
        with self.engine.session():
            return collect(share, self.engine, self.scorer, sampling)

    def _packed(self, groups: list[Group]) -> list[MicroBatch]:
        batches = make_micro_batches(
            groups,
            loss_aggregation=self.objective.loss_aggregation,
            tokens=self._tokens(),
            mask_truncated=self.args.mask_truncated_completions,
            skip_zero_advantage=self.objective.can_skip_zero_advantage,
            shared_prompts=self.budget.shared_prompts,
        )
        return self._with_references(batches) if self.objective.beta else batches

    def _penalised(self, groups: list[Group]) -> list[Group]:
        everything = make_micro_batches(
            groups, loss_aggregation="token_mean", tokens=self._tokens(), shared_prompts=self.budget.shared_prompts
        )
        penalties = kl_penalties(self._with_references(everything), self.objective.kl_estimator)
        return subtract_kl_penalty(groups, [self.objective.beta * penalty for penalty in penalties])

    def _sample(self, groups: list[Group], tokens: int) -> list[MicroBatch]:
        batches = make_micro_batches(
            groups[:1], loss_aggregation="token_mean", tokens=tokens, shared_prompts=self.budget.shared_prompts
        )
        return [batch.to(self.args.device) for batch in batches]

    def _tokens(self) -> int:
        assert self.budget.tokens is not None, "settled before anything is packed"
        return self.budget.tokens

    def _with_references(self, batches: list[MicroBatch]) -> list[MicroBatch]:
        _, done = self.budget.attempt(
            batches,
            lambda parts: [self._with_reference(batch) for batch in parts],
            undo=lambda: None,
            can_retry=lambda: True,
        )
        return done

    def _with_reference(self, batch: MicroBatch) -> MicroBatch:
        assert self.reference is not None
        with self.precision():
            logps = self.reference.logps(batch.to(self.args.device), self.args.temperature)
        return replace(batch, reference_logps_BC=logps.to(batch.mask_BC.device))

    def _others(self, groups: list[Group]) -> list[Group]:
        """Groups of other ranks, where a batch-wide standard deviation needs their rewards."""
        if self.args.world_size == 1 or self.objective.scale_rewards != "batch":
            return []
        keys = {group.prompt.row_index for group in groups}
        return [
            group for group in all_gather_list(groups, self.args.world_size) if group.prompt.row_index not in keys
        ]


def warn_if_ranks_differ(prompts: Sequence[Prompt], world_size: int) -> None:
    """Say where processes hold different rows: each takes its share of a list that should be one."""
    digest = hashlib.sha256("\0".join(prompt.text for prompt in prompts).encode()).hexdigest()
    if len(set(all_gather_list([digest], world_size))) > 1 and os.environ.get("RANK", "0") == "0":
        get_logger().warning(
            "the processes hold different training rows, so some are seen twice and others never: give the split or "
            "the shuffle before it a seed"
        )
