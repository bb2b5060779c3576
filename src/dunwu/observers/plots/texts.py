"""What a picture says, and how its numbers are written."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dunwu._utils.language import translated as _translated

__all__ = ["RunTitle", "format_number", "format_share", "format_time", "short_name"]


def _(text: str, /, **values: object) -> str:
    """A text of ours in the user's language, or in English where no font here has its characters.

    Every text in a picture goes through here; with values it is a template.
    """
    words = _translated(text)
    if _has_cjk(words) and not _can_draw_cjk():
        words = text
    return words.format(**values) if values else words


def _has_cjk(text: str) -> bool:
    return any("\u2e80" <= character <= "\u9fff" for character in text)


def _can_draw_cjk() -> bool:
    from dunwu.observers.plots.style import cjk_font

    return cjk_font() is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTitle:
    """What a run was, for the first line of its picture.

    Example: `str(RunTitle(model="Qwen/Qwen2.5-0.5B-Instruct", task="gsm8k", seed=42))` is
    `'Qwen2.5-0.5B-Instruct · gsm8k · seed 42'`.
    """

    model: str
    """Name or folder; its last part is shown."""
    task: str
    """The task's name."""
    seed: int | None = None
    """The run's seed; None: none is shown."""

    def __str__(self) -> str:
        model = self.model.rstrip("/").rsplit("/", 1)[-1]
        seed = _("seed {seed}", seed=self.seed) if self.seed is not None else ""
        return " · ".join(part for part in (model, self.task, seed) if part)


def format_share(share: float) -> str:
    """A share in per cent; with a decimal next to 0 and 100 %, where a whole number would hide the rest.

    Example: `[format_share(0.62), format_share(0.004), format_share(1.0)]` is `['62 %', '0.4 %', '100 %']`.
    """
    value = 100 * share
    near = 0 < value < 1 or 99 < value < 100
    return f"{value:.1f} %" if near else f"{value:.0f} %"


def format_number(value: float, span: float) -> str:
    """A value with so many decimals as its axis makes worth reading.

    Example: `[format_number(61.3, 150), format_number(0.1734, 0.25), format_number(1e-9, 0.25)]` is
    `['61', '0.173', '≈ 0']`.
    """
    if abs(value) < 0.002 * span:
        return "≈ 0" if value else "0"
    decimals = max(0, 2 - math.floor(math.log10(span)))
    text = f"{value:.3g}" if abs(value) >= 1e5 or decimals > 6 else f"{value:.{decimals}f}"
    return text.replace("-", "−")


def format_time(seconds: float) -> str:
    """Seconds as one would say them.

    Example: `[format_time(48), format_time(132), format_time(5040)]` is `['48 s', '2.2 min', '1.4 h']`.
    """
    if seconds < 60:
        return _("{n} s", n=f"{seconds:.0f}")
    if seconds < 3600:
        return _("{n} min", n=f"{seconds / 60:.1f}")
    return _("{n} h", n=f"{seconds / 3600:.1f}")


def short_name(metric: str) -> str:
    """A metric's name as people say it.

    Example: `[short_name("rewards/equation_solves/mean"), short_name("completions/mean_length")]` is
    `['equation solves', 'mean length']`.
    """
    name = metric.removeprefix("rewards/").removeprefix("completions/").removesuffix("/mean")
    return " ".join(name.replace("_", " ").split())
