"""What transformers has callbacks for and no method to override."""

from __future__ import annotations

from collections.abc import Callable

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

__all__ = ["StepCallback"]


class StepCallback(TrainerCallback):
    """Calls functions from transformers' events, and has the metrics of a run's last steps logged.

    Args:
        begin: called before the first step.
        step: called after every step.
        shall_stop: called after that; whether the run is to save a checkpoint and stop.
    """

    def __init__(
        self, begin: Callable[[], None], step: Callable[[], None], shall_stop: Callable[[], bool] = lambda: False
    ) -> None:
        self._begin, self._step, self._shall_stop = begin, step, shall_stop

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Before the first step."""
        self._begin()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> TrainerControl:
        """After an optimizer step; the last one is logged whatever `logging_steps` divides."""
        self._step()
        if self._shall_stop():
            control.should_save = control.should_training_stop = True
        is_last = state.global_step >= state.max_steps or control.should_training_stop
        if is_last and args.logging_strategy != "no":
            control.should_log = True
        return control
