"""Names of TRL that Dunwu has, and what to use instead of the others.

It imports nothing, so that a script can be checked before it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["MODULES", "SUPPORTED", "alternative_to"]

SUPPORTED: Final[Mapping[str, str]] = {
    "GRPOConfig": "config",
    "GRPOTrainer": "trainer",
    "TrlParser": "parser",
} | dict.fromkeys(
    ("ModelConfig", "ScriptArguments", "get_kbit_device_map", "get_peft_config", "get_quantization_config"),
    "model_config",
)
"""Name → the module of `dunwu.trl` that defines it."""

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
"""Modules of TRL from which these names were imported over the versions."""

_PAIRS = (
    "there is no training on preference pairs: Dunwu trains with GRPO and its variants, on rewards. Use TRL for it"
)
_JUDGE = "there are no judges: write a reward function that asks one (it may be `async`)"
_VALUE = "there is no value model: GRPO compares the completions of one prompt with each other instead (GRPOTrainer)"
_TOOLS = "tools and environments are `dunwu.GRPOTrainer(environment=…)`: see `dunwu.core.protocols.Environment`"

_ALTERNATIVES: Final[tuple[tuple[tuple[str, ...], str], ...]] = (
    (("PPO", "WithValueHead", "PreTrainedModelWrapper"), _VALUE),
    (("RLOO",), "RLOO is GRPOConfig(loss_type='reinforce', advantage_baseline='leave_one_out')"),
    (("LogCompletions",), "GRPOConfig(log_completions=True) prints them and sends tables to the trackers"),
    (("SyncRefModel",), "use GRPOConfig(sync_ref_model=True)"),
    (("RichProgress",), "the console and the notebook table appear by themselves"),
    (("Judge", "WinRate"), _JUDGE),
    (("DPO", "KTO", "ORPO", "CPO", "BCO", "NashMD", "XPO", "GKD", "Distillation"), _PAIRS),
    (
        ("SFT", "CompletionOnly", "pack_dataset", "DatasetMixture"),
        "there is no supervised training; do it first, then GRPO",
    ),
    (
        ("RewardConfig", "RewardTrainer", "PRM"),
        "reward models are used, not trained: reward_funcs='name/of-a-reward-model'",
    ),
    (
        ("multimodal", "vision", "Vision", "image", "DDPO", "AlignProp", "StableDiffusion"),
        "images are not supported: prompts are text or chat messages",
    ),
    (
        ("chat_template", "conversational", "extract_prompt", "chat_format", "chatml"),
        "the trainer applies the template itself: give a column `prompt` of text or messages",
    ),
    (("rewards", "reward", "think_format"), "`dunwu.rewards` has reward functions, faithful and repaired"),
    (("vllm", "VLLM"), "the engine runs in the trainer's process: there is no server to start"),
    (("reference_model",), "GRPOConfig(beta=…) creates the reference model"),
    (("TextEnvironment", "environment", "tool"), _TOOLS),
    (("BestOfN",), "`dunwu eval` samples several completions a prompt and grades them"),
)


def alternative_to(name: str) -> str:
    """What to use instead of this name of TRL."""
    for parts, sentence in _ALTERNATIVES:
        if any(part in name for part in parts):
            return f"trl.{name} is not in Dunwu: {sentence}"
    return f"trl.{name} is not in Dunwu, which has {', '.join(sorted(SUPPORTED))}; use TRL itself for the rest"
