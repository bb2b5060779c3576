"""TRL's names for what Dunwu has: what `import trl` gives a script run by `dunwu run`.

`GRPOConfig`, `GRPOTrainer`, `ModelConfig`, `ScriptArguments`, `TrlParser`, `get_peft_config` and its siblings, as
scripts for TRL 0.14 to 1.16 use them. Importing this package changes nothing; `dunwu.compat` makes `trl` mean it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from dunwu.trl.supported_names import SUPPORTED, alternative_to

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
    if name in SUPPORTED:
        return getattr(importlib.import_module(f"dunwu.trl.{SUPPORTED[name]}"), name)
    if name.startswith("__"):
        raise AttributeError(f"module 'trl' has no attribute {name!r}")
    raise AttributeError(alternative_to(name))


def __dir__() -> list[str]:
    return sorted(__all__)
