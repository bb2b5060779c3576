"""A Trainer whose checkpoints contain all of a run's state: a resumed run is the uninterrupted one, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import TrainerState
from transformers.trainer_utils import TrainOutput

from dunwu._utils.distributed import ParallelContext
from dunwu._utils.logging import get_logger
from dunwu.config import GRPOConfig
from dunwu.core.metrics import MetricsBuffer
from dunwu.core.records import Prompt
from dunwu.errors import CheckpointError
from dunwu.model.loading import checkpoint_bytes, without_progress_bars
from dunwu.model.reference import ReferenceModel
from dunwu.rollout.token_budget import TokenBudget
from dunwu.training.checkpoint import (
    SavedRun,
    last_complete_checkpoint,
    load_run,
    remove_if_write_fails,
    save_run,
    weights_fingerprint,
)
from dunwu.training.interruption import Interruption, RunInterrupted
from dunwu.training.publishing import PublishingTrainer
from dunwu.training.resumed_options import OptimizerOptions
from dunwu.training.setup import LoopState

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["ResumableTrainer"]


class ResumableTrainer(PublishingTrainer):
    """transformers' checkpoint hooks, with pending rollouts, the reference and the random states in their place."""

    args: GRPOConfig
    model: PreTrainedModel
    prompts: list[Prompt]
    reference: ReferenceModel | None
    token_budget: TokenBudget
    parallel: ParallelContext
    loop: LoopState
    metrics_buffer: MetricsBuffer
    interruption: Interruption

    def _newest_checkpoint(self) -> str:
        """The checkpoint that a run resumes from where none is named."""
        last = last_complete_checkpoint(Path(str(self.args.output_dir)))
        if last is None:
            raise CheckpointError(
                f"there is no complete checkpoint in {self.args.output_dir} to resume from; start anew"
            )
        return str(last)

    def _finished_before(self, checkpoint: str) -> TrainOutput:
        """The finished run that a checkpoint is of: its weights and its state, and no step more.

        transformers would take one step beyond the last, and delete a good checkpoint for that one's sake.
        """
        self.state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        self._load_from_checkpoint(checkpoint)
        get_logger().info(
            f"nothing is left to train: all {self.state.global_step} steps were made before. More steps: raise "
            "max_steps or num_train_epochs"
        )
        return TrainOutput(global_step=self.state.global_step, training_loss=0.0, metrics={})

    def _shall_stop(self) -> bool:
        """After a step: whether somebody has asked the run to stop before its end."""
        self.loop.is_interrupted = self.interruption.is_asked and self.state.global_step < self.state.max_steps
        return self.loop.is_interrupted

    def _raise_if_interrupted(self) -> None:
        if self.loop.is_interrupted:
            step = self.state.global_step
            checkpoint = Path(str(self.args.output_dir)) / f"checkpoint-{step}"
            raise RunInterrupted(step, self.state.max_steps, str(checkpoint))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Model and tokenizer into a folder: complete, or nothing of it."""
        folder = Path(str(output_dir or self.args.output_dir))
        with without_progress_bars(), remove_if_write_fails(folder, checkpoint_bytes(self.model)):
            super().save_model(output_dir, _internal_call)
            if self.args.should_save:
                self.write_model_card(folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        needed = checkpoint_bytes(self.model, with_optimizer=not self.args.save_only_model)
        if self.args.should_save:  # of an earlier run: half overwritten, the folder must not count as complete
            (folder / "trainer_state.json").unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()
        with without_progress_bars(), remove_if_write_fails(folder, needed):
            super()._save_checkpoint(model, trial)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        moved = self.reference.state() if self.reference is not None else None
        saved = SavedRun(
            pending=self.loop.pending,
            run_id=self.loop.run_id,
            weights=weights_fingerprint(self.model),
            extra={
                "ledger": self.metrics_buffer.state(),
                "reference": moved if self.args.should_save else None,
                "tokens_per_micro_batch": self.token_budget.tokens,
                "order": self._order_options(),
            },
        )
        save_run(output_dir, saved, self.parallel)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # trainer_state.json, written next, marks the checkpoint as complete: on all ranks.
        self.accelerator.wait_for_everyone()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Put the random states back once: before the first rollouts of a resumed run."""
        if checkpoint is not None and checkpoint == self.loop.random_states_from:
            self.loop.random_states_from = None
            super()._load_rng_state(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.optimizer is None or self.lr_scheduler is None or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
        else:
            given = OptimizerOptions(self.optimizer, self.lr_scheduler)
            super()._load_optimizer_and_scheduler(checkpoint)
            for name, (then, now) in given.put_back(self.optimizer, self.lr_scheduler).items():
                get_logger().info(f"resumed with {name}={now} in place of {then}")
        if checkpoint is None:
            return
        self.loop.random_states_from = checkpoint
        saved = load_run(
            checkpoint,
            self.parallel,
            self.prompts,
            temperature=self.args.temperature,
            weights=weights_fingerprint(self.model),
        )
        self._warn_of_another_order(saved.extra.get("order"))
        self.loop.pending = saved.pending
        self.loop.run_id = saved.run_id or self.loop.run_id
        self.metrics_buffer.load_state(saved.extra.get("ledger", {}))
        self.token_budget.tokens = self.token_budget.tokens or saved.extra.get("tokens_per_micro_batch")
        if self.reference is not None and saved.extra.get("reference") is not None:
            self.reference.load_state(saved.extra["reference"])

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Warns of weights that a checkpoint lacks, but for those that are another name of one that it has."""
        named = dict(self.model.named_parameters(remove_duplicate=False))
        missing = set(load_result.missing_keys)
        there = {id(parameter) for name, parameter in named.items() if name not in missing}
        tied = {name for name in missing if id(named.get(name)) in there}
        load_result.missing_keys[:] = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result)

    def _order_options(self) -> dict[str, int | bool | None]:
        """What decides which prompts a step takes."""
        args = self.args
        return {
            "prompts": len(self.prompts),
            "prompts_per_step": args.prompts_per_step,
            "num_iterations": args.num_iterations,
            "seed": args.seed,
            "shuffle_dataset": args.shuffle_dataset,
        }

    def _warn_of_another_order(self, saved: dict[str, int | bool | None] | None) -> None:
        now = self._order_options()
        changed = [
            f"{name} was {saved[name]} and is {now[name]}" for name in now if saved and saved[name] != now[name]
        ]
        if changed:
            get_logger().warning(
                f"the run is resumed with other prompts a step ({'; '.join(changed)}): in the epoch that it was in, "
                "some prompts come twice and others not at all"
            )
