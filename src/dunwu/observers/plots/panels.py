"""A panel: its lines, pale as measured and strong as a running mean, its axes, its heading and its labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dunwu.observers.plots.labels import EndLabel, Piece, most_labels, put_end_labels, put_heading
from dunwu.observers.plots.series import Series, mean_and_range, round_ticks, span_from_zero, thinned
from dunwu.observers.plots.style import GREY, INK, PAPER, in_pixels, points
from dunwu.observers.plots.texts import _, format_number, format_share

__all__ = [
    "Curve",
    "Panel",
    "draw_line",
    "draw_panel",
    "end_label",
    "say_empty",
    "set_steps",
    "set_values",
    "value_text",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A metric of one run, or of several that differ in their seed.

    Example: `Curve(runs=(), name="Entropy", colour="#1b5e9e").has_values` is `False`.
    """

    runs: tuple[Series, ...]
    """Its values in each run."""
    name: str
    """What it is called in the picture."""
    colour: str
    """Of line and name."""
    is_answer: bool = False
    """Whether it is the one that matters most."""

    @property
    def has_values(self) -> bool:
        """Whether there is anything to draw."""
        return any(len(run) for run in self.runs)

    def line(self) -> Series:
        """The running mean; of several runs their mean as far as all of them go, else the longest run's."""
        smooth = [run.smoothed() for run in self.runs if len(run)]
        found = mean_and_range(smooth) if len(smooth) > 1 else None
        return found[0] if found else max(smooth, key=len)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Curves that share an axis.

    Example: `Panel(curves=(Curve(runs=(), name="Entropy", colour="#1b5e9e"),), unit="nats")`
    """

    curves: tuple[Curve, ...]
    """What is drawn."""
    heading: str = ""
    """What stands above it; empty: the curves' names."""
    unit: str = ""
    """Said after the heading."""
    is_share: bool = False
    """Whether the values are shares: their axis is 0 to 100 %."""
    span: tuple[float, float] | None = None
    """The axis of values that are no shares; None: from 0 to above the largest."""
    limit: float | None = None
    """A value that is never exceeded, drawn as a line."""
    is_over_time: bool = False
    """Whether it is drawn over minutes in place of steps."""


def value_text(value: float, span: tuple[float, float], *, is_share: bool) -> str:
    """A value as its axis has it."""
    return format_share(value) if is_share else format_number(value, span[1] - span[0])


def end_label(curve: Curve, span: tuple[float, float], *, is_share: bool, named: bool) -> EndLabel:
    """The label of a curve with values: where it has come to, and its name if asked for."""
    line = curve.line()
    text = value_text(float(line.ys[-1]), span, is_share=is_share)
    return EndLabel(
        x=float(line.xs[-1]),
        y=float(line.ys[-1]),
        text=f"{text}  {curve.name}" if named else text,
        colour=curve.colour,
        bold=named and curve.is_answer,
    )


def draw_line(axes: Axes, curve: Curve, *, width: float = 1.9) -> None:
    """Draw a curve; nothing where it has no values."""
    runs = [run for run in curve.runs if len(run)]
    if not runs:
        return
    if len(runs) == 1:
        raw = thinned(runs[0])
        axes.plot(raw.xs, raw.ys, color=curve.colour, alpha=0.22, linewidth=0.8, gid="raw")
    else:
        _draw_runs(axes, runs, curve.colour)
    line = thinned(curve.line())
    marker = "o" if len(line) == 1 else "none"
    axes.plot(
        line.xs, line.ys, color=curve.colour, linewidth=width, solid_joinstyle="round", gid="line", marker=marker
    )


def _draw_runs(axes: Axes, runs: Sequence[Series], colour: str) -> None:
    """Each run as a thin line, and the band between the lowest and the highest."""
    smooth = [run.smoothed() for run in runs]
    for run in map(thinned, smooth):
        axes.plot(run.xs, run.ys, color=colour, alpha=0.45, linewidth=0.8, gid="run")
    found = mean_and_range(smooth)
    if found is not None:
        mean, low, high = found
        axes.fill_between(mean.xs, low, high, color=colour, alpha=0.13, linewidth=0, gid="range")


def draw_panel(axes: Axes, panel: Panel, *, last: float, left: float, right: float, named: bool = False) -> None:
    """Fill axes with a panel.

    Args:
        axes: empty ones.
        panel: what to draw.
        last: where the horizontal axis ends.
        left, right: pixels beside the axes, for tick labels and for what the curves have come to.
        named: whether the curves' names stand at their ends as well.
    """
    drawn = [curve for curve in panel.curves if curve.has_values]
    width = in_pixels(axes.get_window_extent().width)
    put_heading(axes, _heading(panel, drawn), left=left, room=left + width + right)
    set_steps(axes, last, unit=_("{n} min") if panel.is_over_time else "", whole=not panel.is_over_time)
    set_values(axes, *_span(panel, drawn), is_share=panel.is_share, most=4)
    for curve in reversed(drawn):
        draw_line(axes, curve)
    if not drawn:
        say_empty(axes)
        return
    if panel.limit is not None:
        _draw_limit(axes, panel.limit)
    labels = [end_label(curve, axes.get_ylim(), is_share=panel.is_share, named=named) for curve in drawn]
    put_end_labels(axes, labels[: most_labels(in_pixels(axes.get_window_extent().height))], room=right)


def _heading(panel: Panel, drawn: Sequence[Curve]) -> list[Piece]:
    unit = [Piece(text=panel.unit, is_plain=True)] if panel.unit else []
    if panel.heading:
        return [Piece(text=panel.heading), *unit]
    named = drawn or panel.curves
    return [Piece(text=curve.name, colour=curve.colour if len(named) > 1 else INK) for curve in named] + unit


def _span(panel: Panel, drawn: Sequence[Curve]) -> tuple[float, float]:
    if panel.is_share:
        return 0.0, 1.0
    if panel.span is not None:
        return panel.span
    runs = [run for curve in drawn for run in curve.runs]
    low, high = span_from_zero(runs, headroom=1.35 if panel.limit is not None else 1.2)
    if panel.limit is not None and drawn and panel.limit < 2.5 * high:
        high = max(high, panel.limit * 1.25)  # a limit further above would press the curve against the axis
    return low, high


def _draw_limit(axes: Axes, limit: float) -> None:
    words = _("limit {limit}", limit=f"{limit:g}")
    if limit < axes.get_ylim()[1]:
        axes.axhline(limit, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)), gid="limit")
        text = axes.annotate(
            words, (0, limit), (1, 2), xycoords=("axes fraction", "data"), textcoords="offset points"
        )
    else:
        text = axes.annotate(f"↑ {words}", (0, 1), (1, 0), xycoords="axes fraction", textcoords="offset points")
        text.set_verticalalignment("top")
    text.set(color=GREY, fontsize=points("tick"), bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1})


def say_empty(axes: Axes) -> None:
    """Say that there is nothing to see, which an empty panel alone would leave open."""
    text = axes.text(0.5, 0.5, _("no values"), transform=axes.transAxes, color=GREY, fontsize=points("label"))
    text.set(horizontalalignment="center", verticalalignment="center")


def set_steps(axes: Axes, last: float, *, unit: str = "", whole: bool = True) -> None:
    """The horizontal axis, from 0, with so many ticks as their labels leave room for.

    Args:
        axes: whose axis.
        last: where it ends.
        unit: a template such as `step {n}`, for the last tick alone.
        whole: whether ticks are whole numbers.
    """
    axes.set_xlim(-0.015 * last, 1.015 * last)
    label = 22 + 8.5 * len(f"{last:,.0f}")
    most = max(1, min(7, int(in_pixels(axes.get_window_extent().width) / label)))
    ticks = round_ticks(last, most=most, whole=whole)
    words = [f"{tick:,.10g}" for tick in ticks]
    axes.set_xticks(ticks, [*words[:-1], unit.format(n=words[-1]) if unit else words[-1]])


def set_values(axes: Axes, low: float, high: float, *, is_share: bool, most: int) -> None:
    """The vertical axis; of shares a little more than 0 to 100 %, so that a line at either end is seen whole."""
    room = 0.02 * (high - low) if is_share else 0.0
    axes.set_ylim(low - room, high + room)
    if is_share:
        axes.set_yticks([0, 0.5, 1] if most < 5 else [0, 0.25, 0.5, 0.75, 1])
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: _tick(value, is_share)))


def _tick(value: float, is_share: bool) -> str:
    return format_share(value) if is_share else f"{value:g}".replace("-", "−")
