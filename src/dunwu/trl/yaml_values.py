"""Values of a YAML file checked against the types of a dataclass's fields, as `TrlParser` reads them."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Union, get_args, get_origin

from transformers.hf_argparser import string_to_bool

from dunwu._utils.value_types import Hint, describe_type, fits
from dunwu.errors import ConfigError

__all__ = ["check_value"]


def check_value(name: str, value: object, hint: Hint) -> object:
    """The value as the field should get it: text where a number was written for a text field, else unchanged.

    Raises:
        ConfigError: for a value that no type of the field takes.
    """
    choices = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if fits(value, hint) or (isinstance(value, str) and any(_is_converted(value, choice) for choice in choices)):
        return value
    if str in choices and not isinstance(value, list | dict | bool | NoneType):
        return str(value)
    if str in choices and value is False and name.endswith("strategy"):
        return "no"  # which YAML reads as false
    raise ConfigError(f"{name}: {value!r} does not work; it must be {describe_type(hint)}")


def _is_converted(text: str, hint: Hint) -> bool:
    """Whether the parser makes the type of a text: YAML 1.1 reads 5e-7 as text, JSON stands for a mapping, one string
    for a list of strings (`lora_target_modules: all-linear`)."""
    kind = get_origin(hint) or hint
    if kind in (int, float, bool):
        convert: Callable[[str], object] = string_to_bool if kind is bool else kind
        return _converts(convert, text)
    return kind is dict or (kind is list and (get_args(hint) or (object,))[0] is str)


def _converts(convert: Callable[[str], object], text: str) -> bool:
    try:
        convert(text)
    except (ValueError, ArgumentTypeError):
        return False
    return True
