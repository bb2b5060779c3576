"""What the model wrote, as a table in every tracker that is recording.

A tracker gets at most `ROWS` completions a step; `observers.RolloutLog` keeps all of them.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, cast
from weakref import WeakSet

from dunwu._utils.logging import get_logger
from dunwu._utils.secrets import describe_error
from dunwu.core.metrics import rollout_row
from dunwu.core.protocols import Observer
from dunwu.core.records import Group, StepResult
from dunwu.trackers.guard import is_off, tracker_of

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter
    from transformers import TrainerCallback

__all__ = ["ROWS", "CompletionTables", "completion_rows"]

ROWS = 64
"""Rows of a step's table: trackers keep every table, and a step may have thousands of completions."""

Cell: TypeAlias = str | float | None


class CompletionTables(Observer):
    """Sends the completions of a step, at most the first 64, to the trackers behind the trainer's callbacks.

    `on_step` must run before transformers logs the figures of the step: wandb then puts both into one row.
    """

    def __init__(
        self,
        callbacks: Iterable[TrainerCallback] | Callable[[], Iterable[TrainerCallback]],
        *,
        every: int = 1,
    ) -> None:
        """Tables for these callbacks.

        Args:
            callbacks: the trainer's list, which may still grow, or a function that returns it.
            every: optimizer steps between two tables: the run's `logging_steps`.
        """
        self._callbacks = callbacks
        self._every = max(1, every)
        self._refused: WeakSet[TrainerCallback] = WeakSet()

    def on_step(self, step: StepResult) -> None:
        """A table `completions`, where this step's figures are logged."""
        if step.index % self._every == 0:
            self._send("completions", step.index, step.groups)

    def on_evaluation(self, step: int, metrics: Mapping[str, float], groups: Sequence[Group]) -> None:
        """A table `eval_completions`."""
        self._send("eval_completions", step, groups)

    def _send(self, name: str, step: int, groups: Sequence[Group]) -> None:
        """To every tracker that is recording; one that fails costs a warning and gets no more tables."""
        columns, rows = completion_rows(step, groups)
        for callback in list(self._callbacks() if callable(self._callbacks) else self._callbacks):
            send = _SENDERS.get(tracker_of(callback) or "")
            if send is None or not rows or is_off(callback) or callback in self._refused:
                continue
            try:
                send(callback, name, step, columns, rows)
            except Exception as error:  # whatever it is, a table is not worth a run
                self._refused.add(callback)
                get_logger().warning(
                    f"{tracker_of(callback)} does not accept tables of completions ({describe_error(error)}): it "
                    "gets none from now on"
                )


def completion_rows(step: int, groups: Sequence[Group], *, most: int = ROWS) -> tuple[list[str], list[list[Cell]]]:
    """Column names, and a row for each of the first `most` completions, by the schema of `rollout_row`."""
    flat = [rollout_row(step, group, i) for group in groups for i in range(len(group.rollouts))][:most]
    functions = list(flat[0]["scores"]) if flat else []
    before, after = ["step", "prompt", "completion"], ["reward", "advantage", "finish_reason"]
    extras = list(dict.fromkeys(column for row in flat for column in row["extras"]))
    titles = [f"{name} (function)" if name in (*before, *after) else name for name in functions]
    titles += [f"{name} (logged)" if name in (*before, *titles, *after) else name for name in extras]
    rows = [
        [
            *(row[name] for name in before),
            *(row["scores"].get(name) for name in functions),
            *(_scalar(row["extras"].get(name)) for name in extras),
            *(row[name] for name in after),
        ]
        for row in flat
    ]
    return [*before, *titles, *after], rows


def _scalar(value: object) -> Cell:
    """A cell of what a reward function logged: lists and dicts as text."""
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _wandb(callback: TrainerCallback, name: str, step: int, columns: list[str], rows: list[list[Cell]]) -> None:
    import wandb

    if wandb.run is not None:
        # Not committed: it goes into the history row that the figures of this step, sent next, will fill.
        wandb.run.log({name: wandb.Table(columns=columns, data=rows)}, commit=False)


def _swanlab(callback: TrainerCallback, name: str, step: int, columns: list[str], rows: list[list[Cell]]) -> None:
    import swanlab

    from dunwu.trackers.offline import swanlab_run

    if swanlab_run(swanlab) is not None:
        table = swanlab.echarts.Table()
        table.add(columns, rows)
        swanlab.log({name: table}, step=step)


def _trackio(callback: TrainerCallback, name: str, step: int, columns: list[str], rows: list[list[Cell]]) -> None:
    import trackio

    if trackio.context_vars.current_run.get() is not None:
        trackio.log({name: trackio.Table(columns=columns, data=rows), "train/global_step": step})


def _mlflow(callback: TrainerCallback, name: str, step: int, columns: list[str], rows: list[list[Cell]]) -> None:
    import mlflow

    if mlflow.active_run() is not None:
        table = {column: [row[i] for row in rows] for i, column in enumerate(columns)}
        mlflow.log_table(table, artifact_file=f"{name}/step_{step:06d}.json")


def _tensorboard(callback: TrainerCallback, name: str, step: int, columns: list[str], rows: list[list[Cell]]) -> None:
    writer = cast("SummaryWriter | None", getattr(callback, "tb_writer", None))
    if writer is not None:
        writer.add_text(name, _markdown(columns, rows), step)


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    lines = [[_cell(name) for name in columns], ["---"] * len(columns), *([_cell(v) for v in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: Cell) -> str:
    """Tags such as <think> are text here: TensorBoard would drop what it takes for HTML."""
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    return html.escape(text, quote=False).replace("|", "&#124;").replace("\n", "<br>")


_SENDERS: dict[str, Callable[[TrainerCallback, str, int, list[str], list[list[Cell]]], None]] = {
    "wandb": _wandb,
    "swanlab": _swanlab,
    "trackio": _trackio,
    "mlflow": _mlflow,
    "tensorboard": _tensorboard,
}
