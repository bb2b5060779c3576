"""Values of a YAML file checked against the types of a dataclass's fields, as `TrlParser` reads them."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Final, Literal, TypeAlias, Union, get_args, get_origin

from transformers.hf_argparser import string_to_bool

from dunwu.errors import ConfigError

__all__ = ["check_value"]

Hint: TypeAlias = object
"""A type annotation, resolved."""

_NAMES: Final[Mapping[object, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a mapping",
    NoneType: "null",
}

_ITEMS: Final[Mapping[object, str]] = {int: "whole numbers", float: "numbers", str: "text", dict: "mappings"}


def check_value(name: str, value: object, hint: Hint) -> object:
    """The value as the field should get it: text where a number was written for a text field, else unchanged.

    Raises:
        ConfigError: for a value that no type of the field takes.
    """
    choices = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if any(_fits(value, choice) for choice in choices):
        return value
    if str in choices and not isinstance(value, list | dict | bool | NoneType):
        return str(value)
    if str in choices and value is False and name.endswith("strategy"):
        return "no"  # which YAML reads as false
    wanted = " or ".join(dict.fromkeys(_named(choice) for choice in choices if not _is_enum(choice)))
    raise ConfigError(f"{name}: {value!r} does not work; it must be {wanted}")


def _fits(value: object, hint: Hint) -> bool:
    kind = get_origin(hint) or hint
    if kind is list:
        items = get_args(hint) or (object,)
        return all(_fits(item, items[0]) for item in value) if isinstance(value, list) else _is_text(value, items[0])
    if kind is Literal:
        return value in get_args(hint)
    if kind in (int, float):
        return _is_number(value, whole=kind is int)
    if kind is bool:
        return isinstance(value, bool) or _converts(string_to_bool, value)
    if kind is dict:
        return isinstance(value, dict | str)  # text is JSON
    if _is_enum(kind):
        return False  # given by name: these fields take text too
    return not isinstance(kind, type) or isinstance(value, kind)


def _is_text(value: object, item: Hint) -> bool:
    """One string stands for a list of strings: `lora_target_modules: all-linear`."""
    return item is str and isinstance(value, str)


def _is_number(value: object, *, whole: bool) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, str):  # YAML reads 5e-7 as text; the parser converts it
        return _converts(int if whole else float, value)
    return isinstance(value, int if whole else int | float)


def _converts(convert: Callable[[str], object], value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        convert(value)
    except (ValueError, ArgumentTypeError):
        return False
    return True


def _is_enum(hint: Hint) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _named(hint: Hint) -> str:
    kind = get_origin(hint) or hint
    if kind is Literal:
        return ", ".join(repr(choice) for choice in get_args(hint))
    if kind is list:
        item = (get_args(hint) or (object,))[0]
        return f"a list of {_ITEMS[item]}" if item in _ITEMS else "a list"
    return _NAMES.get(kind, getattr(kind, "__name__", str(kind)))
