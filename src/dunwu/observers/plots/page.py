"""The page of a picture: title, one wide panel, and a row of small ones below it."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from dunwu.observers.plots.labels import EndLabel, put_text, text_width
from dunwu.observers.plots.style import GREY, WIDTH, add_axes, new_figure

__all__ = ["HERO_HEIGHT", "LEFT", "PAD", "SMALL_LEFT", "SMALL_RIGHT", "Page"]

HERO_HEIGHT = 216
"""Pixels of the wide panel's axes."""
LEFT = 68
"""Pixels to the left of the wide panel's axes."""
SMALL_LEFT, SMALL_RIGHT = 50, 62
"""Pixels beside the axes of a small panel: for tick labels, and for values."""

PAD = 18
"""Pixels at the picture's edges."""

_HERO_TOP, _SMALL_TOP, _SMALL_HEIGHT = 118, 408, 132
_HEIGHT = 584
_BETWEEN = 10


class Page:
    """A figure that is filled from the top.

    Args:
        title: the first line.
        subtitle: the line below it.
        small: panels in the lower row.
    """

    def __init__(self, title: str, subtitle: str, *, small: int) -> None:
        self.figure = new_figure(_HEIGHT if small else _SMALL_TOP - 28)
        put_text(self.figure, PAD, 18, title, "title", bold=True)
        put_text(self.figure, PAD, 51, subtitle, "subtitle").set_color(GREY)
        self._small, self._added = small, 0

    def hero(self, *, left: float = LEFT, right: float) -> Axes:
        """The wide panel's axes, or a part of them.

        Args:
            left: pixels from the picture's left edge to the axes.
            right: pixels from the axes to the picture's right edge.
        """
        return add_axes(self.figure, left, _HERO_TOP, WIDTH - left - right, HERO_HEIGHT)

    def add_small(self) -> Axes:
        """Axes of the next panel of the lower row."""
        each = (WIDTH - 2 * PAD - (self._small - 1) * _BETWEEN) / self._small
        left = PAD + self._added * (each + _BETWEEN)
        self._added += 1
        width = each - SMALL_LEFT - SMALL_RIGHT
        return add_axes(self.figure, left + SMALL_LEFT, _SMALL_TOP, width, _SMALL_HEIGHT)

    def room_for(self, labels: Sequence[EndLabel], *, most: float = 280) -> float:
        """Pixels to the right of axes that these labels need, `most` where they need more and will be cut."""
        widths = [text_width(self.figure, one.text, "label", bold=one.bold) for one in labels]
        return min(most, 14 + max(widths, default=0.0))
