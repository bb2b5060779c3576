"""A comparison as a table for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from dunwu._utils.language import translated
from dunwu._utils.terminal_text import display_width, pad_left, pad_right, shorten, wrap
from dunwu.reports.figures import Figure, duration, figure_label, shown
from dunwu.reports.markdown import code_span, markdown_table, plain
from dunwu.reports.run_folder import outcome_text
from dunwu.reports.run_record import Outcome
from dunwu.reports.verdict import verdict_lines

if TYPE_CHECKING:
    from dunwu.reports.comparison import Comparison, Setting

__all__ = ["as_markdown", "as_table"]

Row: TypeAlias = tuple[str, list[str]]
"""A label and a cell for each column."""

_WIDTH = 80
_MOST_COLUMNS = 4
_UNKNOWN = "–"
_FIRST = ("sampled_strict", "greedy_strict", "sampled_tokens")
"""Figures of settings below each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """What stands below one head: a setting, or one run of the only setting."""

    label: str
    options: Mapping[str, str]
    figures: Mapping[str, Figure]
    seconds: Sequence[float]
    steps: Sequence[int]
    outcomes: Sequence[Outcome]
    seeds: Sequence[object]


def as_table(comparison: Comparison) -> str:
    """In 80 columns: settings beside each other, or below each other where there are more than four."""
    columns = _columns(comparison)
    grid = _beside(comparison, columns) if len(columns) <= _MOST_COLUMNS else _below(columns)
    blocks = [_head(comparison), _legend(comparison), grid, *_words(comparison)]
    return "\n\n".join(plain(block) for block in blocks if block)


def as_markdown(comparison: Comparison) -> str:
    """The same as Markdown."""
    columns = _columns(comparison)
    runs = [f"- {code_span(one.label)}: {', '.join(map(code_span, _folders(one)))}" for one in comparison.settings]
    tables = [
        markdown_table([title, *(one.label for one in columns)], [[label, *cells] for label, cells in rows])
        for title, rows in _sections(comparison, columns, short=False)
        if rows
    ]
    verdicts = "\n".join(f"- {line}" for line in verdict_lines(comparison.verdicts))
    blocks = [
        f"# {_head(comparison)}",
        "\n".join(runs),
        *tables,
        verdicts,
        *_legend_of_errors(columns),
        _left_out(comparison),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _columns(comparison: Comparison) -> list[_Column]:
    if len(comparison.settings) > 1:
        return [_column(setting) for setting in comparison.settings]
    (only,) = comparison.settings
    runs = [
        _Column(
            label=translated("seed {n}", n=only.seeds[i]),
            options={},
            figures=only.of_runs[i],
            seconds=only.seconds[i : i + 1] if len(only.seconds) == len(only.runs) else [],
            steps=only.steps[i : i + 1],
            outcomes=only.outcomes[i : i + 1],
            seeds=only.seeds[i : i + 1],
        )
        for i in range(len(only.runs))
    ]
    return [*runs, _column(only, label=translated("mean"))]


def _column(setting: Setting, label: str = "") -> _Column:
    return _Column(
        label=label or setting.label,
        options=setting.options,
        figures=setting.figures,
        seconds=setting.seconds,
        steps=setting.steps,
        outcomes=setting.outcomes,
        seeds=setting.seeds,
    )


def _head(comparison: Comparison) -> str:
    runs = sum(len(setting.runs) for setting in comparison.settings)
    if len(comparison.settings) == 1:
        return translated("{runs} runs of one setting", runs=runs)
    if runs == len(comparison.settings):
        return translated("{runs} runs", runs=runs)
    return translated("{settings} settings, {runs} runs", settings=len(comparison.settings), runs=runs)


def _legend(comparison: Comparison) -> str:
    """Which folders are meant."""
    if len(comparison.settings) == 1:
        return "\n".join(_folders(comparison.settings[0]))
    wide = max(display_width(setting.label) for setting in comparison.settings)
    lines = []
    for setting in comparison.settings:
        for i, folder in enumerate(_folders(setting)):
            lines.append(f"{pad_right(setting.label if i == 0 else '', wide)}  {folder}")
    return "\n".join(lines)


def _folders(setting: Setting) -> list[str]:
    return [str(run.path) for run in setting.runs]


def _sections(comparison: Comparison, columns: Sequence[_Column], *, short: bool) -> list[tuple[str, list[Row]]]:
    differing: list[Row] = [
        (name, [one.options.get(name, _UNKNOWN) for one in columns]) for name in comparison.differing
    ]
    return [
        (translated("what differs"), differing if len(comparison.settings) > 1 else []),
        (translated("after training"), _figure_rows(columns, short=short)),
        (translated("the runs"), _run_rows(columns)),
    ]


def _figure_rows(columns: Sequence[_Column], *, short: bool) -> list[Row]:
    return [
        (
            figure_label(name),
            [one.figures[name].text(short=short) if name in one.figures else _UNKNOWN for one in columns],
        )
        for name in shown([one.figures for one in columns])
    ]


def _run_rows(columns: Sequence[_Column]) -> list[Row]:
    rows = [
        (translated("steps"), [_joined(one.steps) for one in columns]),
        (translated("time of training"), [_time(one.seconds) for one in columns]),
        (translated("seconds a step"), [_pace(one) for one in columns]),
        (
            translated("status"),
            [", ".join(outcome_text(word) for word in dict.fromkeys(one.outcomes)) for one in columns],
        ),
    ]
    if any(len(one.seeds) > 1 for one in columns):
        rows.append(
            (translated("seeds"), [_joined([_UNKNOWN if s is None else s for s in one.seeds]) for one in columns])
        )
    return rows


def _joined(values: Sequence[object]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def _time(seconds: Sequence[float]) -> str:
    return duration(sum(seconds) / len(seconds)) if seconds else _UNKNOWN


def _pace(column: _Column) -> str:
    steps = sum(column.steps)
    known = len(column.seconds) == len(column.steps) and steps
    return f"{sum(column.seconds) / steps:.2f}" if known else _UNKNOWN


def _beside(comparison: Comparison, columns: Sequence[_Column]) -> str:
    long, short = (_sections(comparison, columns, short=short) for short in (False, True))
    labels = [label for _, rows in long for label, _ in rows] + [title for title, _ in long]
    least = (
        max(display_width(cell) for _, rows in short[1:2] for _, cells in rows for cell in cells)
        if short[1][1]
        else 0
    )
    first = min(max(map(display_width, labels)), _WIDTH - len(columns) * (2 + max(least, 10)))
    room = min(24, (_WIDTH - first) // len(columns) - 2)
    fits = all(display_width(cell) <= room for _, cells in long[1][1] for cell in cells)
    heads = _heads(columns, room)
    lines: list[str] = []
    for title, rows in long if fits else short:
        if rows:
            lines += [
                "",
                *_lines(title, heads, first, room),
                *(line for row in rows for line in _lines(*row, first, room)),
            ]
    return "\n".join(lines[1:])


def _heads(columns: Sequence[_Column], room: int) -> list[str]:
    """The labels where they are told apart when cut, else their last columns, which differ more often."""
    cut = [shorten(one.label, room) for one in columns]
    if len(set(cut)) == len(cut):
        return cut
    ends = [one.label if display_width(one.label) <= room else "…" + one.label[-(room - 1) :] for one in columns]
    return ends if len(set(ends)) == len(ends) else [f"({i + 1})" for i in range(len(columns))]


def _lines(label: str, cells: Sequence[str], first: int, room: int) -> list[str]:
    """A row whose long cells go on below."""
    parts = [[shorten(line, room) for line in wrap(cell, room, indent="").split("\n")] for cell in cells]
    tall = max(map(len, parts))
    return [
        pad_right(shorten(label, first) if i == 0 else "", first)
        + "".join("  " + pad_left(part[i] if i < len(part) else "", room) for part in parts)
        for i in range(tall)
    ]


def _below(columns: Sequence[_Column]) -> str:
    """A line a setting, with the figures that matter most, and its options where its label does not tell them."""
    there = shown([one.figures for one in columns])
    names = [name for name in _FIRST if name in there] or there[:3]
    room = 13
    heads = [*map(figure_label, names), translated("time")]
    first = _WIDTH - (room + 2) * (len(names) + 1)
    lines = _lines("", heads, first, room)
    for one in columns:
        lines += _lines(one.label, [*(_cell(one, name) for name in names), _time(one.seconds)], first, room)
    if all(len(one.options) > 2 or "=" not in one.label for one in columns):
        lines.append("")
        for one in columns:
            options = ", ".join(f"{name}={value}" for name, value in one.options.items())
            lines += wrap(f"{one.label}: {options}", _WIDTH).split("\n") if options else []
    return "\n".join(lines).rstrip()


def _cell(column: _Column, name: str) -> str:
    return column.figures[name].text(short=True) if name in column.figures else _UNKNOWN


def _words(comparison: Comparison) -> list[str]:
    verdicts = "\n".join(wrap(line, _WIDTH) for line in verdict_lines(comparison.verdicts))
    notes = [*_legend_of_errors(_columns(comparison)), _left_out(comparison)]
    return [verdicts, "\n".join(wrap(note, _WIDTH) for note in notes if note)]


def _legend_of_errors(columns: Sequence[_Column]) -> list[str]:
    figures = [figure for one in columns for figure in one.figures.values()]
    lines = []
    if any(figure.deviation is None and figure.low is not None for figure in figures):
        lines.append(translated("Intervals: 95 % over the held-out prompts."))
    if any(figure.deviation is not None for figure in figures):
        lines.append(translated("±: one standard deviation over seeds."))
    return lines


def _left_out(comparison: Comparison) -> str:
    if not comparison.left_out:
        return ""
    return translated(
        "Left out, for no step of theirs is finished: {runs}", runs=", ".join(map(str, comparison.left_out))
    )
