"""The console's table: which columns fit, headings over each other, figures that keep their width."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from dunwu._utils.terminal_text import display_width, pad_left, shorten

__all__ = ["Column", "figure", "fit_columns", "header", "reward_means", "row", "short_names"]

_ENDINGS = ("_reward_func", "_reward_fn", "_reward", "_func")
_MOST_HEADING_LINES = 3
_NARROWEST, _WIDEST = 6, 13
"""Columns of one reward's figures, the space before them included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the table.

    Example: `Column(name="completions/clipped_ratio", heading="cut", width=6, form=str)`
    """

    name: str
    """The figure's name: a metric's, or one of the console's own."""
    heading: str
    """What stands over it; words joined by `_` may stand over each other."""
    width: int
    """Columns of the terminal, the space before it included."""
    form: Callable[[float], str]
    """The figure as text."""
    rank: int = 0
    """Columns of the highest rank are left out first where not all fit; 0: never."""


def reward_means(metrics: Mapping[str, float]) -> dict[str, float]:
    """Each reward function's mean by its name.

    Example: `reward_means({"rewards/equation/mean": 0.25, "rewards/equation/std": 0.1})` is `{"equation": 0.25}`.
    """
    return {
        metric.removeprefix("rewards/").removesuffix("/mean"): value
        for metric, value in metrics.items()
        if metric.startswith("rewards/") and metric.endswith("/mean")
    }


def short_names(names: Sequence[str]) -> list[str]:
    """The names without an ending such as `_reward_func`, where they stay different.

    Example: `short_names(["int_reward_func", "xmlcount_reward_func"])` is `["int", "xmlcount"]`.
    """
    short = [next((name.removesuffix(end) for end in _ENDINGS if name.endswith(end)), name) for name in names]
    return short if len(set(short)) == len(short) and all(short) else list(names)


def fit_columns(fixed: Sequence[Column], names: Sequence[str], *, after: str, width: int) -> list[Column]:
    """The columns that fit into a line: the rewards' after the column `after`, those with a rank if room is left.

    Args:
        fixed: all columns but the rewards', in order.
        names: the reward functions.
        after: the column that the rewards follow.
        width: columns of the terminal.
    """
    headings = short_names(names)
    wanted = [min(max(_longest(heading) + 1, _NARROWEST), _WIDEST) for heading in headings]
    kept = list(fixed)
    while _total(kept) + sum(wanted) > width and any(column.rank for column in kept):
        kept.remove(max(kept, key=lambda column: column.rank))
    widths = _shrunk(wanted, width - _total(kept))
    own = [
        Column(name=f"rewards/{name}/mean", heading=heading, width=each, form=partial(_fitting, width=each - 1))
        for name, heading, each in zip(names, headings, widths, strict=False)
    ]
    place = next(i for i, column in enumerate(kept) if column.name == after) + 1
    return [*kept[:place], *own, *kept[place:]]


def _total(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns)


def _shrunk(widths: Sequence[int], room: int) -> list[int]:
    """The widths, the widest made narrower until all fit; without the last ones where that is not enough."""
    found = list(widths)
    while sum(found) > room and max(found) > _NARROWEST:
        found[found.index(max(found))] -= 1
    while sum(found) > max(room, 0):
        found.pop()
    return found


def header(columns: Sequence[Column]) -> tuple[list[str], bool]:
    """The lines over the table, and whether a heading had to be cut."""
    stacks = [_stacked(column.heading, column.width - 1) for column in columns]
    height = min(max(map(len, stacks)), _MOST_HEADING_LINES)
    is_cut = any(len(stack) > height for stack in stacks)
    for stack, column in zip(stacks, columns, strict=True):
        if len(stack) > height:
            stack[height - 1 :] = [shorten(stack[height - 1] + "…", column.width - 1)]
        stack[:0] = [""] * (height - len(stack))
    lines = [
        "".join(pad_left(cell, column.width) for cell, column in zip(cells, columns, strict=True)).rstrip()
        for cells in zip(*stacks, strict=True)
    ]
    return lines, is_cut


def _pieces(heading: str) -> list[str]:
    """`think_answer` as `think_` and `answer`."""
    return re.findall(r"[^_]*_+|[^_]+$", heading)


def _longest(heading: str) -> int:
    return max(map(display_width, _pieces(heading)), default=0)


def _stacked(heading: str, width: int) -> list[str]:
    """The heading's words over each other, as few lines as hold them; a word that is too long goes on below."""
    lines = [""]
    for piece in _pieces(heading):
        if display_width(lines[-1] + piece) <= width:
            lines[-1] += piece
        else:
            lines += _chunks(piece, width)
    return [line for line in lines if line]


def _chunks(word: str, width: int) -> list[str]:
    count = -(-display_width(word) // width)
    size = -(-len(word) // count)
    return [word[i : i + size] for i in range(0, len(word), size)]


def row(columns: Sequence[Column], figures: Mapping[str, float]) -> str:
    """One line of the table; `–` where a figure is missing or not a number."""
    cells = []
    for column in columns:
        value = figures.get(column.name, math.nan)
        text = "–" if math.isnan(value) else column.form(value)
        cells.append(pad_left(text, column.width))
    return "".join(cells).rstrip()


def figure(value: float, width: int, *, decimals: int = 2) -> str:
    """The number with as many decimals as fit into `width` columns.

    Example: `[figure(x, 5) for x in (0.123, -12.5, 12345.6, 1234567.0)]` is `["0.12", "-12.5", "12346", "1e+06"]`.
    """
    for places in range(decimals, -1, -1):
        text = f"{value:.{places}f}"
        if len(text) <= width:
            return text
    return f"{value:.0e}"


def _fitting(value: float, *, width: int) -> str:
    return figure(value, width)
