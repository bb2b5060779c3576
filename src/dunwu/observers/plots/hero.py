"""The wide panel of a run: each reward's mean, and accuracy on held-out prompts before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from dunwu.observers.plots.held_out import HeldOut, Share
from dunwu.observers.plots.labels import EndLabel, Piece, most_labels, put_end_labels, put_heading
from dunwu.observers.plots.page import HERO_HEIGHT, LEFT, PAD, Page
from dunwu.observers.plots.panels import Curve, draw_line, end_label, say_empty, set_steps, set_values
from dunwu.observers.plots.style import HELD_OUT, PAPER, WIDTH
from dunwu.observers.plots.texts import _, format_share

__all__ = ["Hero", "draw_hero"]

_STRIP, _STRIP_LEFT = 72, 56
"""Pixels of the axes of held-out accuracy where it cannot share those of the rewards, and of their tick labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hero:
    """What the wide panel shows.

    Example: `Hero(curves=(Curve(runs=(), name="equation solves", colour="#1b5e9e", is_answer=True),), held_out=(),
    span=(0.0, 1.0), in_percent=True, heading="Mean reward", last=330.0)`
    """

    curves: tuple[Curve, ...]
    """Rewards, the one that matters most first."""
    held_out: tuple[HeldOut, ...]
    """Evaluations."""
    span: tuple[float, float]
    """Of the rewards' axis."""
    in_percent: bool
    """Whether all rewards lie between 0 and 1, and are shown in per cent."""
    heading: str
    """What the curves are."""
    unit: str = ""
    """Said after it."""
    last: float
    """Where the horizontal axis ends."""


def draw_hero(page: Page, hero: Hero) -> None:
    """Draw the wide panel: on one pair of axes, or on two where rewards are not between 0 and 1."""
    if hero.in_percent or not hero.held_out:
        _draw_rewards(page, hero, hero.held_out, aside=PAD)
    else:
        _draw_rewards(page, hero, (), aside=_draw_strip(page, hero))


def _draw_rewards(page: Page, hero: Hero, held_out: Sequence[HeldOut], *, aside: float) -> None:
    """Draw rewards, and evaluations on the same axes; `aside` pixels at the picture's right edge stay free."""
    marks = _mark_labels(held_out, sampled=_("held-out, sampled"), greedy=_("held-out, greedy"))
    shown = hero.curves[: most_labels(HERO_HEIGHT) - len(marks)]
    labels = [
        *(end_label(one, hero.span, is_share=hero.in_percent, named=True) for one in shown if one.has_values),
        *marks,
    ]
    room = page.room_for(labels, most=(WIDTH - aside) * 0.36)
    axes = page.hero(right=room + aside)
    set_steps(axes, hero.last, unit=_("step {n}"))
    set_values(axes, *hero.span, is_share=hero.in_percent, most=5)
    for curve in reversed(shown):
        draw_line(axes, curve, width=2.8 if curve.is_answer else 1.8)
    _draw_marks(axes, held_out)
    put_end_labels(axes, labels, room=room)
    heading = _heading(hero, bool(held_out), len(hero.curves) - len(shown))
    put_heading(axes, heading, left=LEFT - PAD, room=WIDTH - aside - PAD)
    if not labels:
        say_empty(axes)


def _heading(hero: Hero, has_marks: bool, hidden: int) -> list[Piece]:
    pieces = [Piece(text=hero.heading), *([Piece(text=hero.unit, is_plain=True)] if hero.unit else [])]
    if has_marks:
        pieces.append(Piece(text=_("held-out accuracy, 95 % interval"), colour=HELD_OUT))
    if hidden:
        pieces.append(Piece(text=_("{n} more not shown", n=hidden)))
    return pieces


def _draw_strip(page: Page, hero: Hero) -> float:
    """Draw held-out accuracy on axes of its own to the right; the pixels that they take."""
    labels = _mark_labels(hero.held_out, sampled=_("sampled"), greedy=_("greedy"))
    room = page.room_for(labels)
    axes = page.hero(left=WIDTH - PAD - room - _STRIP, right=room + PAD)
    set_steps(axes, hero.last)
    set_values(axes, 0.0, 1.0, is_share=True, most=5)
    _draw_marks(axes, hero.held_out)
    put_end_labels(axes, labels, room=room)
    heading = [Piece(text=_("Held-out, 95 % interval"), colour=HELD_OUT)]
    put_heading(axes, heading, left=_STRIP_LEFT, room=_STRIP_LEFT + _STRIP + room)
    return _STRIP_LEFT + _STRIP + room + 2 * PAD


def _shares(held_out: Sequence[HeldOut]) -> dict[str, list[tuple[float, Share]]]:
    """Kind of completion to its shares by step."""
    ordered = sorted(held_out, key=lambda one: one.step)
    found = {
        "sampled": [(one.step, one.sampled) for one in ordered if one.sampled is not None],
        "greedy": [(one.step, one.greedy) for one in ordered if one.greedy is not None],
    }
    return {kind: shares for kind, shares in found.items() if shares}


def _mark_labels(held_out: Sequence[HeldOut], **names: str) -> list[EndLabel]:
    """A label for the last share of each kind, which `names` has a name for."""
    return [
        EndLabel(x=step, y=share.value, text=f"{format_share(share.value)}  {names[kind]}", colour=HELD_OUT)
        for kind, found in _shares(held_out).items()
        for step, share in found[-1:]
    ]


def _draw_marks(axes: Axes, held_out: Sequence[HeldOut]) -> None:
    """Draw each share with its interval: sampled as a disc, greedy as a hollow diamond a little to the right."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    for kind, found in _shares(held_out).items():
        is_sampled = kind == "sampled"
        moved = axes.transData + ScaledTranslation((-4 if is_sampled else 4) / 72, 0, figure.dpi_scale_trans)
        lines = [
            Line2D([step, step], [share.low, share.high], linewidth=1.6, gid="interval")
            for step, share in found
            if share.low is not None and share.high is not None
        ]
        marks = Line2D([step for step, _share in found], [share.value for _step, share in found], gid=kind)
        marks.set(linestyle="none", marker="o" if is_sampled else "D", markersize=6, markeredgewidth=1.4)
        marks.set_markerfacecolor(HELD_OUT if is_sampled else PAPER)
        for line in [*lines, marks]:
            line.set(color=HELD_OUT, transform=moved, clip_on=False, zorder=4)
            axes.add_line(line)
