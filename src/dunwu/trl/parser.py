"""`TrlParser`: dataclasses filled from a YAML file and the command line, as TRL's scripts expect.

Transformers' `HfArgumentParser` that reads `--config FILE` too: the file's values replace defaults, the command line
wins over both, and `env:` sets environment variables. Two dataclasses may have a field of the same name (a script's
own `project` beside TrainingArguments'): the option exists once, as the script's own class has it, and both get its
value.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, get_args, get_type_hints

import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from dunwu._utils.suggest import did_you_mean
from dunwu.errors import ConfigError
from dunwu.trl.yaml_values import check_value

__all__ = ["TrlParser"]

Content: TypeAlias = dict[str, object]
"""Keys and values of a YAML file."""


class TrlParser(HfArgumentParser):
    """Parses the command line and a YAML file into dataclasses.

    Args:
        dataclass_types: the dataclass or dataclasses to fill.
    """

    def __init__(self, dataclass_types: Iterable[type] | type | None = None, **options: Any) -> None:
        listed = list(dataclass_types) if isinstance(dataclass_types, Iterable) else [dataclass_types]
        kinds: list[Any] = [kind for kind in listed if kind is not None]
        # A script's own classes go last: where a name comes twice, the later definition of the option stays.
        ordered = sorted(kinds, key=lambda kind: not kind.__module__.startswith("dunwu."))
        super().__init__(ordered, conflict_handler="resolve", **options)
        self.dataclass_types = kinds
        for action in self._actions:
            if action.type is string_to_bool and action.nargs is None:
                action.nargs, action.const = "?", True  # `--bf16` alone must work, as it did

    def _add_dataclass_arguments(self, dtype: Any) -> None:
        """Transformers' own writes simpler types into the fields, which the classes share with all that inherit."""
        types = [(f, f.type) for f in fields(dtype)]
        super()._add_dataclass_arguments(dtype)
        for shared, kind in types:
            shared.type = kind

    def error(self, message: str) -> NoReturn:
        """One sentence and exit code 2; the usage has some 250 options."""
        self.exit(2, f"{self.prog}: {message}\n")

    def parse_args_and_config(
        self,
        args: Iterable[str] | None = None,
        return_remaining_strings: bool = False,
        fail_with_unknown_args: bool = True,
        separate_remaining_strings: bool = False,
    ) -> tuple[Any, ...]:
        """The dataclasses, filled from `--config FILE` and the command line.

        Raises:
            ConfigError: for a file that is missing or not a mapping, a key that no dataclass has, a value of another
                type than its field, or a dataclass with a field `config`, which names the file.
        """
        arguments = list(sys.argv[1:] if args is None else args)
        for kind in self.dataclass_types:
            if "config" in {f.name for f in fields(kind)}:
                raise ConfigError(f"{kind.__name__} has a field 'config', which names the YAML file here; rename it")
        path, content = _config(arguments)
        unknown = self.set_defaults_with_config(**self._checked(path, _set_environment(path, content)))
        if unknown and fail_with_unknown_args and not return_remaining_strings:
            known = {f.name for kind in self.dataclass_types for f in fields(kind)}
            key = unknown[0].removeprefix("--")
            raise ConfigError(f"{path} has the key {key!r}, which is not an option{_near(key, known)}")
        found = self.parse_args_into_dataclasses(args=arguments, return_remaining_strings=return_remaining_strings)
        if not return_remaining_strings:
            return found
        rest = list(found[-1])
        return (*found[:-1], unknown, rest) if separate_remaining_strings else (*found[:-1], unknown + rest)

    def _checked(self, path: Path | None, content: Content) -> Content:
        """The values of a file, each of its field's type; a script's own classes check theirs themselves."""
        hints: dict[str, object] = {}
        for kind in self.dataclass_types:
            if issubclass(kind, TrainingArguments) or kind.__module__.startswith("dunwu."):
                hints |= {name: hint for name, hint in get_type_hints(kind).items() if not _has_records(hint)}
        try:
            return {
                name: check_value(name, value, hints[name]) if name in hints else value
                for name, value in content.items()
            }
        except ConfigError as error:
            raise ConfigError(f"{path}, {error}") from error

    def set_defaults_with_config(self, **values: Any) -> list[str]:
        """Makes a file's values the defaults; returns the keys that no option has, as arguments: `--key value`."""
        known = {action.dest: action for action in self._actions}
        for name in values.keys() & known.keys():
            known[name].default, known[name].required = values[name], False
        self.set_defaults(**{name: value for name, value in values.items() if name in known})
        return [part for name in values if name not in known for part in (f"--{name}", str(values[name]))]

    def parse_args_into_dataclasses(
        self,
        args: Sequence[str] | None = None,
        return_remaining_strings: bool = False,
        look_for_args_file: bool = True,
        args_filename: str | None = None,
        args_file_flag: str | None = None,
    ) -> tuple[Any, ...]:
        """The dataclasses; a value goes to every one that has a field of its name.

        Raises:
            ConfigError: for unknown arguments, unless `return_remaining_strings`.
        """
        if args_filename or args_file_flag:
            given = (args, return_remaining_strings, look_for_args_file, args_filename, args_file_flag)
            return super().parse_args_into_dataclasses(*given)
        namespace, rest = self.parse_known_args(args=args)
        values = vars(namespace)
        if rest and not return_remaining_strings:
            raise ConfigError(f"the command line has {rest[0]!r}, which is not an option{_near(rest[0], values)}")
        made = tuple(_made(kind, values) for kind in self.dataclass_types)
        return (*made, rest) if return_remaining_strings else made


def _made(kind: type, values: Content) -> object:
    names = {f.name for f in fields(kind) if f.init}
    return kind(**{name: value for name, value in values.items() if name in names and value is not argparse.SUPPRESS})


def _has_records(hint: object) -> bool:
    """Whether a field holds a list of dataclasses, which come as mappings and are checked by their own class."""
    return any(is_dataclass(part) for part in get_args(hint))


def _near(argument: str, known: Iterable[str]) -> str:
    hint = did_you_mean(argument.lstrip("-").partition("=")[0], known)
    return hint if "did you mean" in hint else ""  # some two hundred names are no help


def _config(arguments: list[str]) -> tuple[Path | None, Content]:
    """The YAML file and its content; takes `--config FILE` out of the arguments."""
    index = next((i for i, argument in enumerate(arguments) if argument.partition("=")[0] == "--config"), None)
    if index is None:
        return None, {}
    argument = arguments[index]
    taken = arguments[index : index + (1 if "=" in argument else 2)]
    del arguments[index : index + len(taken)]
    path = Path(argument.partition("=")[2] or (taken[1] if len(taken) > 1 else ""))
    return path, _read(path)


def _read(path: Path) -> Content:
    if not path.is_file():
        raise ConfigError(f"--config {str(path)!r} is not a file; give the path of a YAML file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must contain keys and values, got {type(content).__name__}")
    for key in content:
        if not isinstance(key, str):
            raise ConfigError(f"{path} has the key {key!r}, which is not the name of an option")
    return content


def _set_environment(path: Path | None, content: Content) -> Content:
    """The content without `env:`, whose variables are set."""
    variables = content.pop("env", None) or {}
    if not isinstance(variables, dict):
        raise ConfigError(f"{path}, env: must contain names and values, got {variables!r}")
    os.environ.update({str(name): str(value) for name, value in variables.items()})
    return content
