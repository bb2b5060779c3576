"""Objects by name: `package.module:object`, or `path/to/file.py:object`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from dunwu._utils.suggest import did_you_mean
from dunwu.errors import ConfigError

__all__ = ["check_options", "import_object", "instantiate", "is_object_name"]


def is_object_name(name: str) -> bool:
    """Whether `name` is written as `package.module:object` or `path/to/file.py:object`."""
    return ":" in name


def import_object(name: str, *, what: str) -> Any:
    """The object called `name`; a file is run, once for each call: name only files you trust.

    Args:
        name: `package.module:object`, or `path/to/file.py:object` from the current folder.
        what: what it is for, for the errors: `a reward`.

    Raises:
        ConfigError: where there is no such module, file or object, with the nearest known name.
    """
    place, colon, attribute = name.rpartition(":")
    if not (colon and place and attribute):
        raise ConfigError(f"{what} is given as package.module:object or path/to/file.py:object, got {name!r}")
    module = _from_file(Path(place), what) if place.endswith(".py") else _from_package(place, what)
    if not hasattr(module, attribute):
        public = [found for found in vars(module) if not found.startswith("_")]
        raise ConfigError(f"{place!r} has no {attribute!r} for {what}{did_you_mean(attribute, public)}")
    return getattr(module, attribute)


def instantiate(
    found: object, options: Mapping[str, Any], *, what: str, is_made: Callable[[object], bool] | None = None
) -> Any:
    """What a plug's name stands for: an object as it is, or what a class or function makes with `options`.

    Args:
        found: an object, or a class or function that returns one.
        options: keyword arguments for the class or function.
        what: what it is for, for the errors: `the observer 'mine:Watch'`.
        is_made: whether `found` is the object already; default: whatever cannot be called.

    Raises:
        ConfigError: for an option that does not exist or is missing, with the nearest known one, and for options to
            an object that is made already.
    """
    if is_made(found) if is_made is not None else not callable(found):
        if options:
            raise ConfigError(f"{what} is an object already and takes no options, got {', '.join(options)}")
        return found
    if not callable(found):
        raise ConfigError(f"{what} must be an object, or a class or function that makes one, got {found!r:.80}")
    check_options(found, options, what=what)
    return found(**options)


def check_options(
    factory: Callable[..., object],
    options: Mapping[str, Any],
    *,
    what: str,
    given: Collection[str] = (),
    hints: Mapping[str, str] | None = None,
) -> None:
    """Refuse options that a class or function does not take, before it is called.

    Args:
        factory: the class or function; one written in C, without a signature, judges its arguments itself.
        options: keyword arguments for it.
        what: what it is, for the errors: `the engine 'mine:Engine'`.
        given: parameters that are not the user's: they are passed anyway.
        hints: what to add where an option is missing, by its name.

    Raises:
        ConfigError: for an option that does not exist, with the nearest known one, or one that is missing.
    """
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in given]
    known = [p.name for p in named]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for option in options:
        if option not in known and not takes_all:
            raise ConfigError(
                f"{what} has no option {option!r}{did_you_mean(option, known) if known else '; it has none'}"
            )
    for parameter in named:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise ConfigError(f"{what} needs the option {parameter.name}{(hints or {}).get(parameter.name, '')}")


def _from_package(place: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise ConfigError(
            f"there is no module {place!r} for {what} ({error}); install it, put its folder on PYTHONPATH, or name "
            "a file: path/to/file.py:object"
        ) from error


def _from_file(path: Path, what: str) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"there is no file {str(path)!r} for {what}; give its path from the current folder")
    name = f"dunwu_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up by name
    spec.loader.exec_module(module)
    return module
