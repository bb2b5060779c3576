"""The README in two languages: one cannot be changed without the other.

Prose is not compared; what is not prose must be the same: headings, code, tables, figures, names and links. Single
digits outside of tables are left out, for either language may write them as words.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGLISH = ROOT / "README.md"
CHINESE = ROOT / "README.zh.md"

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"\s*(?<!\S)#\s.*$", re.MULTILINE)
NUMBER = re.compile(r"\d(?:[\d.,]*\d)?(?:e-?\d+)?")
NAME = re.compile(r"[A-Za-z0-9./=]*[\d/_=][\w./=]*", re.ASCII)
"""In a block without a language (a log, a tree): a word with a digit or a sign that prose does not have."""


def sections(text: str) -> list[tuple[str, str]]:
    """Each heading's level and what is below it, without code blocks; what is above the first has the level ""."""
    parts = re.split(r"^(#+) (.*)$", FENCED.sub("", text), flags=re.MULTILINE)
    return [("", parts[0]), *((parts[at], parts[at + 2]) for at in range(1, len(parts), 3))]


def code(text: str) -> list[tuple[str, object]]:
    """Each block's language with its code but for comments; of one without a language the names of each line."""
    return [
        (
            language,
            COMMENT.sub("", block) if language else [sorted(NAME.findall(line)) for line in block.splitlines()],
        )
        for language, block in FENCED.findall(text)
    ]


def tables(section: str) -> list[list[list[Counter[str]]]]:
    """The figures of each cell of each row of each table."""
    found = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    return [
        [[Counter(NUMBER.findall(cell)) for cell in re.split(r"(?<!\\)\|", row)] for row in table.splitlines()]
        for table in found
    ]


def code_spans(section: str) -> Counter[str]:
    return Counter(re.findall(r"`([^`\n]+)`", section))


def links(section: str) -> Counter[str]:
    """Targets but for those from one README to the other."""
    targets = re.findall(r"\]\(([^)]+)\)", section)
    return Counter(target for target in targets if target not in (ENGLISH.name, CHINESE.name))


def figures(section: str) -> Counter[str]:
    """Numbers of the prose, of more than one digit."""
    prose = re.sub(r"^\|.*\n|`[^`\n]+`|\]\([^)]+\)", "", section, flags=re.MULTILINE)
    return Counter(number for number in NUMBER.findall(prose) if len(number) > 1)


def differences(english: str, chinese: str) -> list[str]:
    """Where the two are not the same."""
    ours, theirs = sections(english), sections(chinese)
    if [level for level, _ in ours] != [level for level, _ in theirs]:
        return ["headings"]
    found = [
        f"block {at}: {one} is not {other}"
        for at, (one, other) in enumerate(zip(code(english), code(chinese), strict=False), 1)
        if one != other
    ]
    if len(code(english)) != len(code(chinese)):
        found.append("number of code blocks")
    for at, ((_, one), (_, other)) in enumerate(zip(ours, theirs, strict=True)):
        if tables(one) != tables(other):
            found.append(f"section {at}: its tables' rows, cells or figures")
        for part in (code_spans, links, figures):
            only = part(one) - part(other), part(other) - part(one)
            if any(only):
                found.append(f"section {at}: {part.__name__} only in English {only[0]}, only in Chinese {only[1]}")
    return found


def test_the_readme_is_the_same_in_both_languages() -> None:
    assert not differences(ENGLISH.read_text(encoding="utf-8"), CHINESE.read_text(encoding="utf-8"))


def test_each_readme_leads_to_the_other_at_its_beginning() -> None:
    for one, other in ((ENGLISH, CHINESE), (CHINESE, ENGLISH)):
        assert f"]({other.name})" in one.read_text(encoding="utf-8").partition("\n## ")[0]


PAGE = """# Page
Trained for 2.2 minutes, says `summary.json` ([more](docs/more.md)).
```bash
dunwu train a#b   # starts
```
| a | b |
|---|---|
| 1 | 12.5 % |
```
├── core/  records
```
## End
"""
TWIN = """# 页面
[English](README.md) 据 `summary.json`，训练 2.2 分钟（[更多](docs/more.md)）。
```bash
dunwu train a#b  # 开始
```
| 甲 | 乙 |
|---|---|
| 1 | 12.5 % |
```
├── core/  记录
```
## 结尾
"""


def test_words_and_comments_may_differ() -> None:
    assert differences(PAGE, TWIN) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("## End", "### End"),
        ("2.2 minutes", "2.3 minutes"),
        ("`summary.json`", "`metrics.jsonl`"),
        ("docs/more.md", "docs/less.md"),
        ("a#b", "a#c"),
        ("| 1 | 12.5 % |", "| 1 | 12.6 % |"),
        ("| 1 | 12.5 % |", "| 12.5 % | 1 |"),
        ("| 1 | 12.5 % |", "| 1 | 12.5 % |\n| 2 | 3 |"),
        ("core/", "hub/"),
        ("├── core/  records", "├── core/  records\n└── hub/"),
        ("## End", "```bash\nmake\n```\n## End"),
    ],
)
def test_what_changes_in_one_language_only_is_found(before: str, after: str) -> None:
    assert before in PAGE
    assert differences(PAGE.replace(before, after), TWIN)
