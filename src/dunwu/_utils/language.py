"""Chinese for what Dunwu says: the language that is asked for, and a finished English text in it.

English is the source and stands where it is said. A text is translated once, where it is shown: it is found again
among the templates in `chinese/*.yaml`, and its placeholders are filled with what stands in it.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from dunwu.errors import ConfigError

if TYPE_CHECKING:
    from dunwu._utils.catalogue import Catalogue

__all__ = ["CATALOGUE", "Language", "language", "marked", "translated"]

Language: TypeAlias = Literal["en", "zh"]
"""A language that Dunwu speaks."""

CATALOGUE = Path(__file__).with_name("chinese")
"""The folder with one YAML file a room: English template to Chinese; `labels.yaml` has what is asked for by name."""


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


def marked(text: str) -> str:
    """The text as it is: it stands in a table of ours, and is `translated` where it is shown.

    Example: `marked("tokens")` is `'tokens'`.
    """
    return text


@cache
def _catalogue() -> Catalogue:
    import yaml

    from dunwu._utils.catalogue import Catalogue

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # twenty times faster where libyaml is there
    sentences: dict[str, str] = {}
    labels: dict[str, str] = {}
    for path in sorted(CATALOGUE.glob("*.yaml")):
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader) or {}
        (labels if path.stem == "labels" else sentences).update(content)
    return Catalogue(sentences, labels)
