"""Checks of `GRPOConfig`: every mistake is one sentence, before anything is loaded."""

from __future__ import annotations

import importlib.util
from dataclasses import fields
from typing import TYPE_CHECKING, Final, Literal, get_args, get_origin, get_type_hints

from dunwu._utils.commands import install_command
from dunwu._utils.logging import get_logger
from dunwu._utils.objects import is_object_name
from dunwu._utils.suggest import did_you_mean
from dunwu.config.presets import PRESETS
from dunwu.core.policy_losses import find_policy_loss, loss_option_names
from dunwu.errors import ConfigError

if TYPE_CHECKING:
    from dunwu.config.options import GRPOConfig

__all__ = ["check_choices", "check_combinations", "check_optimizer", "check_ranges"]

_OPTIMIZER_PACKAGES: Final = (
    (("8bit", "paged", "bnb", "ademamix"), "bitsandbytes"),
    (("torch_4bit", "torch_8bit", "torch_fp8"), "torchao"),
    (("galore",), "galore_torch"),
    (("lomo",), "lomo_optim"),
    (("grokadamw",), "grokadamw"),
    (("schedule_free",), "schedulefree"),
    (("apollo",), "apollo_torch"),
    (("stable_adamw",), "optimi"),
)
"""Parts of an optimizer's name, and the package that it needs; `torch_…` before plain `8bit`."""


def check_choices(config: GRPOConfig, kind: type[GRPOConfig]) -> None:
    """Refuse a value that an option does not have; `kind` is the class whose options are looked at."""
    hints = get_type_hints(kind)
    for option in fields(kind):
        allowed = _allowed(hints.get(option.name))
        value = getattr(config, option.name)
        if allowed and value is not None and value not in allowed:
            raise ConfigError(f"{option.name}={value!r} is unknown{did_you_mean(str(value), allowed)}")
    if config.scale_rewards not in (None, "group", "batch", "none"):
        hint = did_you_mean(str(config.scale_rewards), ["group", "batch", "none"])
        raise ConfigError(f"scale_rewards={config.scale_rewards!r} is unknown{hint}")
    if config.loss_type not in PRESETS and not is_object_name(config.loss_type):
        hint = did_you_mean(config.loss_type, PRESETS)
        raise ConfigError(
            f"loss_type={config.loss_type!r} is unknown{hint}; your own loss is given as package.module:function"
        )
    if config.engine not in ("auto", "fast", "transformers") and not is_object_name(config.engine):
        hint = did_you_mean(config.engine, ["auto", "fast", "transformers"])
        raise ConfigError(
            f"engine={config.engine!r} is unknown{hint}; your own engine is given as package.module:object"
        )


def check_ranges(config: GRPOConfig) -> None:
    """Refuse numbers out of their range, and options that the loop has no place for."""
    for name, (fine, rule) in {**_size_rules(config), **_sampling_rules(config), **_loss_rules(config)}.items():
        if not fine:
            raise ConfigError(f"{name}={getattr(config, name)!r} does not work: it must be {rule}.")
    if config.auto_find_batch_size:
        raise ConfigError(
            "auto_find_batch_size would split groups; leave it out and lower tokens_per_micro_batch instead."
        )
    if config.neftune_noise_alpha:
        raise ConfigError(
            "neftune_noise_alpha adds noise in training and not in sampling, so the policy trained would not be the "
            "one sampled; leave it out"
        )
    if config.label_smoothing_factor:
        get_logger().warning("label_smoothing_factor does nothing here: there are no labels to smooth")


def check_combinations(config: GRPOConfig) -> None:
    """Warn of options that do nothing, or something else than they seem to, with the others."""
    algorithm = config.algorithm()
    if config.loss_type == "vespo" and algorithm.importance_sampling_level != "token":
        get_logger().warning(
            f"importance_sampling_level={config.importance_sampling_level!r} does nothing with loss_type='vespo', "
            "which takes the whole sequence's ratio by itself"
        )
    elif config.loss_type == "luspo" and algorithm.importance_sampling_level != "sequence":
        get_logger().warning(
            f"LUSPO takes one ratio a sequence, and importance_sampling_level is "
            f"{config.importance_sampling_level!r}: leave it out, or set 'sequence'"
        )
    elif algorithm.importance_sampling_level == "sequence" and algorithm.loss_aggregation not in (
        "seq_mean",
        "seq_sum",
    ):
        get_logger().warning(
            f"importance_sampling_level='sequence' with loss_type={config.loss_type!r}, which adds up tokens: a "
            "sequence then weighs by its length. GSPO averages each sequence: loss_type='gspo', or "
            "loss_aggregation='seq_mean'"
        )
    if algorithm.policy_loss != "clip":
        idle = [name for name in ("delta",) if getattr(config, name) is not None]
        idle += ["epsilon"] if config.epsilon != 0.2 else []
        if algorithm.policy_loss != "cispo" and config.epsilon_high is not None:
            idle.append("epsilon_high")
        if idle:
            own = loss_option_names(find_policy_loss(algorithm.policy_loss))
            get_logger().warning(
                f"{' and '.join(idle)} do nothing with loss_type={config.loss_type!r}; its options are "
                f"{', '.join(own) or 'none'} (loss_options)"
            )


def check_optimizer(config: GRPOConfig) -> None:
    """Refuse an optimizer whose package is not installed, before anything is loaded."""
    name = str(getattr(config.optim, "value", config.optim))
    for parts, package in sorted(_OPTIMIZER_PACKAGES, key=lambda entry: entry[1] != "torchao"):
        if any(part in name for part in parts):
            if importlib.util.find_spec(package) is None:
                raise ConfigError(
                    f"optim={name!r} needs the package {package}, which is not installed: "
                    f"{install_command(package=package)}; or take optim='adamw_torch'"
                )
            return


def _size_rules(config: GRPOConfig) -> dict[str, tuple[bool, str]]:
    return {
        "num_generations": (config.num_generations >= 2, "at least 2: one completion has nothing to compare with"),
        "num_generations_eval": (
            config.num_generations_eval is None or config.num_generations_eval >= 1,
            "at least 1",
        ),
        "prompts_per_step": (config.prompts_per_step is None or config.prompts_per_step >= 1, "at least 1"),
        "num_iterations": (config.num_iterations >= 1, "at least 1"),
        "max_turns": (config.max_turns >= 1, "at least 1"),
        "tokens_per_micro_batch": (
            config.tokens_per_micro_batch is None or config.tokens_per_micro_batch >= 1,
            "at least 1, or None",
        ),
        "kv_cache_gib": (config.kv_cache_gib is None or config.kv_cache_gib > 0, "above 0 GiB, or None"),
        "max_prompt_length": (
            config.max_prompt_length is None or config.max_prompt_length >= 1,
            "at least 1, or None",
        ),
        "max_completion_length": (config.max_completion_length >= 1, "at least 1"),
    }


def _sampling_rules(config: GRPOConfig) -> dict[str, tuple[bool, str]]:
    return {
        "stop_strings": (
            all(config.stop_strings or ["x"]),
            "without empty strings: they would end every completion",
        ),
        "temperature": (config.temperature > 0, "above 0: greedy completions of a prompt are all the same"),
        "top_k": (config.top_k >= 0, "0 (off) or more"),
        "top_p": (0 < config.top_p <= 1, "above 0 and at most 1"),
        "min_p": (config.min_p is None or 0 <= config.min_p <= 1, "between 0 and 1"),
        "repetition_penalty": (config.repetition_penalty > 0, "above 0; 1 is off"),
        "reward_timeout": (config.reward_timeout is None or config.reward_timeout > 0, "above 0 seconds"),
    }


def _loss_rules(config: GRPOConfig) -> dict[str, tuple[bool, str]]:
    return {
        "epsilon": (0 <= config.epsilon < 1, "between 0 and 1"),
        "epsilon_high": (config.epsilon_high is None or config.epsilon_high > 0, "above 0, or None for epsilon"),
        "delta": (
            config.delta is None or config.delta > 1 + config.epsilon,
            "above 1 + epsilon, or it clips good tokens",
        ),
        "beta": (config.beta >= 0, "0 or more"),
        "importance_cap": (config.importance_cap >= 1, "at least 1"),
        "off_policy_mask_threshold": (
            config.off_policy_mask_threshold is None or config.off_policy_mask_threshold > 0,
            "above 0, or None; DeepSeek-V3.2 has a small positive number",
        ),
        "ref_model_mixup_alpha": (0 <= config.ref_model_mixup_alpha <= 1, "between 0 and 1"),
        "ref_model_sync_steps": (config.ref_model_sync_steps >= 1, "at least 1"),
    }


def _allowed(kind: object) -> list[str]:
    """The values of an option typed `Literal[...]`, also where it may be None; none for any other option."""
    found = [one for part in (kind, *get_args(kind)) if get_origin(part) is Literal for one in get_args(part)]
    return [str(value) for value in found]
