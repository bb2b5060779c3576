"""YAML read by the rules of YAML 1.2, as its users expect, where PyYAML has those of 1.1.

`5e-6` is a number and not text, `010` is ten and not eight, `1:30` is text and not ninety, `no` and `on` are text and
not booleans, and a date is text.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

__all__ = ["dump_yaml", "load_yaml", "parse_value"]

_SCALARS = {
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:merge": (r"<<", "<"),
}
"""Tag to the plain scalars that have it, and their first characters: the core schema of YAML 1.2, and merge keys."""


class _Loader(yaml.SafeLoader):
    """`SafeLoader` with the scalars of YAML 1.2."""


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would take for something else than text."""


_Loader.yaml_implicit_resolvers = {}
_Dumper.yaml_implicit_resolvers = {}


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


for _tag, (_pattern, _first) in _SCALARS.items():
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _int)


def load_yaml(text: str) -> Any:
    """The document's content. Raises `yaml.YAMLError`."""
    return yaml.load(text, Loader=_Loader)


def dump_yaml(content: object) -> str:
    """The content as YAML that `load_yaml` reads back, in the order given."""
    return yaml.dump(content, Dumper=_Dumper, allow_unicode=True, sort_keys=False)


def parse_value(text: str) -> Any:
    """An argument of the command line as YAML reads it: a number, a list, true; or the text itself.

    Example: `parse_value("5e-6")` is `5e-06`, and `parse_value("[1, 2]")` is `[1, 2]`.
    """
    try:
        return load_yaml(text)
    except yaml.YAMLError:
        return text
