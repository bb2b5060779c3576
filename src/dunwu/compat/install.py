"""The switch: from here on, `import trl` means `dunwu.trl`, whether TRL is installed or not.

A finder for `trl` and its modules, and the patches that scripts for earlier versions need. Dunwu itself never imports
this; only `dunwu.compat` and `dunwu.run` do.
"""

from __future__ import annotations

import importlib
import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

import dunwu.trl
from dunwu._utils.logging import get_logger
from dunwu.compat.patches import apply_patches
from dunwu.compat.spawned import install_in_spawned_processes
from dunwu.trl.supported_names import MODULES, alternative_to

__all__ = ["install", "is_installed"]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `trl` and `trl.*`, whose names are those of `dunwu.trl`.

    `from trl import NAME` looks for a module `trl.NAME` if `trl` has no such attribute. The ImportError raised for
    that module carries the sentence, while `hasattr(trl, "NAME")` sees an AttributeError; no exception can be both.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != "trl":
            return None
        if name and name not in MODULES:
            raise ImportError(alternative_to(_without_module(name)), name=fullname)
        return ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        """Give the module the names of `dunwu.trl`."""
        package = module.__name__
        module.__doc__ = dunwu.trl.__doc__

        def find(name: str) -> object:
            if (known := f"{package}.{name}".removeprefix("trl.")) in MODULES:
                return importlib.import_module(f"trl.{known}")
            return dunwu.trl.__getattr__(name)

        module.__dict__.update(__getattr__=find, __dir__=dunwu.trl.__dir__, __all__=dunwu.trl.__all__)
        if package == "trl":
            module.__dict__["__version__"] = dunwu.trl.__version__


def _without_module(name: str) -> str:
    """`trainer.PPOTrainer` is asked for by `from trl.trainer import PPOTrainer`; it is known by its last part."""
    module, _, last = name.rpartition(".")
    return last if module in MODULES else name


def is_installed() -> bool:
    """Whether `import trl` means Dunwu in this process."""
    module = sys.modules.get("trl")
    return module is not None and isinstance(module.__loader__, _Finder)


def install() -> None:
    """Make `trl` mean `dunwu.trl` in this process and those it spawns; a second call does nothing."""
    if is_installed():
        return
    earlier = [name for name in sys.modules if name.partition(".")[0] == "trl"]
    for name in earlier:
        del sys.modules[name]
    if earlier:
        get_logger().warning("trl was imported before dunwu.compat; what was imported from it stays TRL's own")
    sys.meta_path.insert(0, _Finder())
    importlib.import_module("trl")
    apply_patches()
    install_in_spawned_processes()
