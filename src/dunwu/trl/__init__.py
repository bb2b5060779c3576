"""TRL's names for what Dunwu has: what `import trl` gives a script run by `dunwu run`.

`GRPOConfig`, `GRPOTrainer`, `ModelConfig`, `ScriptArguments`, `TrlParser`, `get_peft_config` and its siblings, the
rewards, and the functions that prepare data, as scripts for TRL 0.14 to 1.16 use them. Importing this package changes
nothing; `dunwu.compat` makes `trl` mean it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from dunwu.trl.supported_names import SUPPORTED, alternative_to

if TYPE_CHECKING:
    from dunwu.trl.callbacks import (
        RichProgressCallback,
    )
    from dunwu.trl.config import (
        GRPOConfig,
    )
    from dunwu.trl.data_utils import (
        apply_chat_template,
        extract_prompt,
        is_conversational,
        is_conversational_from_value,
        maybe_apply_chat_template,
        maybe_convert_to_chatml,
        maybe_extract_prompt,
        maybe_unpair_preference_dataset,
        unpair_preference_dataset,
    )
    from dunwu.trl.dataset_mixture import (
        DatasetConfig,
        DatasetMixtureConfig,
        get_dataset,
        init_zero_verbose,
    )
    from dunwu.trl.model_config import (
        ModelConfig,
        ScriptArguments,
        get_kbit_device_map,
        get_peft_config,
        get_quantization_config,
    )
    from dunwu.trl.parser import (
        TrlParser,
    )
    from dunwu.trl.rewards import (
        accuracy_reward,
        get_cosine_scaled_reward,
        get_repetition_penalty_reward,
        get_soft_overlong_punishment,
        reasoning_accuracy_reward,
        think_format_reward,
    )
    from dunwu.trl.trainer import (
        GRPOTrainer,
    )

__all__ = [
    "DatasetConfig",
    "DatasetMixtureConfig",
    "GRPOConfig",
    "GRPOTrainer",
    "ModelConfig",
    "RichProgressCallback",
    "ScriptArguments",
    "TrlParser",
    "accuracy_reward",
    "apply_chat_template",
    "extract_prompt",
    "get_cosine_scaled_reward",
    "get_dataset",
    "get_kbit_device_map",
    "get_peft_config",
    "get_quantization_config",
    "get_repetition_penalty_reward",
    "get_soft_overlong_punishment",
    "init_zero_verbose",
    "is_conversational",
    "is_conversational_from_value",
    "maybe_apply_chat_template",
    "maybe_convert_to_chatml",
    "maybe_extract_prompt",
    "maybe_unpair_preference_dataset",
    "reasoning_accuracy_reward",
    "think_format_reward",
    "unpair_preference_dataset",
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
