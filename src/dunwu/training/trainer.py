"""`GRPOTrainer`: transformers' Trainer with rollouts where the batches used to come from.

A few hooks of transformers, each a line of the loop:

    prompts = next(order)                                      get_train_dataloader
    pending = collector.collect_step(prompts, model, step)     get_batch_samples
    for batch in pending.batches:                              training_step
        logps = forward_logps(model, batch)                    compute_loss
        loss = token_loss(algorithm, logps, batch) · weights / pending.denominator
        loss.backward()
    optimizer.step()                                           transformers' own

Checkpoints, schedules, adapters, DDP and trackers are transformers' and accelerate's.

    trainer = GRPOTrainer("Qwen/Qwen2.5-0.5B-Instruct", reward_funcs=my_reward, train_dataset=rows)
    trainer.train()
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_utils import TrainOutput

from dunwu._utils.objects import is_object_name
from dunwu.config import GRPOConfig
from dunwu.core import algorithm
from dunwu.core.metrics import MetricsBuffer
from dunwu.core.protocols import Engine, Environment, Observer
from dunwu.core.records import MicroBatch, Prompt, Row, RunInfo, StepResult
from dunwu.errors import ConfigError
from dunwu.model.logprobs import forward_logps, packed_attention_context
from dunwu.rollout.collector import warn_if_ranks_differ
from dunwu.rollout.observation import guard_callbacks
from dunwu.rollout.prompts import PromptOrder, rows_of
from dunwu.rollout.training_prompts import build_run_prompts
from dunwu.training.asking import AskingTrainer
from dunwu.training.checkpoint import nonfinite_step_error, steps_done
from dunwu.training.interruption import Interruption
from dunwu.training.launch_summary import log_launch_summary
from dunwu.training.sampler_gap import SAMPLER_GAP, check_sampler_gap
from dunwu.training.setup import LoopState, TrainerParts, make_collector, make_parts
from dunwu.training.step_callback import StepCallback
from dunwu.training.trainer_arguments import trainer_arguments

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from transformers import PreTrainedTokenizerBase

    from dunwu.rollout.plugs import Reward, Tokenizers

__all__ = ["GRPOTrainer"]


class GRPOTrainer(AskingTrainer):
    """Trains a causal language model with GRPO and its kin.

    Args:
        model: a model, or the name or folder of one (loaded in float32 unless `args.model_init_kwargs` has a dtype).
        reward_funcs: one or a list of: functions (called with `prompts`, `completions`, `completion_ids` and every
            dataset column, returning a float or None a completion; sync or async), reward models, or names of such.
        args: the options.
        train_dataset: rows with a column `prompt` (text or messages); the other columns go to the rewards.
        eval_dataset: the same for `evaluate`; or a dict of several.
        processing_class: the tokenizer; default: the model's own.
        reward_processing_classes: tokenizers of reward models, one entry a reward function (None for functions).
        callbacks: transformers' callbacks.
        optimizers: optimizer and schedule, where the default AdamW with `args`' schedule is not wanted.
        peft_config: trains an adapter instead of all weights (needs `peft`).
        engine: makes the completions: an `Engine`, or the name of one; default: `args.engine`, on the policy's own
            weights.
        observers: watch the run: `Observer`s, or names of such; `standard` stands for progress, `metrics.jsonl`,
            `rollouts.jsonl`, `curves.png` and a sentence where something is wrong, as a recipe's run has them.
        environment: answers the model between its turns (`Environment`, or the name of one); prompts must be chat
            messages.

    Raises:
        ModelError: for a model without tokenizer or chat template.
        DataError: for an empty dataset, or a prompt that does not fit.
        ConfigError: for options, rewards or other arguments that do not work, or a column that a reward lacks.
    """

    # Later versions read this; 5.17 reads `model_accepts_loss_kwargs`. Both mean: the loss is divided already.
    loss_is_scaled_for_ga = True

    @trainer_arguments
    def __init__(
        self,
        model: str | nn.Module,
        reward_funcs: Reward | Sequence[Reward],
        args: GRPOConfig | None = None,
        train_dataset: Iterable[Row] | None = None,
        eval_dataset: Iterable[Row] | Mapping[str, Iterable[Row]] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        reward_processing_classes: Tokenizers = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Optimizer | None, LRScheduler | None] = (None, None),
        peft_config: PeftConfig | None = None,
        *,
        engine: Engine | str | None = None,
        observers: Sequence[Observer | str] | Literal["standard"] = (),
        environment: Environment | str | None = None,
    ) -> None:
        args = args if args is not None else GRPOConfig(output_dir="outputs")
        tokenizers = (processing_class, reward_processing_classes)
        parts = make_parts(model, reward_funcs, args, train_dataset, tokenizers, peft_config)
        self._take(parts)
        super().__init__(
            model=parts.policy,
            args=args,
            data_collator=cast(Any, list),
            train_dataset=cast(Any, self.prompts),
            eval_dataset=cast(Any, eval_dataset),
            processing_class=parts.tokenizer,
            callbacks=[*(callbacks or []), StepCallback(self._on_train_begin, self._on_step_end, self._shall_stop)],
            optimizers=cast(Any, optimizers),
        )
        self.model_accepts_loss_kwargs = True
        self.observers = cast("list[Observer]", [observers] if isinstance(observers, str) else list(observers))
        name = args.engine if engine is None else engine
        self._engine_is_foreign = not isinstance(name, str) or is_object_name(name)
        self._collector = make_collector(parts, self, engine=engine, environment=environment)
        self.engine = self._collector.engine

    def _take(self, parts: TrainerParts) -> None:
        """What is made before transformers' own set-up."""
        self.algorithm, self.scorer, self.prompts = parts.algorithm, parts.scorer, parts.prompts
        self.reference, self.token_budget, self.parallel = parts.reference, parts.budget, parts.parallel
        self.loop, self.metrics_buffer, self.card_facts = LoopState(), MetricsBuffer(), {}
        self.interruption = Interruption(parts.parallel)

    # -- transformers' hooks ---------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Prompt]:
        """Prompts, a list of them for each optimizer step; every rank sees the same list and takes its share."""
        if not self.prompts:
            raise ConfigError("training needs a train_dataset; give GRPOTrainer one with a 'prompt' column")
        return DataLoader(cast(Any, self.prompts), batch_sampler=cast(Any, self._order()), collate_fn=list)

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[Prompt]], num_batches: int, device: torch.device
    ) -> tuple[list[list[MicroBatch]], Any]:
        """One optimizer step: its micro-batches as a single item, and its denominator."""
        loop = self.loop
        loop.step_began = time.perf_counter()
        prompts = next(epoch_iterator, None)
        if prompts is None:
            return [], None
        # Rewards may draw random numbers: a resumed run's states are put back before its first rollouts.
        self._load_rng_state(loop.random_states_from)
        if loop.pending is None or loop.pending.updates_left == 0:
            loop.pending = self._collector.collect_step(prompts, self.model, self.state.global_step)
            loop.completions += int(loop.pending.metrics["num_completions"])
        loop.pending.updates_left -= 1
        return [loop.pending.batches], loop.pending.denominator

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of all micro-batches of one optimizer step.

        Raises:
            NonFiniteError: when the loss or a gradient is NaN or infinite; the step is not taken, its batch is saved.
            EngineError: when the first step shows that the completions were sampled from another model.
        """
        pending = self.loop.pending
        assert pending is not None, "transformers calls get_batch_samples first"
        train_began = time.perf_counter()
        if self.lr_scheduler is not None:
            self.loop.learning_rate = float(self._get_learning_rate())
        pending.batches, total = self.token_budget.run_with_oom_retry(
            list(inputs),
            lambda batches: self._backward(model, batches, num_items_in_batch),
            # A pass that synchronises gradients has other ranks in it: it cannot be taken back.
            can_retry=lambda: self.parallel.size == 1 or not self.accelerator.sync_gradients,
        )
        norm = float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
        # With a gradient scaler an infinite gradient is ordinary: the scaler itself skips that step.
        if not (torch.isfinite(total) and (self.accelerator.scaler is not None or norm < math.inf)):
            step = self.state.global_step + 1
            raise nonfinite_step_error(Path(str(self.args.output_dir)), step, pending, float(total), norm)
        now = time.perf_counter()
        token_means = self.metrics_buffer.token_means(self.parallel.sum)
        if not self.loop.is_gap_checked and pending.policy_version == self.state.global_step:
            self.loop.is_gap_checked = True
            check_sampler_gap(token_means[SAMPLER_GAP], self.args, is_foreign=self._engine_is_foreign)
        self.metrics_buffer.record(
            {
                **pending.metrics,
                **token_means,
                "loss": float(self.parallel.sum(total)) / self.parallel.size,  # each rank's is times the ranks
                "grad_norm": norm,
                "time/train": now - train_began,
                "step_time": now - self.loop.step_began,
            },
            keep=self.args.logging_strategy != "no",
        )
        return total

    def _backward(self, model: nn.Module, batches: list[MicroBatch], denominator: Any) -> Tensor:
        """The gradient of all micro-batches, and their loss; gradients are synchronised with the last one."""
        model.zero_grad()  # a pass that ran out of memory has left gradients behind
        self.metrics_buffer.start_step()
        total = torch.zeros((), device=self.args.device)
        more_follow = self.loop.pending is not None and self.loop.pending.updates_left > 0
        with packed_attention_context(model):
            for i, batch in enumerate(batches):
                last = i + 1 == len(batches)
                self.accelerator.sync_gradients = last
                with nullcontext() if last else self.accelerator.no_sync(model):
                    total += super().training_step(model, cast(Any, batch), denominator)
                if more_follow and batch.old_logps_BC is None:
                    # The policy moves after this step: these are what later updates compare with.
                    assert self.loop.policy_logps is not None
                    batches[i] = replace(batch, old_logps_BC=self.loop.policy_logps.to(batch.mask_BC.device))
        return total

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """One micro-batch's share of the step's loss.

        The denominator spans all ranks, and DDP averages their gradients: times the number of ranks makes it a sum.
        """
        batch: MicroBatch = inputs
        logps_BC, entropy_BC = forward_logps(model, batch)
        result = algorithm.token_loss(
            self.algorithm,
            logps_BC,
            batch.advantages_B,
            batch.mask_BC,
            old_logps_BC=batch.old_logps_BC,
            sampler_logps_BC=batch.sampler_logps_BC,
            reference_logps_BC=batch.reference_logps_BC,
            entropy_BC=entropy_BC,
        )
        self.loop.policy_logps = logps_BC.detach()
        self.metrics_buffer.add_token_sums(
            algorithm.loss_metric_sums(result, logps_BC, batch.sampler_logps_BC, entropy_BC, batch.mask_BC)
        )
        loss = (result.loss_BC * batch.weights_BC).sum() / num_items_in_batch * self.parallel.size
        return (loss, None) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Rewards on held-out rows, with the same prompts, sampling and reward calls as training."""
        chosen = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(chosen, Mapping):
            metrics: dict[str, float] = {}
            for name, rows in chosen.items():
                metrics |= self.evaluate(rows, metric_key_prefix=f"{metric_key_prefix}_{name}")
            return metrics
        if chosen is None:
            raise ConfigError("evaluate needs an eval_dataset; give one to GRPOTrainer or to evaluate")
        prompts = build_run_prompts(rows_of(chosen), self.model, self._tokenizer(), self.args)
        step = self.state.global_step
        found, groups = self._collector.collect_eval(prompts, self.model, step)
        logs = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(logs)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        self._collector.observers.evaluation(step, logs, groups)
        return logs

    def predict(self, *args: object, **kwargs: object) -> NoReturn:
        """Not here: rollouts have no labels to predict."""
        raise ConfigError("predict needs labels, and rollouts have none; call evaluate, or dunwu.evaluate")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means since the last log of everything the steps recorded, under TRL's names."""
        if "train_runtime" in logs:  # transformers counts prompts or completions here, depending on the options
            logs["train_samples_per_second"] = round(self.loop.completions / max(logs["train_runtime"], 1e-9), 3)
        super().log(self.figures(logs), start_time)

    def figures(self, logs: dict[str, float]) -> dict[str, float]:
        """What is logged where transformers logs a loss: the steps' own metrics are added."""
        # Ours win: transformers' own sum of losses starts again at a resume.
        return {**logs, **self.metrics_buffer.pop_means()} if "loss" in logs else logs

    def floating_point_ops(self, inputs: object) -> int:
        return 0  # transformers' estimate needs padded tensors

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs.to(self.args.device)

    def planned_steps(self) -> int:
        """Optimizer steps a call of `train` makes."""
        if self.args.max_steps >= 0:
            return self.args.max_steps
        return math.ceil(self.args.num_train_epochs * len(self._order()))

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train; `resume_from_checkpoint=True` resumes from the newest complete checkpoint in the output folder.

        Ctrl-C and SIGTERM let the step finish and save a checkpoint first.

        Raises:
            CheckpointError: when there is none to resume from.
            RunInterrupted: a KeyboardInterrupt, when the run was stopped and its checkpoint is written.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = self._newest_checkpoint()
        if self.args.max_steps == 0:
            return TrainOutput(global_step=0, training_loss=0.0, metrics={})
        run_id = self.parallel.all_gather_list([uuid.uuid4().hex])[0]
        self.loop, self.metrics_buffer = LoopState(run_id=run_id), MetricsBuffer()
        self._collector.policy_was_replaced = True
        if resume_from_checkpoint and steps_done(Path(resume_from_checkpoint)) >= self.planned_steps():
            return self._finished_before(resume_from_checkpoint)
        guard_callbacks(self.callback_handler.callbacks)  # some may have been added since
        try:
            with self.interruption.listening():
                result = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            self._collector.observers.run_end()
        self._raise_if_interrupted()
        return result

    # -- the step --------------------------------------------------------------------------------------------------

    def _order(self) -> PromptOrder:
        args = self.args
        assert args.prompts_per_step is not None, "GRPOConfig resolves it"
        order = PromptOrder(
            size=len(self.prompts),
            per_step=args.prompts_per_step,
            repeats=args.num_iterations,
            seed=args.seed if args.shuffle_dataset else None,
            epoch=lambda: self.state.global_step // len(order),
        )
        return order

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return cast("PreTrainedTokenizerBase", self.processing_class)

    def _on_train_begin(self) -> None:
        """Before the first step: describe the run to observers and in the log."""
        args, state, order = self.args, self.state, self._order()
        warn_if_ranks_differ(self.prompts, self.parallel)
        assert args.prompts_per_step is not None
        self._collector.observers.run_start(
            RunInfo(
                folder=str(args.output_dir),
                total_steps=state.max_steps,
                resumed_from=state.global_step,
                num_prompts=len(self.prompts),
                prompts_per_step=args.prompts_per_step,
                num_generations=args.num_generations,
                config=args.to_dict(),  # type: ignore[no-untyped-call]
            )
        )
        if self.loop.pending is not None:  # resumed between two updates
            self.loop.pending.observed = self._collector.observers.gather(self.loop.pending.groups)
        if self.parallel.is_main:
            log_launch_summary(
                args,
                self.algorithm,
                model=self.model,
                prompts=self.prompts,
                order=order,
                max_steps=state.max_steps,
                tokenizer=self._tokenizer(),
            )

    def _on_step_end(self) -> None:
        """After the optimizer: the reference may move, observers hear of the step."""
        args, step, pending = self.args, self.state.global_step, self.loop.pending
        if self.reference is not None and args.sync_ref_model and step % args.ref_model_sync_steps == 0:
            self.reference.mix_in(self.model, args.ref_model_mixup_alpha)
        if pending is not None:
            self._collector.observers.step(
                StepResult(
                    index=step,
                    groups=tuple(pending.observed),
                    metrics=self.metrics_buffer.latest(),
                    epoch=float(self.state.epoch or 0.0),
                    learning_rate=self.loop.learning_rate,
                    policy_version=pending.policy_version,
                )
            )
