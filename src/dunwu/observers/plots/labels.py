"""Names beside the lines that they belong to, in place of a legend, without overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from dunwu.observers.plots.style import GREY, INK, SIZES, WIDTH, in_pixels, points

__all__ = [
    "EndLabel",
    "Piece",
    "most_labels",
    "put_end_labels",
    "put_heading",
    "put_text",
    "shorten",
    "spread",
    "text_width",
]

_LINE = 1.25
"""Distance of two labels in heights of their type."""
_NEAR = 12
"""Pixels between a plot and its labels."""
_EARLY = 0.95
"""Share of the axes' width before which a line's end is far from its label."""
_ABOVE, _SPACE = 15, 12
"""Pixels between a plot and its heading, and between the heading's parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndLabel:
    """What stands at a line's end.

    Example: `EndLabel(x=330.0, y=0.68, text="68 %  equation solves", colour="#1b5e9e", bold=True)`
    """

    x: float
    """Where the line ends, in data."""
    y: float
    """Its last value."""
    text: str
    """Value and name."""
    colour: str
    """The line's."""
    bold: bool = False
    """Whether it is the one that matters most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a heading in the colour of the line that it names.

    Example: `Piece(text="dead groups", colour="#1b5e9e")`
    """

    text: str
    """Its words."""
    colour: str = INK
    """The line's."""
    is_plain: bool = False
    """Whether it is less than the others, such as a unit."""


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least `gap` apart between `low` and `high`, as near to the wanted ones as can be, in their order.

    Example: `spread([1.0, 1.0, 9.0], 2.0, 0.0, 10.0)` is `[0.0, 2.0, 9.0]`.
    """
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    blocks: list[list[int]] = []  # labels that touch move together, around the mean of what they want
    for index in order:
        blocks.append([index])
        while len(blocks) > 1 and _start(blocks[-2], wanted, gap, low, high) + gap * len(blocks[-2]) > _start(
            blocks[-1], wanted, gap, low, high
        ):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    found = [0.0] * len(wanted)
    for block in blocks:
        start = _start(block, wanted, gap, low, high)
        for place, index in enumerate(block):
            found[index] = start + gap * place
    return found


def _start(block: Sequence[int], wanted: Sequence[float], gap: float, low: float, high: float) -> float:
    size = gap * (len(block) - 1)
    middle = sum(wanted[index] for index in block) / len(block)
    return max(low, min(middle - size / 2, high - size))


def put_end_labels(axes: Axes, labels: Sequence[EndLabel], *, room: float) -> list[Text]:
    """Put labels to the right of the axes, at their lines' ends where there is room, joined to them where not.

    Args:
        axes: with its limits set.
        labels: at most as many as fit, see `most_labels`.
        room: pixels to the right of the axes.
    """
    if not labels:
        return []
    box = axes.get_window_extent()
    height, width = in_pixels(box.height), in_pixels(box.width)
    ends = [axes.transAxes.inverted().transform(axes.transData.transform((one.x, one.y))) for one in labels]
    gap = SIZES["label"] * _LINE / height
    places = spread([min(1.0, max(0.0, float(end[1]))) for end in ends], gap, gap / 4, 1 - gap / 4)
    texts = []
    for label, end, place in zip(labels, ends, places, strict=True):
        texts.append(_put_end_label(axes, label, 1 + _NEAR / width, place, room=room - _NEAR))
        _join(axes, label, (float(end[0]), min(1.0, max(0.0, float(end[1])))), place, (_NEAR - 3) / width)
    return texts


def _put_end_label(axes: Axes, label: EndLabel, x: float, y: float, *, room: float) -> Text:
    text = axes.text(
        *(x, y, label.text),
        transform=axes.transAxes,
        color=label.colour,
        fontsize=points("label"),
        fontweight="bold" if label.bold else "normal",
        verticalalignment="center",
    )
    text.set_gid("end label")
    shorten(text, room)
    return text


def _join(axes: Axes, label: EndLabel, end: tuple[float, float], place: float, beyond: float) -> None:
    """Join a line's end and its label; what ends long before the others gets a dotted line to the right edge."""
    x, y = end
    lines = []
    if x < _EARLY:
        lines.append(Line2D([x, 1], [y, y], linestyle=(0, (1, 3)), gid="reference"))
        x = 1.0
    lines.append(Line2D([x, 1 + beyond], [y, place], alpha=0.6, gid="join"))
    for line in lines:
        line.set(color=label.colour, linewidth=0.7, clip_on=False, transform=axes.transAxes)
        axes.add_line(line)


def most_labels(height: float) -> int:
    """How many labels fit beside axes of so many pixels."""
    return int((height - SIZES["label"] * _LINE / 2) / (SIZES["label"] * _LINE)) + 1


def text_width(figure: Figure, text: str, size: str, *, bold: bool = False) -> float:
    """Pixels that a text takes."""
    probe = Text(0, 0, text, fontsize=points(size), fontweight="bold" if bold else "normal")
    probe.set_figure(figure)
    return _width(probe, figure)


def _width(text: Text, figure: Figure) -> float:
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    return in_pixels(text.get_window_extent(renderer).width)


def shorten(text: Text, room: float) -> None:
    """Cut the middle out of a text that takes more pixels than there are: names often differ at their ends alone."""
    figure = text.get_figure(root=True)
    assert figure is not None
    full, kept = text.get_text(), len(text.get_text())
    while (wide := _width(text, figure)) > room and kept > 1:
        kept = max(1, min(kept - 1, int(kept * room / wide)))
        tail = kept // 3
        text.set_text(f"{full[: kept - tail].rstrip()}…{full[len(full) - tail :].lstrip()}")


def put_text(figure: Figure, left: float, top: float, words: str, size: str, *, bold: bool = False) -> Text:
    """A line of text whose upper left corner is at a place in pixels; it ends within the picture."""
    tall = in_pixels(figure.bbox.height)
    place = (left / WIDTH, 1 - top / tall)
    text = figure.text(*place, " ".join(words.split()), verticalalignment="top", fontsize=points(size))
    text.set_fontweight("bold" if bold else "normal")
    shorten(text, WIDTH - 2 * left)
    return text


def put_heading(axes: Axes, pieces: Sequence[Piece], *, left: float, room: float) -> None:
    """The words above a panel, each in its colour.

    Args:
        axes: the panel.
        pieces: the words; those that do not fit any more are cut.
        left: pixels to the left of the axes where it begins.
        room: pixels that it may take.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    box = axes.get_window_extent()
    width, height = in_pixels(box.width), in_pixels(box.height)
    at = 0.0
    for piece in pieces:
        text = axes.text(
            *((at - left) / width, 1 + _ABOVE / height, piece.text),
            transform=axes.transAxes,
            color=GREY if piece.is_plain else piece.colour,
            fontsize=points("panel"),
            fontweight="normal" if piece.is_plain else "bold",
        )
        text.set_gid("heading")
        shorten(text, room - at)
        at += _width(text, figure) + _SPACE
