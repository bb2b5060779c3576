"""Calls a run's observers: on the main process only, with the rollouts of all ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dunwu._utils.distributed import ParallelContext
from dunwu.core.records import Group, RunInfo, StepResult
from dunwu.observers import NotebookProgress, PrintedCompletions, resolve_observer
from dunwu.trackers import CompletionTables, guard_callbacks

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from dunwu.config import GRPOConfig
    from dunwu.core.protocols import Observer

__all__ = ["RunObservers", "default_observers", "guard_callbacks"]


class RunObservers:
    """The observers of a run.

    Args:
        observers: the run's list, which may grow; names in it become objects, see `observers.resolve_observer`.
        parallel: ranks whose rollouts are gathered where any rank has an observer.
    """

    def __init__(self, observers: list[Observer], parallel: ParallelContext | None = None) -> None:
        observers[:] = [resolve_observer(observer) for observer in observers]
        self.observers = observers
        self.parallel = parallel or ParallelContext()
        self._has_observers: bool | None = None

    def append(self, observer: Observer | str) -> None:
        """Add one, by name or as an object."""
        self.observers.append(resolve_observer(observer))

    def run_start(self, run: RunInfo) -> None:
        """Before the first step."""
        self._has_observers = self.parallel.any(bool(self.observers))
        self._notify("on_run_start", run)

    def rollouts(self, step: int, groups: list[Group]) -> list[Group]:
        """After a sampling; returns the groups of all ranks on the main process, none where there is no observer."""
        everyone = self.gather(groups)
        if everyone:
            self._notify("on_rollouts", step, everyone)
        return everyone

    def step(self, result: StepResult) -> None:
        """After an optimizer step."""
        self._notify("on_step", result)

    def evaluation(self, step: int, metrics: Mapping[str, float], groups: list[Group]) -> None:
        """After an evaluation."""
        self._notify("on_evaluation", step, metrics, self.gather(groups))

    def run_end(self) -> None:
        """After the last step, or where the run ends otherwise."""
        self._notify("on_run_end")

    def gather(self, groups: list[Group]) -> list[Group]:
        """The groups of all ranks on the main process; none where there is no observer."""
        # Sending rollouts around is not free; an observer on one rank is reason enough for all.
        if self._has_observers is None:
            self._has_observers = self.parallel.any(bool(self.observers))
        return self.parallel.gather_list(groups) if self._has_observers else []

    def _notify(self, event: str, *what: object) -> None:
        if self.parallel.is_main:
            for observer in self.observers:
                method: Callable[..., None] | None = getattr(observer, event, None)
                if method is not None:
                    method(*what)


def default_observers(args: GRPOConfig, callbacks: list[TrainerCallback]) -> list[Observer]:
    """What watches every run: trackers' tables and printed completions where asked for, progress in a notebook.

    Trackers' callbacks are guarded: one that fails is switched off, and the run goes on. transformers' notebook
    table, whose one column, the loss, is uninformative here, is replaced by ours.

    Args:
        args: the run's options.
        callbacks: the trainer's callbacks; the list may be changed.
    """
    guard_callbacks(callbacks)
    found: list[Observer] = []
    if args.log_completions:
        steps = args.logging_steps if args.logging_steps >= 1 else args.logging_steps * max(args.max_steps, 1)
        found += [PrintedCompletions(), CompletionTables(callbacks, every=max(1, int(steps)))]
    notebook = [callback for callback in callbacks if type(callback).__name__ == "NotebookProgressCallback"]
    for callback in notebook:
        callbacks.remove(callback)
        found.append(NotebookProgress())
    return found
