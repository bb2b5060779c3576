"""TRL's names for Dunwu's things: what `import trl` finds in a script that `dunwu run` runs.

What it is: `GRPOConfig`, `GRPOTrainer`, `ModelConfig`, `ScriptArguments`, `TrlParser`, `get_peft_config` and their
kin, as scripts of TRL 0.14 to 1.16 use them; any other name raises a sentence that says what Dunwu has instead.
What it is not: the switch that puts it in trl's place (`dunwu.compat`), or a copy of TRL: the code is Dunwu's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from dunwu.trl.supported_names import HERE, MODULES, instead

if TYPE_CHECKING:
    from dunwu.trl.config import GRPOConfig
    from dunwu.trl.model_config import (
        ModelConfig,
        ScriptArguments,
        get_kbit_device_map,
        get_peft_config,
        get_quantization_config,
    )
    from dunwu.trl.parser import TrlParser
    from dunwu.trl.trainer import GRPOTrainer

__all__ = [
    "GRPOConfig",
    "GRPOTrainer",
    "ModelConfig",
    "ScriptArguments",
    "TrlParser",
    "get_kbit_device_map",
    "get_peft_config",
    "get_quantization_config",
]

__version__: Final = "1.16.0+dunwu"
"""What a script that asks for TRL's version reads."""


def __getattr__(name: str) -> Any:
    if name in HERE:
        return getattr(importlib.import_module(f"dunwu.trl.{HERE[name]}"), name)
    if name.startswith("__"):
        raise AttributeError(f"module 'trl' has no attribute {name!r}")
    if name in MODULES:
        return importlib.import_module(f"trl.{name}")
    raise ImportError(instead(name))


def __dir__() -> list[str]:
    return sorted(__all__)
