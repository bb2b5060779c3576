"""`GRPOTrainer`: transformers' Trainer with rollouts where the batches used to come from.

What it is: a few honest hooks. `get_batch_samples` collects rollouts and gives a whole optimizer step's micro-batches
with the step's one denominator; `training_step` runs them; `compute_loss` is a forward and the pure functions of
`algorithm`. Checkpoints, schedules, LoRA, DDP and trackers are transformers' and accelerate's own.
What it is not: arithmetic, a backend, or a choice of engine.

    trainer = GRPOTrainer("Qwen/Qwen2.5-0.5B-Instruct", reward_funcs=my_reward, train_dataset=rows)
    trainer.train()
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import TrainOutput

from dunwu._utils.distributed import all_gather_list, let_gloo_finish_at_exit
from dunwu._utils.logging import get_logger
from dunwu.config import GRPOConfig
from dunwu.core import algorithm
from dunwu.core.algorithm import AlgorithmConfig
from dunwu.core.metrics import MetricsBuffer, rollout_metrics
from dunwu.core.protocols import Engine, Observer
from dunwu.core.records import Group, MicroBatch, PendingRollouts, Row, StepResult
from dunwu.engines import make_engine
from dunwu.model.loading import checkpoint_bytes, prepare_policy, tokenizer_of, without_progress_bars
from dunwu.model.logprobs import forward_logps, packed_attention_context
from dunwu.model.reference import ReferenceModel
from dunwu.observers import show_in_notebook
from dunwu.rewards import RewardRunner, reward_functions
from dunwu.rollout.collector import RolloutCollector, warn_if_ranks_differ
from dunwu.rollout.prompts import PromptOrder, build_run_prompts, build_training_prompts
from dunwu.rollout.token_budget import make_token_budget
from dunwu.trackers import guarded, log_completions, settled
from dunwu.training.checkpoint import (
    last_complete_checkpoint,
    load_pending,
    nonfinite_step_error,
    remove_if_write_fails,
    save_pending,
)
from dunwu.training.launch_summary import format_completions, log_launch_summary

__all__ = ["GRPOTrainer"]


class GRPOTrainer(Trainer):
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
        engine: makes the completions; default: `make_engine` for the model, on its own weights.
        observers: told of every step.

    Raises:
        ValueError: for a model without tokenizer or chat template, an empty dataset, a missing column, a prompt that
            does not fit; each with what to do.
    """

    # Later versions read this; 5.17 reads `model_accepts_loss_kwargs`. Both mean: the loss is divided already.
    loss_is_scaled_for_ga = True
    args: GRPOConfig
    model: Any
    _pending: PendingRollouts | None = None
    _groups: Sequence[Group] = ()
    _is_heard = True

    def __init__(
        self,
        model: str | nn.Module,
        reward_funcs: Any,
        args: GRPOConfig | None = None,
        train_dataset: Iterable[Row] | None = None,
        eval_dataset: Iterable[Row] | Mapping[str, Iterable[Row]] | None = None,
        processing_class: Any = None,
        reward_processing_classes: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: Any = None,
        *,
        engine: Engine | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        args = settled(args if args is not None else GRPOConfig(output_dir="outputs"))
        init_kwargs = cast("dict[str, Any]", args.model_init_kwargs or {})
        policy = prepare_policy(model, init_kwargs, peft_config, dropout=not args.disable_dropout)
        tokenizer = processing_class or tokenizer_of(policy)
        self.objective: AlgorithmConfig = args.algorithm()
        self.scorer = _runner(reward_functions(reward_funcs, reward_processing_classes), args)
        self.prompts = build_training_prompts(train_dataset, policy, tokenizer, args)
        self.observers = list(observers)
        self._ledger = MetricsBuffer()
        self._budget = make_token_budget(policy, args.tokens_per_micro_batch, args.temperature, args.world_size)
        self.reference = ReferenceModel(policy, moves=args.sync_ref_model) if self.objective.beta else None
        super().__init__(
            model=policy,
            args=args,
            data_collator=cast(Any, list),
            train_dataset=cast(Any, self.prompts),
            eval_dataset=cast(Any, eval_dataset),
            processing_class=tokenizer,
            callbacks=[*(callbacks or []), Bell(self._introduce, self._finish_step)],
            optimizers=optimizers,
        )
        self.model_accepts_loss_kwargs = True
        self.engine: Engine = engine if engine is not None else self._own_engine()
        self._collector = self._wired()

    def _own_engine(self) -> Engine:
        args = self.args
        autocast = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        memory = int(args.kv_cache_gib * 2**30) if args.kv_cache_gib is not None else None
        return make_engine(self.model, self.processing_class, kind=args.engine, autocast=autocast, cache_bytes=memory)

    def _wired(self) -> RolloutCollector:
        if self.args.world_size > 1:
            let_gloo_finish_at_exit()
        guarded(self.callback_handler.callbacks)
        show_in_notebook(self)
        if self.prompts:
            self.scorer.check_columns(self.prompts[0].row)
        if self.reference is not None and self.reference.copy is not None:
            self.reference.copy.to(self.args.device)
        return RolloutCollector(
            args=self.args,
            objective=self.objective,
            engine=self.engine,
            scorer=self.scorer,
            reference=self.reference,
            precision=self.compute_loss_context_manager,
            budget=self._budget,
        )

    # -- transformers' hooks ---------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Prompts, a list of them for each optimizer step; every rank sees the same list and takes its share."""
        if not self.prompts:
            raise ValueError("training needs a train_dataset; give GRPOTrainer one with a 'prompt' column")
        return DataLoader(cast(Any, self.prompts), batch_sampler=cast(Any, self._order()), collate_fn=list)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """One optimizer step: its micro-batches as a single item, and its denominator."""
        self._step_began = time.perf_counter()
        prompts = next(epoch_iterator, None)
        if prompts is None:
            return [], None
        if self._pending is None or self._pending.updates_left == 0:
            self._pending = self._collector.step(prompts, self.model, self.state.global_step)
        self._pending.updates_left -= 1
        return [self._pending.batches], self._pending.denominator

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of all micro-batches of one optimizer step.

        Raises:
            NonFiniteError: when the loss or a gradient is NaN or infinite; the step is not taken, its batch is kept.
        """
        assert self._pending is not None, "get_batch_samples comes first"
        train_began = time.perf_counter()
        self._pending.batches, total = self._budget.attempt(
            list(inputs),
            lambda batches: self._backward(model, batches, num_items_in_batch),
            undo=model.zero_grad,
            # A pass that synchronises gradients has other ranks in it: it cannot be taken back.
            can_retry=lambda: self.args.world_size == 1 or not self.accelerator.sync_gradients,
        )
        norm = float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
        # With a gradient scaler an infinite gradient is ordinary: the scaler itself skips that step.
        if not (torch.isfinite(total) and (self.accelerator.scaler is not None or norm < math.inf)):
            step = self.state.global_step + 1
            raise nonfinite_step_error(Path(str(self.args.output_dir)), step, self._pending, float(total), norm)
        now = time.perf_counter()
        self._ledger.note(
            {
                **self._pending.metrics,
                **self._ledger.token_means(lambda sums: cast(Tensor, self.accelerator.reduce(sums, reduction="sum"))),
                "loss": float(self.accelerator.reduce(total, reduction="mean")),  # each rank's is times world_size
                "grad_norm": norm,
                "time/train": now - train_began,
                "step_time": now - self._step_began,
            }
        )
        return total

    def _backward(self, model: nn.Module, batches: list[MicroBatch], denominator: Any) -> Tensor:
        """The gradient of all micro-batches, and their loss; gradients are synchronised with the last one."""
        self._ledger.open_step()
        total = torch.zeros((), device=self.args.device)
        with packed_attention_context(model):
            for i, batch in enumerate(batches):
                last = i + 1 == len(batches)
                self.accelerator.sync_gradients = last
                with nullcontext() if last else self.accelerator.no_sync(model):
                    total += super().training_step(model, cast(Any, batch), denominator)
                if self._pending is not None and self._pending.updates_left and batch.old_logps_BC is None:
                    # The policy moves after this step: what it thought before is what later passes compare with.
                    batches[i] = replace(batch, old_logps_BC=self._last_logps.to(batch.mask_BC.device))
        return total

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """One micro-batch's share of the step's loss.

        The denominator spans all ranks, and DDP averages their gradients: times the number of ranks makes it a sum.
        """
        batch: MicroBatch = inputs
        logps_BC, entropy_BC = forward_logps(model, batch, self.args.temperature)
        result = algorithm.token_loss(
            self.objective,
            logps_BC,
            batch.advantages_B,
            batch.mask_BC,
            old_logps_BC=batch.old_logps_BC,
            sampler_logps_BC=batch.sampler_logps_BC,
            reference_logps_BC=batch.reference_logps_BC,
            entropy_BC=entropy_BC,
        )
        self._last_logps = logps_BC.detach()
        self._ledger.add_tokens(
            algorithm.loss_metric_sums(result, logps_BC, batch.sampler_logps_BC, entropy_BC, batch.mask_BC)
        )
        loss = (result.loss_BC * batch.weights_BC).sum() / num_items_in_batch * self.args.world_size
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
            raise ValueError("evaluate needs an eval_dataset; give one to GRPOTrainer or to evaluate")
        prompts = build_run_prompts(cast(Any, chosen), self.model, self.processing_class, self.args)
        facts = self._collector.held_out(prompts, self.model)
        logs = {f"{metric_key_prefix}_{name}": value for name, value in rollout_metrics(facts).items()}
        self.log(logs)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        return logs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means since the last log of everything a step noted, under TRL's names."""
        super().log(self.figures(logs), start_time)

    def figures(self, logs: dict[str, float]) -> dict[str, float]:
        """What `log` makes of transformers' figures: a step's own are added."""
        if "loss" not in logs:
            return logs
        if self.args.log_completions and self.is_world_process_zero():
            get_logger().info(format_completions(self._groups, self.args.num_completions_to_print))
            log_completions(self.callback_handler.callbacks, self.state.global_step, self._groups)
        # Ours win: transformers' own sum of losses starts again at a resume.
        return {**logs, **self._ledger.means()}

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # transformers' estimate needs padded tensors

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs.to(self.args.device)

    def planned_steps(self) -> int:
        """Optimizer steps a call of `train` makes."""
        if self.args.max_steps > 0:
            return self.args.max_steps
        return math.ceil(self.args.num_train_epochs * len(self._order()))

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train; `resume_from_checkpoint=True` goes on from the newest checkpoint that is whole.

        Raises:
            ValueError: when there is none to go on from.
        """
        if resume_from_checkpoint is True:
            last = last_complete_checkpoint(Path(str(self.args.output_dir)))
            if last is None:
                raise ValueError(f"there is no whole checkpoint in {self.args.output_dir} to resume from; start anew")
            resume_from_checkpoint = str(last)
        guarded(self.callback_handler.callbacks)  # some may have been added since
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Model and tokenizer into a folder: whole, or nothing of it."""
        folder = Path(str(output_dir or self.args.output_dir))
        with without_progress_bars(), remove_if_write_fails(folder, checkpoint_bytes(self.model)):
            super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        with (
            without_progress_bars(),
            remove_if_write_fails(folder, checkpoint_bytes(self.model, with_optimizer=not self.args.save_only_model)),
        ):
            super()._save_checkpoint(model, trial)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        moved = self.reference.state() if self.reference is not None and self.args.sync_ref_model else None
        extra = {
            "ledger": self._ledger.state(),
            "reference": moved if self.args.should_save else None,
            "tokens_per_micro_batch": self._budget.tokens,
        }
        save_pending(output_dir, self.args.process_index, self._pending, extra)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        self._pending, extra = load_pending(checkpoint, self.args.process_index, self.prompts)
        self._ledger.load_state(extra.get("ledger", {}))
        self._budget.tokens = self._budget.tokens or extra.get("tokens_per_micro_batch")
        _, first = load_pending(checkpoint, 0, self.prompts)  # the reference is the same on all ranks, and there once
        if self.reference is not None and first.get("reference") is not None:
            self.reference.load_state(first["reference"])

    # -- the step --------------------------------------------------------------------------------------------------

    def _order(self) -> PromptOrder:
        args = self.args
        assert args.prompts_per_step is not None, "settled by GRPOConfig"
        order = PromptOrder(
            size=len(self.prompts),
            per_step=args.prompts_per_step,
            repeats=args.num_iterations,
            seed=args.seed if args.shuffle_dataset else None,
            epoch=lambda: self.state.global_step // len(order),
        )
        return order

    def _finish_step(self) -> None:
        """After the optimizer: the reference may move, observers hear of it."""
        args, step = self.args, self.state.global_step
        if self.reference is not None and args.sync_ref_model and step % args.ref_model_sync_steps == 0:
            self.reference.mix_in(self.model, args.ref_model_mixup_alpha)
        if self._pending is None:
            return
        self._groups = all_gather_list(self._pending.groups, args.world_size) if self._is_heard else ()
        if self.is_world_process_zero():
            finished = StepResult(index=step, groups=tuple(self._groups), metrics=self._ledger.latest())
            for observer in self.observers:
                observer.on_step(finished)

    def _introduce(self) -> None:
        """What this run is, in words, before its first step."""
        warn_if_ranks_differ(self.prompts, self.args.world_size)
        # Sending rollouts around is not free; an observer on one rank is reason enough for all.
        listens = bool(self.observers or self.args.log_completions)
        self._is_heard = any(all_gather_list([listens], self.args.world_size))
        if self.is_world_process_zero():
            log_launch_summary(
                self.args,
                self.objective,
                model=self.model,
                prompts=self.prompts,
                steps_an_epoch=len(self._order()),
                max_steps=self.state.max_steps,
                tokenizer=self.processing_class,
            )


def _runner(functions: list[Any], args: GRPOConfig) -> RewardRunner:
    on_error = cast(Any, args.on_reward_error)
    return RewardRunner(functions, weights=args.reward_weights, timeout=args.reward_timeout, on_error=on_error)


class Bell(TrainerCallback):
    """Calls `begin` when training begins and `step` after each optimizer step."""

    def __init__(self, begin: Callable[[], None], step: Callable[[], None]) -> None:
        self._begin, self._step = begin, step

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the first step."""
        self._begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After an optimizer step."""
        self._step()
