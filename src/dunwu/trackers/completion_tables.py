"""What the model said, as a table in every tracker that is recording.

What it is: one row a completion, sent beside the figures of a logged step.
What it is not: the whole record (`observe.RolloutLog`); a tracker gets at most `ROWS` rows a step.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dunwu._utils.secrets import redact
from dunwu.trackers.guard import is_off, tracker_of
from dunwu.trackers.offline import say, swanlab_run

if TYPE_CHECKING:  # a recipe is checked for keys before anything heavy is imported
    from dunwu.core.records import Group

__all__ = ["ROWS", "completion_rows", "log_completions"]

ROWS = 64
"""Rows of a step's table: trackers keep every table, and a step may have thousands of completions."""


def log_completions(callbacks: Iterable[Any], step: int, groups: Sequence[Group]) -> None:
    """Send a step's completions to the trackers behind these callbacks, at most the first 64 of them.

    A tracker that is not recording is passed over; one that fails costs a warning and gets no more tables.

    Args:
        callbacks: the trainer's callbacks.
        step: optimizer steps finished.
        groups: what was sampled for it.
    """
    columns, rows = completion_rows(step, groups)
    for callback in list(callbacks):
        send = _SENDERS.get(tracker_of(callback) or "")
        if send is None or is_off(callback) or getattr(callback, "dunwu_no_tables", False):
            continue
        try:
            send(callback, step, columns, rows)
        except Exception as error:  # whatever it is, a table is not worth a run
            callback.dunwu_no_tables = True
            what = redact(f"{type(error).__name__}: {' '.join(str(error).split())}")
            say(f"{tracker_of(callback)} took no table of completions ({what}): it gets none from now on")


def completion_rows(
    step: int, groups: Sequence[Group], *, most: int = ROWS
) -> tuple[list[str], list[list[str | float | None]]]:
    """Column names, and a row for each of the first `most` completions."""
    flat = [(group, rollout) for group in groups for rollout in group.rollouts][:most]
    names = list(flat[0][1].scores) if flat else []
    fixed = ["step", "prompt", "completion", "reward", "advantage", "finish"]
    own = [f"{name} (function)" if name in fixed else name for name in names]
    columns = [*fixed[:3], *own, *fixed[3:]]
    rows: list[list[str | float | None]] = [
        [
            step,
            group.prompt.text,
            rollout.completion.text,
            *(rollout.scores.get(name) for name in names),
            rollout.reward,
            rollout.advantage,
            rollout.completion.finish_reason,
        ]
        for group, rollout in flat
    ]
    return columns, rows


def _wandb(callback: Any, step: int, columns: list[str], rows: list[list[Any]]) -> None:
    import wandb

    if wandb.run is not None:
        # Not committed: it goes into the history row that the figures of this step, sent next, will fill.
        wandb.run.log({"completions": wandb.Table(columns=columns, data=rows)}, commit=False)


def _swanlab(callback: Any, step: int, columns: list[str], rows: list[list[Any]]) -> None:
    import swanlab

    if swanlab_run(swanlab) is not None:
        table = swanlab.echarts.Table()
        table.add(columns, rows)
        swanlab.log({"completions": table}, step=step)


def _trackio(callback: Any, step: int, columns: list[str], rows: list[list[Any]]) -> None:
    import trackio

    if trackio.context_vars.current_run.get() is not None:
        trackio.log({"completions": trackio.Table(columns=columns, data=rows), "train/global_step": step})


def _mlflow(callback: Any, step: int, columns: list[str], rows: list[list[Any]]) -> None:
    import mlflow

    if mlflow.active_run() is not None:
        table = {name: [row[i] for row in rows] for i, name in enumerate(columns)}
        mlflow.log_table(table, artifact_file=f"completions/step_{step:06d}.json")


def _tensorboard(callback: Any, step: int, columns: list[str], rows: list[list[Any]]) -> None:
    if callback.tb_writer is not None:
        callback.tb_writer.add_text("completions", _markdown(columns, rows), step)


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [[_cell(name) for name in columns], ["---"] * len(columns), *([_cell(v) for v in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: Any) -> str:
    """Tags such as <think> are text here: TensorBoard would drop what it takes for HTML."""
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    return html.escape(text, quote=False).replace("|", "&#124;").replace("\n", "<br>")


_SENDERS: dict[str, Callable[[Any, int, list[str], list[list[Any]]], None]] = {
    "wandb": _wandb,
    "swanlab": _swanlab,
    "trackio": _trackio,
    "mlflow": _mlflow,
    "tensorboard": _tensorboard,
}
