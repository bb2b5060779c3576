"""The picture of several runs over each other: a line a run, or a mean with its range over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from matplotlib.figure import Figure

from dunwu.observers.plots.hero import Hero, draw_hero
from dunwu.observers.plots.metrics import describe, metric_panel
from dunwu.observers.plots.page import SMALL_LEFT, SMALL_RIGHT, Page
from dunwu.observers.plots.panels import Curve, Panel, draw_panel
from dunwu.observers.plots.series import Entries, Series, last_step
from dunwu.observers.plots.style import COLOURS, drawing_style
from dunwu.observers.plots.texts import _

__all__ = ["comparison_figure"]


@drawing_style()
def comparison_figure(
    runs: Mapping[str, Sequence[Entries]], *, title: str, metrics: Sequence[str], over_time: bool
) -> Figure:
    """The figure that `draw_comparison` writes; its arguments are those."""
    first, *others = (metric_panel(runs, [one], COLOURS, heading=describe(one).name) for one in metrics)
    is_share = first.is_share or (metrics[0].startswith("rewards/") and first.span == (0.0, 1.0))
    hero = Hero(
        curves=tuple(replace(curve, name=_with_count(curve)) for curve in first.curves),
        held_out=(),
        span=first.span or (0.0, 1.0),
        in_percent=is_share,
        heading=first.heading,
        unit=_("mean reward, 1 = 100 %") if is_share and not first.is_share else first.unit,
        last=max(last_step(entries) for group in runs.values() for entries in group),
    )
    page = Page(title, _subtitle(runs), small=len(others) + over_time)
    draw_hero(page, hero)
    if over_time:
        panel = _in_minutes(metric_panel(runs, metrics[:1], COLOURS, heading=_("Over time"), over="seconds"))
        last = max((float(run.xs[-1]) for curve in panel.curves for run in curve.runs if len(run)), default=1.0)
        panel = replace(panel, is_share=is_share)
        draw_panel(page.add_small(), panel, last=last, left=SMALL_LEFT, right=SMALL_RIGHT)
    for panel in others:
        draw_panel(page.add_small(), panel, last=hero.last, left=SMALL_LEFT, right=SMALL_RIGHT)
    return page.figure


def _with_count(curve: Curve) -> str:
    if len(curve.runs) == 1:
        return curve.name
    return _("{name}, {n} seeds", name=curve.name, n=len(curve.runs))


def _in_minutes(panel: Panel) -> Panel:
    """The panel with minutes in place of seconds."""
    curves = tuple(
        replace(curve, runs=tuple(Series(xs=run.xs / 60, ys=run.ys) for run in curve.runs)) for curve in panel.curves
    )
    return replace(panel, curves=curves, is_over_time=True)


def _subtitle(runs: Mapping[str, Sequence[Entries]]) -> str:
    count = _("{n} runs", n=sum(map(len, runs.values())))
    if all(len(group) == 1 for group in runs.values()):
        return count
    return f"{count} · {_('strong: mean of the seeds, band: their range, thin: each run')}"
