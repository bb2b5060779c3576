"""Completions on a terminal: a line each, or all that were given to one prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dunwu._utils.language import translated
from dunwu._utils.terminal_text import display_width, pad_left, pad_right, shorten, wrap
from dunwu.reports.logged_completion import LoggedCompletion
from dunwu.reports.markdown import plain

__all__ = ["completion_table", "group_text", "one_line"]

_NARROWEST = 56
"""Columns that a completion beside others needs."""


def completion_table(completions: Sequence[LoggedCompletion], *, width: int = 80) -> str:
    """A line a completion: where it is from, what it earned, how long it is, how it begins.

    Args:
        completions: at least one.
        width: columns of the terminal.
    """
    heads, cells = _columns(completions)
    widths = [max(display_width(cell) for cell in column) for column in zip(heads, *cells, strict=True)]
    room = max(16, width - sum(widths) - 2 * len(widths))
    lines = [_line(heads, widths, translated("completion"))]
    for one, row in zip(completions, cells, strict=True):
        lines.append(_line(row, widths, shorten(one_line(one.text), room)))
    names = list(dict.fromkeys(name for one in completions for name in one.scores))
    if names:
        lines.append("")
        lines.append(wrap(translated("scores: {names}", names=" / ".join(map(plain, names))), width))
    return "\n".join(lines)


def one_line(text: str) -> str:
    """A text on one line that a terminal shows as it is.

    Example: `one_line("a" + chr(10) + "b")` is `"a⏎b"`.
    """
    return plain(text.strip(), keep="\n").replace("\n", "⏎")


def _columns(completions: Sequence[LoggedCompletion]) -> tuple[list[str], list[list[str]]]:
    has_steps = any(one.step is not None for one in completions)
    has_grades = any(one.is_right is not None for one in completions)
    heads = [
        *([translated("step")] if has_steps else []),
        translated("row"),
        "#",
        *([translated("right")] if has_grades else []),
        translated("reward"),
        translated("scores"),
        *([] if has_grades else [translated("adv.")]),
        translated("tokens"),
        translated("cut"),
    ]
    cells = [
        [
            *([_text(one.step)] if has_steps else []),
            _text(one.row),
            translated("greedy") if one.sample is None else str(one.sample),
            *([_yes(one.is_right)] if has_grades else []),
            _number(one.reward),
            shorten("/".join(_short(value) for value in one.scores.values()), 20),
            *([] if has_grades else [_number(one.advantage, sign=True)]),
            str(one.tokens),
            translated("cut") if one.is_cut else "",
        ]
        for one in completions
    ]
    return heads, cells


def _line(cells: Sequence[str], widths: Sequence[int], rest: str) -> str:
    return "".join(pad_left(cell, wide) + "  " for cell, wide in zip(cells, widths, strict=True)) + rest


def group_text(
    group: Sequence[LoggedCompletion],
    *,
    gold: str | None,
    columns: Mapping[str, object],
    weights: Mapping[str, float],
    width: int = 80,
) -> str:
    """One prompt's completions, below each other or, on a wide terminal, beside each other.

    Args:
        group: the completions, in the order to show them.
        gold: a right answer, where the task knows one.
        columns: the row's columns.
        weights: of the reward functions; 1 for one that is not named.
        width: columns of the terminal.
    """
    blocks = [_head(group, gold, columns, width)]
    beside = min(len(group), max(1, (width + 3) // (_NARROWEST + 3)))
    room = (width + 3) // beside - 3
    shown = [_completion(one, weights, room) for one in group]
    for start in range(0, len(shown), beside):
        blocks.append("\n".join(_beside(shown[start : start + beside], room)))
    return "\n\n".join(blocks)


def _head(group: Sequence[LoggedCompletion], gold: str | None, columns: Mapping[str, object], width: int) -> str:
    first = group[0]
    place = translated("row {row}", row=_text(first.row))
    if first.step is not None:
        place = translated("step {step}, row {row}", step=first.step, row=_text(first.row))
    lines = [f"{place}: {translated('{n} completions', n=len(group))}"]
    lines.append(_labelled(translated("prompt"), first.prompt, width))
    if columns:
        values = ", ".join(f"{name}={value!r}" for name, value in columns.items() if name != "prompt")
        lines.append(_labelled(translated("row's columns"), values, width))
    if gold is not None:
        lines.append(_labelled(translated("gold answer"), gold, width))
    return "\n".join(lines)


def _labelled(label: str, text: str, width: int) -> str:
    return f"{label}:\n" + _indented(text, width)


def _completion(one: LoggedCompletion, weights: Mapping[str, float], width: int) -> list[str]:
    name = translated("greedy") if one.sample is None else f"#{one.sample}"
    facts = [translated("reward {n}", n=_number(one.reward))]
    if one.advantage is not None:
        facts.append(translated("advantage {n}", n=_number(one.advantage, sign=True)))
    if one.is_right is not None:
        facts.append(translated("right") if one.is_right else translated("wrong"))
    facts.append(
        translated("{n} tokens, cut", n=one.tokens) if one.is_cut else translated("{n} tokens", n=one.tokens)
    )
    lines = wrap(f"{name}  {' · '.join(facts)}", width).split("\n")
    if one.scores:
        lines += wrap(_parts(one, weights), width).split("\n")
    return [*lines, *_indented(one.text, width).split("\n")]


def _parts(one: LoggedCompletion, weights: Mapping[str, float]) -> str:
    """What each reward function adds to the reward: its value, times its weight where that is not 1."""
    parts = []
    for name, value in one.scores.items():
        weight = weights.get(name, 1.0)
        times = f" × {weight:g}" if weight != 1 and value is not None else ""
        parts.append(f"{plain(name)} {_short(value)}{times}")
    return " + ".join(parts)


def _beside(blocks: Sequence[list[str]], width: int) -> Iterator[str]:
    for i in range(max(map(len, blocks))):
        cells = [block[i] if i < len(block) else "" for block in blocks]
        yield " │ ".join([*(pad_right(cell, width) for cell in cells[:-1]), cells[-1]]).rstrip()


def _indented(text: str, width: int) -> str:
    """Cut into lines by columns, not at spaces: a completion is shown as it is."""
    lines: list[str] = []
    for line in plain(text, keep="\n").split("\n"):
        lines += _chopped(line, max(8, width - 4))
    return "\n".join(f"    {line}".rstrip() for line in lines)


def _chopped(line: str, width: int) -> Iterator[str]:
    while display_width(line) > width:
        end = width
        while display_width(line[:end]) > width:
            end -= 1
        yield line[:end]
        line = line[end:]
    yield line


def _text(value: int | None) -> str:
    return "–" if value is None else str(value)


def _yes(value: bool | None) -> str:
    return "–" if value is None else translated("yes") if value else translated("no")


def _number(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value:+.2f}" if sign else f"{value:.2f}"


def _short(value: float | None) -> str:
    return "–" if value is None else f"{round(value, 2):g}"
