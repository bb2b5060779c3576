"""A picture of a run's metrics, made with matplotlib and without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dunwu.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_curves"]


def draw_curves(
    steps: Sequence[Mapping[str, float]],
    path: Path,
    *,
    panels: Mapping[str, Sequence[str]],
    title: str = "",
    smooth: int = 9,
) -> Path:
    """Draw the metrics of a run over its steps, each as a pale line with its running mean.

    Args:
        steps: one mapping a step, with `step` and the metrics (as `MetricsLog.steps`).
        path: the PNG to write; its folder is made.
        panels: a panel's title to the metrics in it.
        title: above all panels.
        smooth: steps in the running mean.

    Raises:
        DataError: when there are no steps to draw.
    """
    if not steps:
        raise DataError("there are no steps to draw; train first")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not by pyplot, which would look for a display and keep the figure alive.
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, metrics) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _panel(axes, name, metrics, steps, smooth)
    if title:
        figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _panel(axes: Axes, name: str, metrics: Sequence[str], steps: Sequence[Mapping[str, float]], smooth: int) -> None:
    for metric in metrics:
        xs = [entry["step"] for entry in steps if metric in entry]
        ys = [entry[metric] for entry in steps if metric in entry]
        (line,) = axes.plot(xs, running_mean(ys, smooth), linewidth=2, label=_short(metric))
        axes.plot(xs, ys, color=line.get_color(), alpha=0.25, linewidth=1)
    axes.set_title(name)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean of each value and up to `width` − 1 before it."""
    windows = (values[max(0, i + 1 - width) : i + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _short(metric: str) -> str:
    return metric.removeprefix("rewards/").removeprefix("completions/").removesuffix("/mean").replace("_", " ")
