"""Calls a run's observers: on the main process only, with the rollouts of all ranks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from transformers import PrinterCallback, ProgressCallback

from dunwu._utils.distributed import ParallelContext
from dunwu.core.records import Group, RunInfo, StepResult
from dunwu.observers import (
    Console,
    MetricsLog,
    NotebookProgress,
    PrintedCompletions,
    RunTitle,
    draw_run,
    in_notebook_progress,
    resolve_observer,
    standard_observers,
)
from dunwu.trackers import CompletionTables, guard_callbacks

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from dunwu.config import GRPOConfig
    from dunwu.core.protocols import Observer

__all__ = ["STANDARD", "RunObservers", "default_observers", "draw_history", "expand_standard", "guard_callbacks"]


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


STANDARD: Final = "standard"
"""Among the observers' names: progress, metrics, rollouts, picture and findings, as a recipe's run has them."""


def expand_standard(observers: list[Observer | str], args: GRPOConfig, callbacks: list[TrainerCallback]) -> None:
    """Put the standard observers in the place of their name, if it is in the list.

    Where the console is among them, transformers' own lines and bar, which would show the same again, are removed.
    """
    if STANDARD in observers:
        named = [resolve_observer(observer) for observer in observers if observer != STANDARD]
        in_notebook = in_notebook_progress(callbacks)
        every = int(args.logging_steps) if args.logging_steps >= 1 else 5
        observers[:] = standard_observers(named, every=every, notebook=in_notebook)
    if any(isinstance(observer, Console) for observer in observers):
        callbacks[:] = [one for one in callbacks if not isinstance(one, PrinterCallback | ProgressCallback)]


def draw_history(observers: Sequence[Observer], history: Sequence[Mapping[str, float]], args: GRPOConfig) -> Path:
    """Draw a run into `curves.png` in its folder, and under the cell in a notebook; returns the picture's path.

    Args:
        observers: the run's; the steps are those of a `MetricsLog` among them, if there is one.
        history: transformers' log history, for a run without.
        args: the run's options.

    Raises:
        DataError: before the first step.
    """
    logged = next((one.steps for one in observers if isinstance(one, MetricsLog)), None)
    steps = logged if logged else [entry for entry in history if "reward" in entry]
    folder = Path(str(args.output_dir))
    title = RunTitle(model=folder.name, task="", seed=args.seed)
    path = draw_run(steps, folder / "curves.png", title=title, limit=args.max_completion_length)
    interactive = sys.modules.get("IPython")
    if interactive is not None and interactive.get_ipython() is not None:
        interactive.display.display(interactive.display.Image(str(path)))
    return path


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
