"""A picture of any metrics: a panel each, two in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from matplotlib.figure import Figure

from dunwu.observers.plots.labels import put_text, text_width
from dunwu.observers.plots.metrics import metric_panel
from dunwu.observers.plots.page import PAD, SMALL_LEFT
from dunwu.observers.plots.panels import Panel, draw_panel
from dunwu.observers.plots.series import Entries, last_step
from dunwu.observers.plots.style import COLOURS, WIDTH, add_axes, drawing_style, new_figure

__all__ = ["grid_figure"]

_ROW, _HEIGHT, _TITLE = 218, 144, 38
_MOST_ROOM = 210
"""Pixels beside a panel beyond which a name is cut."""


@drawing_style()
def grid_figure(steps: Entries, *, panels: Mapping[str, Sequence[str]], title: str) -> Figure:
    """The figure that `draw_curves` writes; its arguments are those."""
    top = PAD + (_TITLE if title else 0)
    columns = min(2, len(panels))
    figure = new_figure(top + _ROW * -(-len(panels) // columns))
    if title:
        put_text(figure, PAD, PAD, title, "title", bold=True)
    each = (WIDTH - 2 * PAD) / columns
    for place, (heading, metrics) in enumerate(panels.items()):
        panel = replace(metric_panel({heading: [steps]}, metrics, COLOURS, heading=heading), unit="")
        right = _room(figure, panel)
        left = PAD + place % columns * each + SMALL_LEFT
        upper = top + place // columns * _ROW + 36
        axes = add_axes(figure, left, upper, each - SMALL_LEFT - right, _HEIGHT)
        draw_panel(axes, panel, last=last_step(steps), left=SMALL_LEFT, right=right, named=len(metrics) > 1)
    return figure


def _room(figure: Figure, panel: Panel) -> float:
    """Pixels for the values beside a panel, and for the names where there are several."""
    names = [curve.name for curve in panel.curves] if len(panel.curves) > 1 else [""]
    return min(_MOST_ROOM, 24 + max(text_width(figure, f"0.000  {name}", "label") for name in names))
