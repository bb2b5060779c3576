"""Finished English texts in Chinese: found among templates, whose placeholders are filled with what stands in them.

A template says itself what no other text says, so it is found by its own words; what stands for its placeholders may
be ours again (a hint, a reason) and is looked up in turn, but never what is quoted, nor what a twin marks by `{=}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

__all__ = ["Catalogue", "filled", "placeholders"]

_PLACEHOLDER = re.compile(r"\{(\d*)(!r|=)?\}")
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?|\w*[\[({<].*?|[^\s'"]+)"""
"""What a repr looks like, which may be cut at its end: a quoted text, something in brackets, or one word."""
_LEAST = 5
"""A template with fewer characters of its own is not looked for: it would find the words of others."""
_MOST_SPLITS = 40


def placeholders(template: str) -> list[str]:
    """The placeholders of a sentence's template: `{}`, and `{!r}` for a value in quotes.

    Example: `placeholders("{} is {!r}")` is `['{}', '{!r}']`.
    """
    return [match[0] for match in _PLACEHOLDER.finditer(template)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Placeholders with no word between them, such as `{!r}{}`: where one ends is not known from the template."""

    quoted: tuple[bool, ...]
    """For each placeholder whether it is a value's repr, which is never translated."""
    between: tuple[str, ...]
    """What stands between them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    """A template and its twin."""

    words: tuple[str, ...]
    """What must stand in a text, in this order."""
    weight: int
    """How many characters it has itself."""
    quoted: int
    """How many of its placeholders are in quotes, which are characters, too."""
    pattern: str
    """One group a run."""
    runs: tuple[_Run, ...]
    """What is in each group."""
    twin: str
    """The Chinese."""

    def found_in(self, text: str) -> Sequence[str] | None:
        """What stands for each run, None where the text is another message."""
        at = 0
        for word in self.words:  # far cheaper than the pattern, which would try all places in a long text
            at = text.find(word, at)
            if at < 0:
                return None
            at += len(word)
        match = _compiled(self.pattern).fullmatch(text)
        return match.groups() if match else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A text in Chinese."""

    twin: str
    """The text."""
    weight: int
    """How many characters of the English are ours."""


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """When a text comes near it, for most never do."""
    return re.compile(pattern, re.DOTALL)


class Catalogue:
    """Templates and their twins; `labels` are those that are asked for by name."""

    def __init__(self, sentences: Mapping[str, str], labels: Mapping[str, str]) -> None:
        self.labels = labels
        self._whole = {english: twin for english, twin in sentences.items() if not _PLACEHOLDER.search(english)}
        messages = [_message(english, twin) for english, twin in sentences.items() if english not in self._whole]
        self._messages = [message for message in messages if message.weight + 2 * message.quoted >= _LEAST]
        self._of_lines = [message for message in self._messages if any("\n" in word for word in message.words)]

    def of(self, text: str) -> str | None:
        """The twin of a text, of its lines or of its parts; None where nothing in it is ours."""
        found = self._found(text)
        return found.twin if found else None

    def _found(self, text: str) -> _Found | None:
        if text in self._whole:
            return _Found(twin=self._whole[text], weight=len(text))
        if "\n" in text:
            found = self._by_template(text, self._of_lines) or self._parts(text, "\n")
            if found is not None:
                return found
        body = text.strip()
        found = _more(self._by_template(text, self._messages), self._parts(text, "; "))
        if found is not None or body == text or not body:
            return found
        inner = self._found(body)
        if inner is None:
            return None
        before, _, after = text.partition(body)
        return _Found(twin=before + inner.twin + after, weight=inner.weight)

    def _parts(self, text: str, separator: str) -> _Found | None:
        """Messages that were joined; None where the first is not ours: the text may be one that contains the like."""
        parts = text.split(separator)
        if len(parts) == 1 or self._found(next(filter(str.strip, parts), "")) is None:
            return None
        found = [self._found(part) or _Found(twin=part, weight=0) for part in parts]
        return _Found(twin=separator.join(one.twin for one in found), weight=sum(one.weight for one in found))

    def _by_template(self, text: str, messages: Sequence[_Message]) -> _Found | None:
        """Of all templates that the text fits, the one of which, with what is in its placeholders, most is ours."""
        best: _Found | None = None
        for message in messages:
            parts = message.found_in(text)
            if parts is not None:
                pairs = zip(message.runs, parts, strict=True)
                values = [value for run, part in pairs for value in self._values(run, part)]
                weight = message.weight + sum(twin.weight for _, twin in values)
                best = _more(best, _Found(twin=filled(message.twin, [(a, b.twin) for a, b in values]), weight=weight))
        return best

    def _values(self, run: _Run, text: str) -> list[tuple[str, _Found]]:
        """For each placeholder of a run what stands there, and the same translated where it is ours.

        Of all ways to divide the text that one is taken in which most is ours, else the first.
        """
        best: list[tuple[str, _Found]] = []
        most = -1
        for count, parts in enumerate(_divided(text, run)):
            pairs = [(part, self._value(part, quoted)) for part, quoted in zip(parts, run.quoted, strict=True)]
            ours = sum(twin.weight for _, twin in pairs)
            if ours > most:
                best, most = pairs, ours
            if count == _MOST_SPLITS or len(run.quoted) == 1:
                break
        return best

    def _value(self, text: str, quoted: bool) -> _Found:
        if quoted:
            return _Found(twin=text, weight=2 if text[:1] in ("'", '"') else 0)
        return self._found(text) or _Found(twin=text, weight=0)


def _more(one: _Found | None, other: _Found | None) -> _Found | None:
    """What explains more of a text; the first where they are equal."""
    if one is None or other is None:
        return one or other
    return other if other.weight > one.weight else one


def _divided(text: str, run: _Run) -> Iterator[list[str]]:
    """All ways in which a run's placeholders and what stands between them can make up a text."""
    if len(run.quoted) == 1:
        if not run.quoted[0] or re.fullmatch(_QUOTED, text, re.DOTALL):
            yield [text]
        return
    rest = _Run(quoted=run.quoted[1:], between=run.between[1:])
    separator = run.between[0]
    for match in re.finditer(re.escape(separator) if separator else r"(?=[;:,.( ]|$)", text):
        if run.quoted[0] and not re.fullmatch(_QUOTED, text[: match.start()], re.DOTALL):
            continue
        for others in _divided(text[match.end() :], rest):
            yield [text[: match.start()], *others]


def _pattern(run: _Run) -> str:
    inside = [_QUOTED if quoted else ".*?" for quoted in run.quoted]
    return "(" + "".join(a + re.escape(b) for a, b in zip(inside, [*run.between, ""], strict=True)) + ")"


def filled(twin: str, values: Sequence[tuple[str, str]]) -> str:
    """The twin with its placeholders: `{}` in order, `{1}` by position, `{=}` for words that are not ours."""
    order = iter(range(len(values)))

    def value(match: re.Match[str]) -> str:
        plain, ours = values[int(match[1]) if match[1] else next(order)]
        return plain if match[2] == "=" else ours

    pieces = re.split(r"(\{\d*=?\})", twin)
    text = ""
    for index, piece in enumerate(pieces):
        match = _PLACEHOLDER.fullmatch(piece) if index % 2 else None
        text = _spaced(text, value(match) if match else piece)
    return text


def _spaced(before: str, after: str) -> str:
    """Two pieces in a row: a space between Chinese and Latin, none between Chinese and Chinese.

    A hint that asks, such as `；是不是想写 'x'？`, ends its sentence: the mark that would follow is left out.
    """
    if before.endswith("？"):
        return before + re.sub(r"^[。；，]? ?", "", after)
    if re.search(r"[一-鿿]$", before) and re.match(r"[A-Za-z0-9'\"`-]", after):
        return f"{before} {after}"
    if re.search(r"[A-Za-z0-9'\"`]$", before) and re.match(r"[一-鿿]", after):
        return f"{before} {after}"
    if re.search(r"[一-鿿。！] $", before) and re.match(r"[一-鿿]", after):
        return before[:-1] + after
    if re.search(r"[一-鿿]$", before) and re.match(r" [一-鿿]", after):
        return before + after[1:]
    return before + after


def _message(english: str, twin: str) -> _Message:
    words: list[str] = []
    runs: list[_Run] = []
    pattern = ""
    quoted: list[bool] = []
    between: list[str] = []
    parts = re.split(r"(\{(?:!r)?\})", english)
    for literal, placeholder in zip(parts[::2], [*parts[1::2], None], strict=True):
        inside = bool(quoted) and placeholder is not None and not re.search(r"\w", literal)
        if inside:
            between.append(literal)
        else:
            if quoted:
                runs.append(_Run(quoted=tuple(quoted), between=tuple(between)))
                pattern += _pattern(runs[-1])
                quoted, between = [], []
            words.append(literal)
            pattern += re.escape(literal)
        if placeholder is not None:
            quoted.append(placeholder == "{!r}")
    return _Message(
        words=tuple(words),
        weight=len("".join("".join(parts[::2]).split())),
        quoted=parts.count("{!r}"),
        pattern=pattern,
        runs=tuple(runs),
        twin=twin,
    )
