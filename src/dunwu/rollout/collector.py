"""A step's prompts become what the trainer learns from: sampled, scored, compared, cut; on every rank its share."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dunwu._utils.distributed import ParallelContext
from dunwu._utils.logging import get_logger
from dunwu.config import GRPOConfig
from dunwu.core import algorithm
from dunwu.core.algorithm import AlgorithmConfig
from dunwu.core.metrics import logged_metrics, rollout_metrics, rollout_stats
from dunwu.core.protocols import Engine, Scorer
from dunwu.core.records import (
    Completion,
    Group,
    MicroBatch,
    PendingRollouts,
    Prompt,
    RewardScores,
    SamplingParams,
)
from dunwu.engines import ready
from dunwu.model.loading import eval_mode
from dunwu.model.logprobs import forward_logps
from dunwu.model.reference import ReferenceModel
from dunwu.rollout.collect import add_advantages, kl_penalties, sample_and_score, subtract_kl_penalty
from dunwu.rollout.micro_batches import make_micro_batches, trained_token_counts
from dunwu.rollout.observation import RunObservers
from dunwu.rollout.token_budget import TokenBudget

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["RolloutCollector", "sampling_params", "warn_if_ranks_differ"]


@dataclass(slots=True, kw_only=True)
class RolloutCollector:
    """Everything a step needs besides its prompts.

    Example: `RolloutCollector(args=args, algorithm=AlgorithmConfig(), engine=engine, scorer=scorer, reference=None,
    autocast=lambda: torch.autocast("cpu", torch.bfloat16), budget=TokenBudget(tokens=4096),
    observers=RunObservers(["console"]))`
    """

    args: GRPOConfig
    """The run's options."""
    algorithm: AlgorithmConfig
    """The algorithm."""
    engine: Engine
    """Makes completions."""
    scorer: Scorer
    """Scores them."""
    reference: ReferenceModel | None
    """The reference model; None without a KL term."""
    autocast: Callable[[], AbstractContextManager[object]]
    """The precision that the policy trains in: the reference must compute in the same."""
    budget: TokenBudget
    """Tokens a forward pass may compute."""
    observers: RunObservers
    """Hear of every sampling."""
    parallel: ParallelContext = field(default_factory=ParallelContext)
    """Which share of the prompts is this rank's."""
    policy_was_replaced: bool = True
    """Whether the weights changed other than by an optimizer step since the engine last took them."""

    def collect_step(self, prompts: Sequence[Prompt], model: PreTrainedModel, step: int) -> PendingRollouts:
        """Sample and cut the rollouts of the update after `step` optimizer steps, from the weights of `model`."""
        began = time.perf_counter()
        groups, scores = self._generate_and_score(prompts, model, step, sampling_params(self.args, step=step))
        rollout_time = time.perf_counter() - began
        with self.autocast():
            self.budget.measure(model, lambda tokens: self._sample(groups, tokens))
        references: dict[int, Tensor] = {}
        if self.algorithm.beta and self.algorithm.kl_in == "reward":
            groups, references = self._with_kl_penalty(groups, model)
        groups = add_advantages(groups, self.algorithm, others=self._groups_of_other_ranks(groups))
        lengths = trained_token_counts(groups, mask_truncated=self.args.mask_truncated_completions)
        lengths = self.parallel.all_gather_list(lengths)
        pending = PendingRollouts(
            groups=groups,
            batches=self._micro_batches(groups, references),
            denominator=self._loss_denominator(lengths),
            updates_left=self.args.num_iterations,
            metrics={**self._metrics(groups, scores), "time/rollout": rollout_time},
            policy_version=step,
        )
        pending.observed = self.observers.rollouts(step + 1, groups)
        return pending

    def collect_eval(
        self, prompts: Sequence[Prompt], model: PreTrainedModel, step: int
    ) -> tuple[dict[str, float], list[Group]]:
        """Metrics of an evaluation with the weights of `model`, over all ranks, and this rank's groups.

        `loss` is among them where there are at least two completions a prompt: the training loss that these rollouts
        would have at their first update.
        """
        # The step is fixed, so that two evaluations draw the same random numbers and differ by the weights alone.
        n = self.args.num_generations_eval or self.args.num_generations
        groups, scores = self._generate_and_score(prompts, model, step, sampling_params(self.args, step=-1, n=n))
        metrics = self._metrics(groups, scores)
        if n > 1:
            metrics["loss"] = self._eval_loss(groups)
        return metrics, groups

    def complete(self, prompt: Prompt, model: PreTrainedModel, step: int, sampling: SamplingParams) -> Completion:
        """One completion with the weights of `model`, on every rank, without a reward."""
        force, self.policy_was_replaced = self.policy_was_replaced, False
        with ready(self.engine, model, version=step, force=force):
            return self.engine.generate([prompt], sampling)[0][0]

    def _generate_and_score(
        self, prompts: Sequence[Prompt], model: PreTrainedModel, step: int, sampling: SamplingParams
    ) -> tuple[list[Group], RewardScores]:
        force, self.policy_was_replaced = self.policy_was_replaced, False
        with ready(self.engine, model, version=step, force=force):
            return sample_and_score(self.parallel.share(prompts), self.engine, self.scorer, sampling)

    def _metrics(self, groups: list[Group], scores: RewardScores) -> dict[str, float]:
        """Of the rollouts, and what reward functions logged, over all ranks."""
        metrics = rollout_metrics(self.parallel.all_gather_list(rollout_stats(groups)))
        return {**logged_metrics(self.parallel.all_gather_list([scores.metrics]), metrics), **metrics}

    def _micro_batches(self, groups: list[Group], references: dict[int, Tensor]) -> list[MicroBatch]:
        batches = make_micro_batches(
            groups,
            loss_aggregation=self.algorithm.loss_aggregation,
            tokens=self._tokens(),
            temperature=self.args.temperature,
            mask_truncated=self.args.mask_truncated_completions,
            skip_zero_advantage=self.algorithm.can_skip_zero_advantage,
            shared_prompts=self.budget.shared_prompts,
        )
        if references:
            return [_with_rows(batch, references) for batch in batches]
        return self._with_references(batches) if self.algorithm.beta else batches

    def _every_rollout(self, groups: Sequence[Group], tokens: int) -> list[MicroBatch]:
        """Micro-batches of all rollouts, masked ones and those without advantage included."""
        return make_micro_batches(
            groups,
            loss_aggregation="token_mean",
            tokens=tokens,
            temperature=self.args.temperature,
            shared_prompts=self.budget.shared_prompts,
        )

    def _with_kl_penalty(self, groups: list[Group], model: PreTrainedModel) -> tuple[list[Group], dict[int, Tensor]]:
        """The groups with the KL taken off their rewards, and the reference's log-probabilities by rollout."""
        batches = self._with_references(self._every_rollout(groups, self._tokens()))
        policy_logps = None
        if sampling_params(self.args, step=0).has_warpers:
            policy_logps = [self._policy_logps(batch, model) for batch in batches]
        penalties = kl_penalties(batches, self.algorithm.kl_estimator, policy_logps)
        references = {
            index: row
            for batch in batches
            if batch.reference_logps_BC is not None
            for index, row in zip(batch.rollout_index, batch.reference_logps_BC, strict=True)
        }
        return subtract_kl_penalty(groups, [self.algorithm.beta * penalty for penalty in penalties]), references

    @torch.no_grad()
    def _policy_logps(self, batch: MicroBatch, model: PreTrainedModel) -> Tensor:
        with self.autocast(), eval_mode(model):
            logps_BC, _ = forward_logps(model, batch.to(self.args.device))
        return logps_BC.to(batch.mask_BC.device)

    def _sample(self, groups: list[Group], tokens: int) -> list[MicroBatch]:
        return [batch.to(self.args.device) for batch in self._every_rollout(groups[:1], tokens)]

    def _tokens(self) -> int:
        assert self.budget.tokens is not None, "measured before anything is cut"
        return self.budget.tokens

    def _with_references(self, batches: list[MicroBatch]) -> list[MicroBatch]:
        _, done = self.budget.run_with_oom_retry(
            batches, lambda parts: [self._with_reference(batch) for batch in parts]
        )
        return done

    def _with_reference(self, batch: MicroBatch) -> MicroBatch:
        assert self.reference is not None
        with self.autocast():
            logps = self.reference.logps(batch.to(self.args.device))
        return replace(batch, reference_logps_BC=logps.to(batch.mask_BC.device))

    @torch.no_grad()
    def _eval_loss(self, groups: list[Group]) -> float:
        """The policy loss at a ratio of 1, where the sampler's log-probabilities are the policy's; over all ranks."""
        groups = add_advantages(groups, self.algorithm, others=self._groups_of_other_ranks(groups))
        lengths = self.parallel.all_gather_list(trained_token_counts(groups, mask_truncated=False))
        denominator = self._loss_denominator(lengths)
        total = 0.0
        for batch in self._every_rollout(groups, 2**62) if groups else []:
            sampler_BC, mask_BC = batch.sampler_logps_BC, batch.mask_BC
            loss_BC = algorithm.token_loss(
                self.algorithm, sampler_BC, batch.advantages_B, mask_BC, sampler_logps_BC=sampler_BC
            ).loss_BC
            total += float((loss_BC * algorithm.loss_weights(mask_BC, self.algorithm.loss_aggregation)).sum())
        return sum(self.parallel.all_gather_list([total])) / denominator

    def _loss_denominator(self, lengths: list[int]) -> float:
        """Of a step over all ranks; `lengths` are the trained tokens of each completion."""
        return algorithm.loss_denominator(lengths, self.algorithm.loss_aggregation, self.args.max_completion_length)

    def _groups_of_other_ranks(self, groups: list[Group]) -> list[Group]:
        """Groups of other ranks, where a batch-wide standard deviation needs their rewards."""
        if self.parallel.size == 1 or self.algorithm.scale_rewards != "batch":
            return []
        own = {group.prompt.row_index for group in groups}
        return [group for group in self.parallel.all_gather_list(groups) if group.prompt.row_index not in own]


def sampling_params(args: GRPOConfig, *, step: int, n: int | None = None) -> SamplingParams:
    """How a run samples at a step."""
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


def warn_if_ranks_differ(prompts: Sequence[Prompt], parallel: ParallelContext) -> None:
    """Warn where processes have different rows: each takes its share of a list that should be one."""
    digest = hashlib.sha256("\0".join(prompt.text for prompt in prompts).encode()).hexdigest()
    if len(set(parallel.all_gather_list([digest]))) > 1:
        get_logger().warning(
            "the processes have different training rows, so some are seen twice and others never: give the split or "
            "the shuffle before it a seed"
        )


def _with_rows(batch: MicroBatch, references: dict[int, Tensor]) -> MicroBatch:
    """The micro-batch with the reference's log-probabilities of its rollouts, (B, C)."""
    rows_BC = torch.zeros_like(batch.sampler_logps_BC)
    for i, index in enumerate(batch.rollout_index):
        width = min(rows_BC.shape[1], len(references[index]))
        rows_BC[i, :width] = references[index][:width]
    return replace(batch, reference_logps_BC=rows_BC)
