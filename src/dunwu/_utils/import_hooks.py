"""Something to do once a package is imported, whoever imports it and whenever.

What it is: `on_import`, so that a script's own first lines (`os.environ["HF_ENDPOINT"] = …`) come before the
package they are for, and a package that a script does not use is never loaded.
What it is not: a way to load anything.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["on_import"]


def on_import(name: str, do: Callable[[ModuleType], None]) -> None:
    """Call `do` with the top-level module `name`: now if it is imported already, otherwise right after it is."""
    if name in sys.modules:
        do(sys.modules[name])
        return
    waiting = next((finder for finder in sys.meta_path if isinstance(finder, _Finder)), None)
    if waiting is None:
        waiting = _Finder()
        sys.meta_path.insert(0, waiting)
    waiting.deeds.setdefault(name, []).append(do)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds a module as everybody else does, and has something done once it is imported."""

    def __init__(self) -> None:
        self.deeds: dict[str, list[Callable[[ModuleType], None]]] = {}
        self._busy: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.deeds or fullname in self._busy:
            return None
        self._busy.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._busy.discard(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.deeds[fullname])
        return spec


class _Loader(importlib.abc.Loader):
    """The module's own loader, with more steps at its end."""

    def __init__(self, loader: Any, deeds: list[Callable[[ModuleType], None]]) -> None:
        self._loader, self._deeds = loader, deeds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        while self._deeds:
            # Some packages (transformers is one) put another object in their own place while they load.
            self._deeds.pop(0)(sys.modules.get(module.__name__, module))
