"""`ModelConfig` and `ScriptArguments`, with every field of TRL 0.14 to 1.16, and what scripts make of them.

`get_peft_config`, `get_quantization_config`, `get_kbit_device_map`. Nothing is loaded here: scripts hand these values
to `from_pretrained` or to the trainer.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from dunwu._utils.commands import install_command
from dunwu._utils.logging import get_logger
from dunwu.errors import ConfigError

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig

T = TypeVar("T")

__all__ = ["ModelConfig", "ScriptArguments", "get_kbit_device_map", "get_peft_config", "get_quantization_config"]


def _option(default: T, help: str) -> T:
    return field(default=default, metadata={"help": help})


@dataclass
class ModelConfig:
    """Which model, how it is loaded, and whether an adapter is trained.

    Example: `ModelConfig(model_name_or_path="Qwen/Qwen3-0.6B", dtype="bfloat16", use_peft=True, lora_r=16)`

    Raises:
        ConfigError: for 8 and 4 bit at once.
    """

    model_name_or_path: str | None = _option(None, "Hub name or folder.")
    model_revision: str = _option("main", "Branch, tag or commit.")
    torch_dtype: str | None = _option(None, "Earlier name of dtype.")
    dtype: str | None = _option(None, "Type of the weights: auto, bfloat16, float16, float32.")
    trust_remote_code: bool = _option(False, "Run code that comes with the model.")
    attn_implementation: str | None = _option(None, "flash_attention_2, sdpa, eager.")
    use_peft: bool = _option(False, "Train an adapter.")
    lora_r: int = _option(16, "Rank.")
    lora_alpha: int = _option(32, "Scale.")
    lora_dropout: float = _option(0.05, "Dropout in the adapter.")
    lora_target_modules: list[str] | None = _option(None, "Modules with an adapter; None: peft's choice.")
    lora_target_parameters: list[str] | None = _option(None, "Parameters with an adapter.")
    lora_modules_to_save: list[str] | None = _option(None, "Modules that are trained whole.")
    lora_task_type: str = _option("CAUSAL_LM", "peft's task type.")
    use_rslora: bool = _option(False, "Rank-stabilised scale.")
    use_dora: bool = _option(False, "Weight-decomposed adapter.")
    load_in_8bit: bool = _option(False, "8 bit weights (bitsandbytes).")
    load_in_4bit: bool = _option(False, "4 bit weights (bitsandbytes).")
    bnb_4bit_quant_type: str = _option("nf4", "fp4 or nf4.")
    use_bnb_nested_quant: bool = _option(False, "Quantise the constants too.")
    bnb_4bit_quant_storage: str | None = _option(None, "Type that 4 bit weights are stored in.")

    def __post_init__(self) -> None:
        if self.load_in_8bit and self.load_in_4bit:
            raise ConfigError("load_in_8bit and load_in_4bit exclude each other; choose one")
        # Scripts read `model_args.torch_dtype` or `.dtype`, whichever they set.
        self.torch_dtype = self.dtype = self.dtype or self.torch_dtype
        targets = self.lora_target_modules
        if isinstance(targets, list) and len(targets) == 1:
            self.lora_target_modules = targets[0]  # type: ignore[assignment]  # peft wants "all-linear" as text, not in a list


@dataclass
class ScriptArguments:
    """Which data.

    Example: `ScriptArguments(dataset_name="openai/gsm8k", dataset_config="main")`
    """

    dataset_name: str | None = _option(None, "Hub name or folder.")
    dataset_config: str | None = _option(None, "Configuration of the dataset.")
    dataset_train_split: str = _option("train", "Split to train on.")
    dataset_test_split: str = _option("test", "Split to evaluate on.")
    dataset_streaming: bool = _option(False, "Read it as a stream.")
    gradient_checkpointing_use_reentrant: bool = _option(False, "Old option of checkpointing; not read.")
    ignore_bias_buffers: bool = _option(False, "Old option of DDP; not read.")


def get_peft_config(model_args: ModelConfig) -> LoraConfig | None:
    """A `peft.LoraConfig` of these arguments; None without `use_peft`.

    Raises:
        ConfigError: with `use_peft`, if `peft` is not installed.
    """
    if not model_args.use_peft:
        return None
    from dunwu.model.loading import require_peft

    require_peft("use_peft")
    from peft import LoraConfig

    given: dict[str, Any] = {
        "bias": "none",
        "inference_mode": False,
        "task_type": model_args.lora_task_type,
        "r": model_args.lora_r,
        "lora_alpha": model_args.lora_alpha,
        "lora_dropout": model_args.lora_dropout,
        "target_modules": model_args.lora_target_modules,
        "target_parameters": model_args.lora_target_parameters,
        "modules_to_save": model_args.lora_modules_to_save,
        "use_rslora": model_args.use_rslora,
        "use_dora": model_args.use_dora,
    }
    return LoraConfig(**given)


def get_quantization_config(model_args: ModelConfig) -> BitsAndBytesConfig | None:
    """A `BitsAndBytesConfig` of these arguments; None without `load_in_4bit` and `load_in_8bit`.

    Raises:
        ConfigError: if one is wanted and `bitsandbytes` is not installed.
    """
    if not (model_args.load_in_4bit or model_args.load_in_8bit):
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"load_in_4bit and load_in_8bit need the package bitsandbytes: {install_command(package='bitsandbytes')}"
        )
    from transformers import BitsAndBytesConfig

    if model_args.load_in_8bit:
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    kind = getattr(torch, model_args.dtype) if model_args.dtype not in (None, "auto") else None
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_compute_dtype=kind,
        bnb_4bit_quant_type=model_args.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=model_args.use_bnb_nested_quant,
        bnb_4bit_quant_storage=model_args.bnb_4bit_quant_storage or kind,
    )


def get_kbit_device_map() -> dict[str, int] | None:
    """Device map of quantised weights: this process's GPU; None without one."""
    if not torch.accelerator.is_available():
        get_logger().warning("there is no GPU: quantised weights would stay on the CPU, where most do not work")
        return None
    return {"": torch.accelerator.current_device_index()}
