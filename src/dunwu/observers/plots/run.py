"""The picture of one run: rewards and held-out accuracy above, and three panels that say how it went below."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from dunwu.observers.plots.held_out import HeldOut, first_and_last, is_beyond_noise
from dunwu.observers.plots.hero import Hero, draw_hero
from dunwu.observers.plots.page import SMALL_LEFT, SMALL_RIGHT, Page
from dunwu.observers.plots.panels import Curve, Panel, draw_panel, value_text
from dunwu.observers.plots.series import Entries, change_of, last_step, reward_metrics, reward_span, series_of
from dunwu.observers.plots.style import COLOURS, drawing_style
from dunwu.observers.plots.texts import RunTitle, _, format_share, format_time, short_name

__all__ = ["run_figure", "summary_line"]


@drawing_style()
def run_figure(
    steps: Entries,
    *,
    title: RunTitle | str,
    held_out: Sequence[HeldOut] = (),
    limit: float | None = None,
    answer: str | None = None,
    total_steps: int | None = None,
) -> Figure:
    """The figure that `draw_run` writes; its arguments are those, with `answer` the metric's whole name."""
    span = reward_span([steps], reward_metrics(steps))
    in_percent = span == (0.0, 1.0) and (answer is not None or bool(held_out))
    hero = Hero(
        curves=_reward_curves(steps, answer),
        held_out=tuple(held_out),
        span=span,
        in_percent=in_percent,
        heading=_("Mean reward"),
        unit=_("1 = 100 %") if in_percent else "",
        last=max([last_step(steps), *(one.step for one in held_out), 1.0]),
    )
    panels = _small_panels(steps, limit)
    line = summary_line(steps, held_out, answer=answer, in_percent=in_percent, total_steps=total_steps)
    page = Page(str(title), line, small=len(panels))
    draw_hero(page, hero)
    for panel in panels:
        draw_panel(page.add_small(), panel, last=hero.last, left=SMALL_LEFT, right=SMALL_RIGHT)
    return page.figure


def _reward_curves(steps: Entries, answer: str | None) -> tuple[Curve, ...]:
    """A curve for each reward, the answer's first."""
    metrics = sorted(reward_metrics(steps), key=lambda metric: metric != answer)
    return tuple(
        Curve(
            runs=(series_of(steps, metric),),
            name=short_name(metric),
            colour=COLOURS[index % len(COLOURS)],
            is_answer=metric == answer,
        )
        for index, metric in enumerate(metrics)
    )


def _small_panels(steps: Entries, limit: float | None) -> tuple[Panel, ...]:
    def curve(metric: str, name: str, colour: str = COLOURS[0]) -> Curve:
        return Curve(runs=(series_of(steps, metric),), name=name, colour=colour)

    length = curve("completions/mean_length", _("Length"))
    dead = curve("frac_reward_zero_std", _("Dead groups"))
    cut = curve("completions/clipped_ratio", _("Cut"), COLOURS[2])
    entropy = curve("entropy", _("Entropy"))
    kl = curve("kl", _("KL"), COLOURS[2])
    return (
        Panel(curves=(length,), unit=_("tokens"), limit=limit),
        Panel(curves=(dead, cut), is_share=True),
        Panel(curves=(entropy, kl), unit=_("nats")),
    )


def summary_line(
    steps: Entries,
    held_out: Sequence[HeldOut] = (),
    *,
    answer: str | None = None,
    in_percent: bool = False,
    total_steps: int | None = None,
) -> str:
    """What changed, in how many steps and how long: the line below the title."""
    done = int(last_step(steps))
    parts = [_held_out_change(held_out) or _reward_change(steps, answer, in_percent)]
    if total_steps is not None and done < total_steps:
        parts.append(_("{done} of {total} steps", done=f"{done:,}", total=f"{total_steps:,}"))
    else:
        parts.append(_("{done} steps", done=f"{done:,}") if done != 1 else _("1 step"))
    seconds = series_of(steps, "seconds").ys
    parts += [format_time(float(seconds[-1]))] if len(seconds) else []
    return " · ".join(part for part in parts if part)


def _held_out_change(held_out: Sequence[HeldOut]) -> str:
    """What the sampled completions came to, or the greedy ones where there were no others."""
    for kind, what in (("sampled", _("held-out accuracy, sampled")), ("greedy", _("held-out accuracy, greedy"))):
        pair = first_and_last(held_out, kind)
        if pair is not None:
            before, after = (format_share(share.value) for share in pair)
            return _change(what, before, after, is_noise=is_beyond_noise(*pair) is False)
    return ""


def _reward_change(steps: Entries, answer: str | None, in_percent: bool) -> str:
    """The same of training, where nothing was held out: of the answer's reward, of the only one, or of their sum."""
    metrics = reward_metrics(steps)
    metric = answer or (metrics[0] if len(metrics) == 1 else "reward")
    change = change_of(series_of(steps, metric))
    if change is None:
        return ""
    span = reward_span([steps], [metric])
    before, after = (value_text(value, span, is_share=in_percent and metric != "reward") for value in change[:2])
    return _change(_("{name} in training", name=short_name(metric)), before, after, is_noise=not change[2])


def _change(what: str, before: str, after: str, *, is_noise: bool) -> str:
    if is_noise:
        return _("{what}: {before} → {after}, no change beyond noise", what=what, before=before, after=after)
    return _("{what}: {before} → {after}", what=what, before=before, after=after)
