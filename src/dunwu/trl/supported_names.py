"""Names of TRL that Dunwu has, and what to use instead of the others.

It imports nothing, so that a script can be checked before it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["ALTERNATIVES", "MODULES", "SUPPORTED", "alternative_to"]

_NAMES: Final = {
    "callbacks": ("RichProgressCallback",),
    "config": ("GRPOConfig",),
    "data_utils": (
        "apply_chat_template",
        "extract_prompt",
        "is_conversational",
        "is_conversational_from_value",
        "maybe_apply_chat_template",
        "maybe_convert_to_chatml",
        "maybe_extract_prompt",
        "maybe_unpair_preference_dataset",
        "unpair_preference_dataset",
    ),
    "dataset_mixture": ("DatasetConfig", "DatasetMixtureConfig", "get_dataset", "init_zero_verbose"),
    "model_config": (
        "ModelConfig",
        "ScriptArguments",
        "get_kbit_device_map",
        "get_peft_config",
        "get_quantization_config",
    ),
    "parser": ("TrlParser",),
    "rewards": (
        "accuracy_reward",
        "get_cosine_scaled_reward",
        "get_repetition_penalty_reward",
        "get_soft_overlong_punishment",
        "reasoning_accuracy_reward",
        "think_format_reward",
    ),
    "trainer": ("GRPOTrainer",),
}
SUPPORTED: Final[Mapping[str, str]] = {name: module for module, names in _NAMES.items() for name in names}
"""Name → the module of `dunwu.trl` that defines it."""

MODULES: Final = (
    "trainer",
    "trainer.grpo_config",
    "trainer.grpo_trainer",
    "trainer.model_config",
    "trainer.utils",
    "trainer.callbacks",
    "rewards",
    "rewards.accuracy_rewards",
    "rewards.format_rewards",
    "rewards.other_rewards",
    "data_utils",
    "chat_template_utils",
    "models",
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

ALTERNATIVES: Final[tuple[tuple[tuple[str, ...], str], ...]] = (
    (("PPO", "WithValueHead", "PreTrainedModelWrapper"), _VALUE),
    (("RLOO",), "RLOO is GRPOConfig(loss_type='reinforce', advantage_baseline='leave_one_out')"),
    (("LogCompletions",), "GRPOConfig(log_completions=True) prints them and sends tables to the trackers"),
    (("SyncRefModel",), "use GRPOConfig(sync_ref_model=True)"),
    (("BEMA",), "weights are not averaged along the run; save_steps keeps checkpoints to choose from"),
    (("Weave",), "report_to has wandb, swanlab, tensorboard, trackio and mlflow, with tables of completions"),
    (("Judge", "WinRate"), _JUDGE),
    (("DPO", "KTO", "ORPO", "CPO", "BCO", "NashMD", "XPO", "GKD", "Distillation"), _PAIRS),
    (
        ("SFT", "CompletionOnly", "pack_dataset"),
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
        ("clone_chat_template", "setup_chat_format"),
        "give the tokenizer a template by tokenizer.chat_template = other.chat_template; tokens that the model lacks "
        "it must have learned before",
    ),
    (
        ("chat_template",),
        "the trainer applies the template itself: give a column `prompt` of text or messages",
    ),
    (("rewards", "reward"), "`dunwu.rewards` has reward functions, faithful and repaired"),
    (("vllm", "VLLM"), "the engine runs in the trainer's process: there is no server to start"),
    (("reference_model",), "GRPOConfig(beta=…) creates the reference model"),
    (("TextEnvironment", "environment", "tool", "response_schema"), _TOOLS),
    (("BestOfN",), "`dunwu eval` samples several completions a prompt and grades them"),
)


"""Parts of names, and what to use instead of a name that has one of them; the first row that fits counts."""


def alternative_to(name: str) -> str:
    """What to use instead of this name of TRL."""
    for parts, sentence in ALTERNATIVES:
        if any(part in name for part in parts):
            return f"trl.{name} is not in Dunwu: {sentence}"
    return (
        f"trl.{name} is not in Dunwu: of TRL it has GRPOConfig, GRPOTrainer and what their scripts import "
        "(docs/trl_arguments.md lists it); use TRL itself for the rest"
    )
