"""The switch: from here on, `import trl` means `dunwu.trl`, whether TRL is installed or not.

What it is: an entry of `sys.modules`, a finder for TRL's submodules, and the surroundings that an old script expects.
What it is not: imported by Dunwu itself; only `dunwu.compat` and `dunwu.run` throw it.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from dunwu._utils.logging import get_logger
from dunwu.compat.patches import surround
from dunwu.trl.supported_names import HERE, MODULES, instead

__all__ = ["install", "installed"]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `trl.*`: modules whose names are those of `dunwu.trl`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith("trl."):
            return None
        name = fullname.removeprefix("trl.")
        if name not in MODULES:
            raise ImportError(instead(name))
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        import dunwu.trl

        def find(name: str) -> Any:
            if name in HERE:
                return getattr(dunwu.trl, name)
            return dunwu.trl.__getattr__(name)

        module.__getattr__ = find  # type: ignore[method-assign]


def installed() -> bool:
    """Whether `import trl` means Dunwu in this process."""
    module = sys.modules.get("trl")
    return module is not None and module.__name__ == "dunwu.trl"


def install() -> None:
    """Throw the switch; a second time it does nothing."""
    if installed():
        return
    earlier = [name for name in sys.modules if name.partition(".")[0] == "trl"]
    for name in earlier:
        del sys.modules[name]
    if earlier:
        get_logger().warning("trl was imported before Dunwu took its name; what was imported from it stays TRL's own")
    sys.meta_path.insert(0, _Finder())
    sys.modules["trl"] = importlib.import_module("dunwu.trl")
    surround()
