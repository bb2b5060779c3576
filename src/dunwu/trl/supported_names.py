"""Which of TRL's names are here, and what to use instead of the others.

What it is: two tables and the sentence made from them; light, so that a script can be checked before it is run.
What it is not: the things themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["HERE", "MODULES", "instead"]

HERE: Final[Mapping[str, str]] = {
    "GRPOConfig": "config",
    "GRPOTrainer": "trainer",
    "TrlParser": "parser",
} | dict.fromkeys(
    ("ModelConfig", "ScriptArguments", "get_kbit_device_map", "get_peft_config", "get_quantization_config"),
    "model_config",
)
"""Name to the module of `dunwu.trl` that has it."""

MODULES: Final = (
    "trainer",
    "trainer.grpo_config",
    "trainer.grpo_trainer",
    "trainer.model_config",
    "trainer.utils",
    "scripts",
    "scripts.utils",
    "commands",
    "commands.cli_utils",
)
"""Modules of TRL that these names were imported from over the versions."""

_PAIRS = "training on preference pairs is not here: Dunwu trains with GRPO and its kin, on rewards. Keep TRL for it"
_JUDGE = "judges are not here: write a reward function that asks one (it may be `async`)"
_VALUE = "a value model is not here: GRPO compares the answers to one prompt with each other instead (GRPOTrainer)"

_INSTEAD: Final[tuple[tuple[tuple[str, ...], str], ...]] = (
    (("PPO", "WithValueHead", "PreTrainedModelWrapper"), _VALUE),
    (("RLOO",), "RLOO is GRPOConfig(loss_type='reinforce', advantage_baseline='leave_one_out')"),
    (("LogCompletions",), "GRPOConfig(log_completions=True) prints them and sends tables to the trackers"),
    (("SyncRefModel",), "GRPOConfig(sync_ref_model=True)"),
    (("RichProgress",), "the console and the notebook table come by themselves"),
    (("Judge", "WinRate"), _JUDGE),
    (("DPO", "KTO", "ORPO", "CPO", "BCO", "NashMD", "XPO", "GKD", "Distillation"), _PAIRS),
    (
        ("SFT", "CompletionOnly", "pack_dataset", "DatasetMixture"),
        "supervised training is not here; do it first, then GRPO",
    ),
    (("RewardConfig", "RewardTrainer", "PRM"), "reward models are used, not trained: reward_funcs='name/of-one'"),
    (
        ("multimodal", "vision", "Vision", "image", "DDPO", "AlignProp", "StableDiffusion"),
        "images are not here: prompts are text or chat messages",
    ),
    (
        ("chat_template", "conversational", "extract_prompt", "chat_format", "chatml"),
        "the trainer applies the template itself: give a column `prompt` of text or messages",
    ),
    (("rewards", "reward", "think_format"), "`dunwu.rewards` has reward functions, faithful and repaired"),
    (("vllm", "VLLM"), "the engine is in the trainer's process: there is no server to start"),
    (("reference_model",), "GRPOConfig(beta=…) makes the reference model"),
    (("TextEnvironment", "tool"), "tools and environments are not here: rewards see one answer a prompt"),
    (("BestOfN",), "`dunwu eval` samples several answers a prompt and judges them"),
)


def instead(name: str) -> str:
    """What to do without this name of TRL."""
    for parts, sentence in _INSTEAD:
        if any(part in name for part in parts):
            return f"trl.{name} is not in Dunwu: {sentence}"
    return f"trl.{name} is not in Dunwu, which has {', '.join(sorted(HERE))}; for the rest use TRL itself"
