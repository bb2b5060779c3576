"""Chinese for what Dunwu says: the language that is asked for, and a finished English text in it.

English is the source and stands where it is said. A text is translated once, where it is shown: it is found again
among the templates in `chinese/*.yaml`, and its placeholders are filled with what stands in it.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

from dunwu.errors import ConfigError

__all__ = ["CATALOGUE", "Language", "language", "padded", "placeholders", "translated", "wrapped"]

Language: TypeAlias = Literal["en", "zh"]
"""A language that Dunwu speaks."""

CATALOGUE = Path(__file__).with_name("chinese")
"""The folder with one YAML file a room: English template to Chinese; `labels.yaml` has what is asked for by name."""

_PLACEHOLDER = re.compile(r"\{(\d*)(!r|=)?\}")
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?|\w*[\[({<].*?|[^\s'"]+)"""
"""What a repr looks like, which may be cut at its end: a quoted text, something in brackets, or one word."""
_NEVER_FIRST = "，。；：、？！）》”…"
"""Marks that do not begin a line."""
_LEAST = 5
"""A template with fewer characters of its own is not looked for: it would find the words of others."""
_MOST_SPLITS = 40


def language() -> Language:
    """The language that is asked for: `DUNWU_LANG`, else the system's.

    Raises:
        ConfigError: when `DUNWU_LANG` names one that is not there.
    """
    found = _language()
    if found is None:
        asked = os.environ["DUNWU_LANG"]
        raise ConfigError(f"DUNWU_LANG={asked!r} is no language of Dunwu's; set it to en or zh, or unset it")
    return found


def _language() -> Language | None:
    """None for one that is not there: what is printed then, the error above included, is English."""
    asked = os.environ.get("DUNWU_LANG", "").strip()
    if not asked:
        system = next(filter(None, (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
        return "zh" if _code(system) == "zh" else "en"
    return {"en": "en", "zh": "zh"}.get(_code(asked))  # type: ignore[return-value]


def _code(locale: str) -> str:
    """`zh` of `zh_CN.UTF-8`."""
    return re.split(r"[_.@-]", locale.lower(), maxsplit=1)[0]


def translated(text: str, /, **values: object) -> str:
    """The text in the language that is asked for; as it is where that is English, or where it has no twin.

    Without values the text is a finished message or a label. With values it is a template, as `str.format` takes it.

    Example: `translated("{n} steps", n=3)` is `'3 steps'`
    """
    if _language() == "zh":
        catalogue = _catalogue()
        label = catalogue.labels.get(text) or (catalogue.of(text) if values else None)
        if label is not None:
            text = label
        elif not values:
            return catalogue.of(text) or text
    return text.format(**values) if values else text


def padded(text: str, width: int, *, right: bool = False) -> str:
    """The text filled up with blanks to a width in a terminal's columns, of which a Chinese character takes two.

    Example: `padded("step", 5)` is `'step '`.
    """
    blanks = " " * max(0, width - _columns(text))
    return blanks + text if right else text + blanks


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of a terminal's columns, broken at blanks, and between Chinese characters.

    Example: `wrapped("a bc d", 4)` is `['a bc', 'd']`.
    """
    lines = [""]
    for piece in re.findall(r"[　-鿿＀-￯]|[^\s　-鿿＀-￯]+|\s+", text):
        if _columns(lines[-1] + piece.rstrip()) <= width or not lines[-1] or piece in _NEVER_FIRST:
            lines[-1] += piece
        else:
            lines.append(piece.lstrip())
    return [line.rstrip() for line in lines if line.strip()]


def _columns(text: str) -> int:
    return len(text) + sum(unicodedata.east_asian_width(character) in "WF" for character in text)


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
    """How many characters these have."""
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


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """When a text comes near it, for most never do."""
    return re.compile(pattern, re.DOTALL)


class _Catalogue:
    """All templates, those first that say most themselves."""

    def __init__(self, sentences: dict[str, str], labels: dict[str, str]) -> None:
        self.labels = labels
        self._whole = {english: twin for english, twin in sentences.items() if not _PLACEHOLDER.search(english)}
        messages = [_message(english, twin) for english, twin in sentences.items() if english not in self._whole]
        kept = [message for message in messages if message.weight >= _LEAST]
        self._messages = sorted(kept, key=lambda message: -message.weight)
        self._of_lines = [message for message in self._messages if any("\n" in word for word in message.words)]

    def of(self, text: str) -> str | None:
        """The twin of a text, of its lines or of its parts; None where nothing in it is ours."""
        if text in self._whole:
            return self._whole[text]
        if "\n" in text:
            twin = self._by_template(text, self._of_lines) or self._lines(text)
            if twin is not None:
                return twin
        body = text.strip()
        twin = self._by_template(text, self._messages)
        if twin is not None:
            return twin
        twin = self._whole.get(body) or self._by_template(body, self._messages)
        if twin is None:
            return self._parts(text, "; ")
        before, _, after = text.partition(body)
        return before + twin + after

    def _lines(self, text: str) -> str | None:
        """Messages one a line; None where the first is not ours: the text may be one message with lines in it."""
        first = next(filter(str.strip, text.split("\n")), "")
        return self._parts(text, "\n") if self.of(first) else None

    def _parts(self, text: str, separator: str) -> str | None:
        parts = text.split(separator)
        twins = [self.of(part) for part in parts] if len(parts) > 1 else []
        return separator.join(twin or part for twin, part in zip(twins, parts, strict=True)) if any(twins) else None

    def _by_template(self, text: str, messages: Sequence[_Message]) -> str | None:
        for message in messages:
            found = message.found_in(text)
            if found is not None:
                pairs = zip(message.runs, found, strict=True)
                return _filled(message.twin, [value for run, part in pairs for value in self._values(run, part)])
        return None

    def _values(self, run: _Run, text: str) -> list[tuple[str, str]]:
        """For each placeholder of a run what stands there, and the same translated where it is ours.

        Of all ways to divide the text that one is taken in which most is ours, else the first.
        """
        best: list[tuple[str, str]] = []
        most = -1
        for count, parts in enumerate(_divided(text, run)):
            pairs = [self._pair(part, quoted) for part, quoted in zip(parts, run.quoted, strict=True)]
            ours = sum(plain != twin for plain, twin in pairs)
            if ours > most:
                best, most = pairs, ours
            if count == _MOST_SPLITS or len(run.quoted) == 1:
                break
        return best

    def _pair(self, text: str, quoted: bool) -> tuple[str, str]:
        return text, text if quoted else self.of(text) or text


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


def _filled(twin: str, values: Sequence[tuple[str, str]]) -> str:
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
    if re.search(r"[一-鿿] $", before) and re.match(r"[一-鿿]", after):
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
        weight=len("".join("".join(parts[::2]).split())) + 2 * parts.count("{!r}"),  # quotes are characters, too
        pattern=pattern,
        runs=tuple(runs),
        twin=twin,
    )


@cache
def _catalogue() -> _Catalogue:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # twenty times faster where libyaml is there
    sentences: dict[str, str] = {}
    labels: dict[str, str] = {}
    for path in sorted(CATALOGUE.glob("*.yaml")):
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader) or {}
        (labels if path.stem == "labels" else sentences).update(content)
    return _Catalogue(sentences, labels)
