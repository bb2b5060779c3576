"""The pictures that can be drawn, each into a PNG; matplotlib is loaded when the first is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dunwu._utils.suggest import did_you_mean
from dunwu.errors import DataError
from dunwu.observers.plots.held_out import HeldOut
from dunwu.observers.plots.series import Entries, reward_metrics
from dunwu.observers.plots.texts import RunTitle

__all__ = ["draw_comparison", "draw_curves", "draw_run"]


def draw_run(
    steps: Entries,
    path: Path | str,
    *,
    title: RunTitle | str,
    held_out: Sequence[HeldOut] = (),
    limit: float | None = None,
    answer_reward: str | None = None,
    total_steps: int | None = None,
) -> Path:
    """Draw one run: rewards and held-out accuracy, length, dead groups, entropy.

    Args:
        steps: one mapping a step, as `MetricsLog.steps` or the lines of `metrics.jsonl`.
        path: the PNG to write; its folder is made, and a picture that is there stays until the new one is whole.
        title: the first line.
        held_out: evaluations, before and after and between.
        limit: token limit of a completion.
        answer_reward: name of the reward function that pays for right answers: its curve is the one to look at.
        total_steps: steps that the run was to take; the picture says where it has not come so far.

    Raises:
        DataError: when there are no steps to draw, or no such reward.
    """
    answer = _answer_metric(_with_steps(steps), answer_reward)
    from dunwu.observers.plots.run import run_figure
    from dunwu.observers.plots.style import write_picture

    figure = run_figure(steps, title=title, held_out=held_out, limit=limit, answer=answer, total_steps=total_steps)
    return write_picture(figure, path)


def _with_steps(steps: Entries) -> Entries:
    if not steps:
        raise DataError("there are no steps to draw; train first")
    return steps


def _answer_metric(steps: Entries, name: str | None) -> str | None:
    if name is None:
        return None
    metrics = reward_metrics(steps)
    metric = name if name in metrics else f"rewards/{name}/mean"
    if metric not in metrics:
        names = [one.removeprefix("rewards/").removesuffix("/mean") for one in metrics]
        raise DataError(f"answer_reward={name!r} is none of this run's rewards{did_you_mean(name, names)}")
    return metric


_COMPARED = ("reward", "completions/mean_length", "frac_reward_zero_std", "entropy")


def draw_comparison(
    runs: Mapping[str, Sequence[Entries]],
    path: Path | str,
    *,
    title: str = "",
    metrics: Sequence[str] = _COMPARED,
    over_time: bool = False,
) -> Path:
    """Draw several runs over each other; of runs that differ in their seed only, their mean and its range.

    Args:
        runs: a name to the metrics of its runs, each as `MetricsLog.steps`.
        path: the PNG to write.
        title: the first line.
        metrics: the first in the wide panel, up to three more below; those that no run has are left out.
        over_time: whether a panel below has the first metric over minutes, in place of the last one.

    Raises:
        DataError: where a run has no steps, or none has one of the metrics.
    """
    if not runs or not all(runs.values()):
        raise DataError("there are no runs to compare")
    every = [_with_steps(entries) for group in runs.values() for entries in group]
    names = {name for entries in every for name in (*entries[0], *entries[-1])}
    found = [metric for metric in metrics if metric in names]
    if not found:
        raise DataError(f"no run has any of the metrics {', '.join(metrics)}{did_you_mean(metrics[0], names)}")
    from dunwu.observers.plots.comparison import comparison_figure
    from dunwu.observers.plots.style import write_picture

    found = found[: 3 if over_time else 4]
    return write_picture(comparison_figure(runs, title=title, metrics=found, over_time=over_time), path)


def draw_curves(steps: Entries, path: Path | str, *, panels: Mapping[str, Sequence[str]], title: str = "") -> Path:
    """Draw any metrics of a run over its steps, two panels in a row.

    Args:
        steps: one mapping a step, with `step` and the metrics (as `MetricsLog.steps`).
        path: the PNG to write; its folder is made.
        panels: a panel's heading to the metrics in it.
        title: above all panels.

    Raises:
        DataError: when there are no steps or no panels to draw.
    """
    if not panels or not all(panels.values()):
        raise DataError("there are no panels to draw; give a heading and its metrics: {'rewards': ['reward']}")
    from dunwu.observers.plots.grid import grid_figure
    from dunwu.observers.plots.style import write_picture

    return write_picture(grid_figure(_with_steps(steps), panels=panels, title=title), path)
