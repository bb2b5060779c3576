"""Values from YAML against the types of a dataclass's fields: do they fit, and how is a type called."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Literal, TypeAlias, Union, get_args, get_origin

__all__ = ["Hint", "describe_type", "fits", "text_choices"]

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


def _origin(hint: Hint) -> object:
    """`typing.get_origin`, whose own annotation knows but few of the things that it returns."""
    return get_origin(hint)


def fits(value: object, hint: Hint) -> bool:
    """Whether a value is of a type as it stands: no text for a number, no number for a truth value."""
    origin, args = _origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in args)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in args)
    if origin in _LISTS or hint in _LISTS:
        return isinstance(value, list) and all(fits(item, args[0]) for item in value if args)
    if origin in _MAPPINGS or hint in _MAPPINGS:
        return isinstance(value, dict)
    if hint in (int, float):
        allowed = (int, float) if hint is float else (int,)
        return isinstance(value, allowed) and not isinstance(value, bool)
    if origin is Callable:
        return callable(value)
    return not isinstance(hint, type) or isinstance(value, hint)


def text_choices(hint: Hint) -> list[str]:
    """The texts of a `Literal`, or of a `Literal` or None; nothing where other values are possible."""
    options = [hint] if _origin(hint) is Literal else [one for one in get_args(hint) if one is not type(None)]
    if not options or any(_origin(option) is not Literal for option in options):
        return []
    return [str(choice) for option in options for choice in get_args(option)]


def describe_type(hint: Hint) -> str:
    """A type in words.

    Example: `describe_type(list[int])` is `"a list of whole numbers"`.
    """
    origin, args = _origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        shown = [option for option in args if option is not type(None) and not _is_enum(option)]
        named = [describe_type(option) for option in shown]
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
