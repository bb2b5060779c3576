"""Options as a recipe gives them, checked against a dataclass: names that exist, values of the declared types."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from dunwu._utils.suggest import did_you_mean
from dunwu.errors import ConfigError

__all__ = ["Options", "checked_options"]

Options: TypeAlias = dict[str, Any]
"""Option to value, as YAML gives it."""

Hint: TypeAlias = object
"""A type annotation: a class, a union, `list[float]`, `Literal["a", "b"]`, …; they have no common type."""

_PLAIN: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
}
_LISTS = (list, Sequence)
_MAPPINGS = (dict, Mapping)
_MANY: dict[object, str] = {int: "whole numbers", float: "numbers", str: "texts"}


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
            raise ConfigError(f"{owner} has no {thing} {name!r}{did_you_mean(str(name), fields)}")
        if value is None and fields[name].default is None:
            checked[name] = None
            continue
        checked[name] = _checked(f"{where}.{name}" if where else name, value, hints[name])
    return checked


def _checked(path: str, value: object, hint: Hint) -> object:
    if isinstance(value, float) and value.is_integer() and not _fits(value, hint) and _fits(int(value), hint):
        return int(value)
    if _fits(value, hint):
        return value
    choices = _choices(hint)
    if choices and isinstance(value, str):
        raise ConfigError(f"{path}={value!r} is unknown{did_you_mean(value, choices)}")
    got = "nothing" if value is None or value == "" else f"{value!r:.80}"
    raise ConfigError(f"{path} must be {_describe(hint)}, got {got}")


def _origin(hint: Hint) -> object:
    """`typing.get_origin`, whose own annotation knows but few of the things that it returns."""
    return get_origin(hint)


def _fits(value: object, hint: Hint) -> bool:
    origin, args = _origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in args)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in args)
    if origin in _LISTS or hint in _LISTS:
        return isinstance(value, list) and all(_fits(item, args[0]) for item in value if args)
    if origin in _MAPPINGS or hint in _MAPPINGS:
        return isinstance(value, dict)
    if hint in (int, float):
        allowed = (int, float) if hint is float else (int,)
        return isinstance(value, allowed) and not isinstance(value, bool)
    if origin is Callable:
        return callable(value)
    return not isinstance(hint, type) or isinstance(value, hint)


def _choices(hint: Hint) -> list[str]:
    """The texts of a `Literal`, or of a `Literal` or None; nothing where other values are possible."""
    options = [hint] if _origin(hint) is Literal else [one for one in get_args(hint) if one is not type(None)]
    if not options or any(_origin(option) is not Literal for option in options):
        return []
    return [str(choice) for option in options for choice in get_args(option)]


def _describe(hint: Hint) -> str:
    origin, args = _origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        shown = [option for option in args if option is not type(None) and not _is_enum(option)]
        named = [_describe(option) for option in shown]
        return " or ".join(dict.fromkeys(named))
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin in _LISTS or hint in _LISTS:
        return f"a list of {_MANY[args[0]]}" if args and args[0] in _MANY else "a list"
    if origin in _MAPPINGS or hint in _MAPPINGS:
        return "keys and values"
    return _PLAIN.get(hint, getattr(hint, "__name__", str(hint)))


def _is_enum(hint: Hint) -> bool:
    """Enums come along with `str` in transformers' options, and their values are text in YAML."""
    return isinstance(hint, type) and issubclass(hint, Enum)
