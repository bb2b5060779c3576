"""Colours, sizes, fonts and the file of a picture.

It is laid out for a column of 830 pixels and written at twice that, so that it is sharp on a phone as well.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = [
    "ANSWER",
    "COLOURS",
    "GREY",
    "HELD_OUT",
    "INK",
    "PAPER",
    "SIZES",
    "WIDTH",
    "add_axes",
    "cjk_font",
    "drawing_style",
    "in_pixels",
    "new_figure",
    "points",
    "write_picture",
]

WIDTH = 830
"""Pixels of the column that a picture is laid out for; all lengths here are in these."""
_DOTS = 2.0
"""Pixels of the file for each of these."""
_INCH = 100
"""Of these pixels in what matplotlib takes for an inch."""

PAPER = "#fcfcfa"
"""The background; not transparent, so that the picture is the same on a dark page."""
INK, GREY, GRID, FRAME = "#22272e", "#5d6670", "#e6e7e4", "#d8dad6"
ANSWER, HELD_OUT = "#1b5e9e", "#b8450f"
"""Blue and vermilion: the pair that every kind of colour blindness keeps apart."""
COLOURS = (ANSWER, "#3a7d73", "#8a6a12", "#7d5a8c", "#66707a", "#8c4f4f", "#5d7530", "#4a5a8c")
"""For what stands beside each other, dark enough for text."""

SIZES = {"title": 21.0, "subtitle": 15.5, "panel": 15.5, "label": 15.0, "tick": 13.5}
"""Heights of the type in pixels."""

_CJK = (
    *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "Microsoft YaHei"),
    *("PingFang SC", "Hiragino Sans GB", "Heiti SC", "STHeiti", "SimHei", "WenQuanYi Micro Hei"),
    *("WenQuanYi Zen Hei", "Noto Sans CJK JP", "Droid Sans Fallback", "Arial Unicode MS", "SimSun"),
)


@cache
def cjk_font() -> str | None:
    """A font that is installed here and has Chinese characters."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in _CJK if name in installed), None)


@contextmanager
def drawing_style() -> Iterator[None]:
    """matplotlib's own defaults, whatever the user's notebook has set, and a font for Chinese where there is one."""
    chinese = cjk_font()
    with matplotlib.rc_context(), warnings.catch_warnings(), _silent_fonts():
        matplotlib.rcdefaults()
        # Of a character that no font has a box is drawn.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        families = ["DejaVu Sans", chinese] if chinese else ["DejaVu Sans"]
        matplotlib.rcParams.update({"font.family": families, "text.parse_math": False, "text.color": INK})
        yield


@contextmanager
def _silent_fonts() -> Iterator[None]:
    """Nobody needs to hear that a Chinese font has no bold cut."""
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def new_figure(height: float) -> Figure:
    """An empty figure of the column's width, without pyplot: that would look for a display and keep it alive."""
    figure = Figure(figsize=(WIDTH / _INCH, height / _INCH), dpi=_INCH * _DOTS, facecolor=PAPER, edgecolor=FRAME)
    figure.patch.set_linewidth(1.0)
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in pixels from the upper left corner, with a grid of pale horizontal lines alone."""
    tall = figure.get_figheight() * _INCH
    axes = figure.add_axes((left / WIDTH, 1 - (top + height) / tall, width / WIDTH, height / tall))
    axes.set_facecolor("none")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GREY)
        spine.set_linewidth(0.8)
    axes.tick_params(axis="both", length=0, labelsize=points("tick"), labelcolor=GREY, pad=5)
    axes.tick_params(axis="x", length=3, color=GREY)
    return axes


def points(size: str) -> float:
    """The size of a kind of type as matplotlib takes it."""
    return SIZES[size] * 72 / _INCH


def in_pixels(dots: float) -> float:
    """A length on the canvas in the pixels of the column."""
    return dots / _DOTS


def write_picture(figure: Figure, path: Path | str) -> Path:
    """Write a PNG beside the path and put it in its place: a kill leaves the picture of before."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.tmp")
    try:
        with drawing_style():
            figure.savefig(beside, format="png", dpi="figure", edgecolor=FRAME)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path
