"""Run a function once a package is imported, whoever imports it and whenever.

A script's own first lines (`os.environ["HF_ENDPOINT"] = …`) then come before the package they are for, and a package
that a script does not use is never loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

from wrapt import register_post_import_hook

__all__ = ["on_import"]


def on_import(name: str, do: Callable[[ModuleType], None]) -> None:
    """Call `do` with the module `name`: now if it is imported already, otherwise right after it is."""

    def call(module: ModuleType) -> None:
        # Some packages (transformers is one) put another object in their own place while they load.
        do(sys.modules.get(name, module))

    register_post_import_hook(call, name)
