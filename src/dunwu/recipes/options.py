"""Options as a recipe gives them, checked against a dataclass: names that exist, values of the declared types."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias, get_type_hints

from dunwu._utils.commands import dunwu_command
from dunwu._utils.suggest import did_you_mean
from dunwu._utils.value_types import Hint, describe_type, fits, text_choices
from dunwu.errors import ConfigError

__all__ = ["Options", "checked_options"]

Options: TypeAlias = dict[str, Any]
"""Option to value, as YAML gives it."""


def checked_options(kind: type, given: Mapping[str, object], *, where: str) -> Options:
    """`given` with every name known to the dataclass `kind` and every value of its field's type.

    A whole number may be written `1e3` or `2.0`. None is let through where it is a field's default.

    Args:
        kind: a dataclass; a field whose annotation is of no kind that YAML can express is not checked.
        given: option to value, as YAML gives it.
        where: the recipe's section, for the errors: `train`; empty for the recipe itself.

    Raises:
        ConfigError: for an unknown name, with the nearest known one, and for a value of the wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    hints = get_type_hints(kind)
    checked: Options = {}
    for name, value in given.items():
        if name not in fields:
            owner, thing = (where, "option") if where else ("a recipe", "key")
            listed = dunwu_command("options", where) if where else ""
            raise ConfigError(f"{owner} has no {thing} {name!r}{did_you_mean(str(name), fields, where=listed)}")
        if value is None and fields[name].default is None:
            checked[name] = None
            continue
        checked[name] = _checked(f"{where}.{name}" if where else name, value, hints[name])
    return checked


def _checked(path: str, value: object, hint: Hint) -> object:
    if isinstance(value, float) and value.is_integer() and not fits(value, hint) and fits(int(value), hint):
        return int(value)
    if fits(value, hint):
        return value
    choices = text_choices(hint)
    if choices and isinstance(value, str):
        raise ConfigError(f"{path}={value!r} is unknown{did_you_mean(value, choices)}")
    got = "nothing" if value is None or value == "" else f"{value!r:.80}"
    raise ConfigError(f"{path} must be {describe_type(hint)}, got {got}")
