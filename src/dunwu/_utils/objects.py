"""Objects by name: `package.module:object`, or `path/to/file.py:object`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from dunwu._utils.suggest import did_you_mean
from dunwu.errors import ConfigError

__all__ = ["import_object", "is_object_name"]


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
        raise ConfigError(f"{what} is named package.module:object or path/to/file.py:object, got {name!r}")
    module = _from_file(Path(place), what) if place.endswith(".py") else _from_package(place, what)
    if not hasattr(module, attribute):
        public = [word for word in vars(module) if not word.startswith("_")]
        raise ConfigError(f"{place!r} has no {attribute!r} to be {what}{did_you_mean(attribute, public)}")
    return getattr(module, attribute)


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
