"""No sentence that Dunwu says lacks its Chinese, and no Chinese is left of a sentence that it no longer says."""

import re
import string
from pathlib import Path

import pytest

import messages_in_source
from dunwu._utils.catalogue import filled, placeholders
from dunwu._utils.language import translated
from messages_in_source import catalogue, entry, missing_and_stale, prune, templates

FILL_IN = "python tests/messages_in_source.py prints them ready to be filled in (--prune removes the stale)"
CATALOGUE = catalogue()
SENTENCES = {text: twin for room, content in CATALOGUE.items() if room != "labels" for text, twin in content.items()}


def test_every_message_of_the_source_has_a_chinese_twin() -> None:
    missing, _ = missing_and_stale()
    assert not missing, f"{[template.place for template in missing]} have none; {FILL_IN}"


def test_no_twin_is_left_of_a_message_that_is_gone() -> None:
    _, stale = missing_and_stale()
    assert not stale, f"{stale}; {FILL_IN}"


def test_no_message_stands_in_two_files_of_the_catalogue() -> None:
    assert len(SENTENCES) == sum(len(content) for room, content in CATALOGUE.items() if room != "labels")


@pytest.mark.parametrize("room", [room for room in CATALOGUE if room != "labels"])
def test_a_twin_uses_every_placeholder_of_its_message_once(room: str) -> None:
    for text, twin in CATALOGUE[room].items():
        assert twin.strip(), f"{text!r} has an empty twin; {FILL_IN}"
        count = len(placeholders(text))
        used = [re.sub(r"\D", "", placeholder) for placeholder in placeholders(twin)]
        in_order = not any(used)
        assert in_order or all(used), f"{twin!r} mixes {{}} and {{0}}"
        found = list(range(len(used))) if in_order else sorted(map(int, used))
        plurals = {n for n, at in enumerate(re.finditer(r"(\w?)\{(?:!r)?\}", text)) if at[1].isalpha()}  # step{'s'}
        assert found in (list(range(count)), [n for n in range(count) if n not in plurals]), f"{text!r}: {twin!r}"


def test_a_label_and_its_twin_have_the_same_fields() -> None:
    for text, twin in CATALOGUE["labels"].items():
        fields, same = ({field for _, field, _, _ in string.Formatter().parse(side)} for side in (text, twin))
        assert twin and fields - {None} == same - {None}, text


def test_every_message_is_found_again_with_its_figures_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each template is filled with values, and read back: no other template may take its text away."""
    monkeypatch.setenv("DUNWU_LANG", "zh")
    read_as_another = []
    for text, twin in SENTENCES.items():
        said, values = "", []
        for literal, placeholder in re.findall(r"(?s)(.*?)(\{(?:!r)?\}|$)", text):
            said += literal
            if placeholder:
                touching = bool(values) and not literal
                values.append(
                    "'q'" if placeholder == "{!r}" else f"; {len(values)}" if touching else f"7{len(values)}"
                )
                said += values[-1]
        expected = filled(twin, [(value, value) for value in values])
        if translated(said).strip() != expected.strip():
            read_as_another.append((text, translated(said), expected))
    assert not read_as_another


def test_the_collector_sees_each_way_of_making_a_message(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "module.py").write_text(
        '''"""A docstring of several words."""
import re
raise ConfigError(f"there is no {what} named {name!r}{'; it has none' if x else hint()}. " + advice + " at last")
log.info("%s: only %.1f of %d", a, b, c)
raise RewardError("one sentence " "in two pieces", failure)
print(translated("step"), translated("{n} steps", n=3))
assert x, "an invariant of ours"
re.compile("a pattern of words")
raise AttributeError(f"module has no attribute {name}")
if "did you mean" in hint: pass
def f(x: "a type of something") -> None: "and a docstring"
''',
        encoding="utf-8",
    )
    found = templates(tmp_path)
    assert [template.text for template in found if not template.label] == [
        "there is no {} named {!r}{}. {} at last",
        "; it has none",
        "{}: only {} of {}",
        "one sentence in two pieces",
    ]
    assert [template.text for template in found if template.label] == ["step", "{n} steps"]
    assert {template.place.split(":")[0] for template in found} == {"room/module.py"}


def test_a_stale_entry_is_pruned_and_the_others_and_comments_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages_in_source, "CATALOGUE", tmp_path)
    kept = "# terms\n" + entry("a {} of 'it'", "一") + entry('with "quotes"', "三")
    (tmp_path / "x.yaml").write_text(kept + entry("gone\n{!r}", "二\n{}"), encoding="utf-8")
    prune("x", ["gone\n{!r}"])
    assert (tmp_path / "x.yaml").read_text(encoding="utf-8") == kept
    assert catalogue() == {"x": {"a {} of 'it'": "一", 'with "quotes"': "三"}}
