"""What a metric is called in a picture, its unit, and the axis that does not exaggerate it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dunwu.observers.plots.panels import Curve, Panel
from dunwu.observers.plots.series import Entries, reward_span, series_of, span_from_zero
from dunwu.observers.plots.texts import _, short_name

__all__ = ["MetricText", "describe", "is_reward", "metric_panel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricText:
    """How a metric is shown.

    Example: `MetricText(name="Length", unit="tokens")`
    """

    name: str
    """Its name in the picture."""
    unit: str = ""
    """Its unit; empty where it has none."""
    is_share: bool = False
    """Whether it is a share, shown from 0 to 100 %."""


def describe(metric: str) -> MetricText:
    """How a metric is shown; one that is not known here under its own name.

    Example: `describe("frac_reward_zero_std").name` is `'Dead groups'`.
    """
    known = {
        "completions/mean_length": MetricText(name=_("Length"), unit=_("tokens")),
        "frac_reward_zero_std": MetricText(name=_("Dead groups"), is_share=True),
        "completions/clipped_ratio": MetricText(name=_("Cut"), is_share=True),
        "entropy": MetricText(name=_("Entropy"), unit=_("nats")),
        "kl": MetricText(name=_("KL"), unit=_("nats")),
        "reward": MetricText(name=_("Reward")),
    }
    name = short_name(metric)
    return known.get(metric) or MetricText(name=name[:1].upper() + name[1:])


def is_reward(metric: str) -> bool:
    """Whether a metric is the mean of rewards."""
    return metric == "reward" or (metric.startswith("rewards/") and metric.endswith("/mean"))


def metric_panel(
    groups: Mapping[str, Sequence[Entries]],
    metrics: Sequence[str],
    colours: Sequence[str],
    *,
    heading: str,
    over: str = "step",
) -> Panel:
    """A panel of metrics over runs: a curve for each of `groups` and each metric, with the colours in that order.

    Args:
        groups: a name to the runs that differ in their seed only.
        metrics: what is drawn; where they are several, the curves are called after them.
        colours: as many as are needed, from the first again where they are fewer.
        heading: what stands above the panel.
        over: `step` or `seconds`.
    """
    pairs = [(label, metric) for label in groups for metric in metrics]
    curves = tuple(
        Curve(
            runs=tuple(series_of(entries, metric, over=over) for entries in groups[label]),
            name=describe(metric).name if len(metrics) > 1 else label,
            colour=colours[index % len(colours)],
        )
        for index, (label, metric) in enumerate(pairs)
    )
    about = [describe(metric) for metric in metrics]
    units = {one.unit for one in about}
    is_share = all(one.is_share for one in about)
    return Panel(
        curves=curves,
        heading=heading,
        unit=units.pop() if len(units) == 1 else "",
        is_share=is_share,
        span=None if is_share else _span([entries for group in groups.values() for entries in group], metrics),
    )


def _span(runs: Sequence[Entries], metrics: Sequence[str]) -> tuple[float, float]:
    if all(map(is_reward, metrics)):
        return reward_span(runs, metrics)
    return span_from_zero([series_of(entries, metric) for entries in runs for metric in metrics])
