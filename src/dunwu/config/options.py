"""The options of a run: `GRPOConfig`, transformers' `TrainingArguments` with GRPO's own options, presets and checks.

Names and meanings are TRL 1.16's where they mean the same. An option given explicitly wins over its preset.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, TypeAlias, TypeVar

import torch
from transformers import TrainingArguments

from dunwu._utils.known_arguments import known_fields
from dunwu._utils.logging import get_logger
from dunwu._utils.secrets import reject_secrets
from dunwu._utils.suggest import did_you_mean
from dunwu.config.checks import check_choices, check_combinations, check_optimizer, check_ranges
from dunwu.config.foreign_options import FOREIGN_OPTIONS
from dunwu.config.presets import PRESETS
from dunwu.core.algorithm import AlgorithmConfig
from dunwu.errors import ConfigError
from dunwu.hub import check_push_to_hub
from dunwu.trackers import resolve_report_to

__all__ = ["GRPOConfig"]

_SAMPLING: Final = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop_strings")
"""Options of transformers' `generate` that the engines have too."""

_OWN_LOSS: Final = {"scale_rewards": "group", "importance_sampling_level": "token", "loss_aggregation": "token_mean"}
"""The other choices where `loss_type` names a function of yours."""


T = TypeVar("T")

OptionsDict: TypeAlias = dict[str, Any] | str | None
"""Options of something else: a dict, or its JSON on the command line."""


def as_dict(given: OptionsDict) -> dict[str, Any]:
    """Such options once `GRPOConfig` has read their JSON; none given: empty."""
    return given if isinstance(given, dict) else {}


def _option(default: T, help: str) -> T:
    return field(default=default, metadata={"help": help})


@known_fields(FOREIGN_OPTIONS)
@dataclass
class GRPOConfig(TrainingArguments):
    """Options of a GRPO run. Everything of `transformers.TrainingArguments` works too.

    Example: `GRPOConfig(output_dir="runs/countdown", num_generations=8, max_completion_length=256, max_steps=300)`

    Raises:
        ConfigError: for an option out of its range, with what was given and what to do.
    """

    _missing_tracker: ClassVar[Literal["raise", "drop"]] = "raise"
    # Units a step, where prompts_per_step came of them; not an option.
    _batch_read: int | None = field(default=None, init=False, repr=False)

    # Defaults that differ from TrainingArguments
    learning_rate: float = _option(1e-6, "Peak learning rate. Full fine-tuning: 5e-7 to 5e-6; LoRA: about ten times.")
    logging_steps: float = _option(1, "Log every so many optimizer steps.")
    bf16: bool | None = _option(  # type: ignore[assignment]
        None, "bf16 autocast over fp32 weights; None: where a GPU supports it."
    )
    remove_unused_columns: bool = _option(False, "Always False: every column goes to the rewards.")
    # transformers writes this into the saved model's config: False would make everyone's later generation slow.
    use_cache: bool = _option(True, "The value in the saved model's config; training itself never uses a cache.")

    # Model
    model_init_kwargs: OptionsDict = _option(None, "Arguments of from_pretrained for a model by name.")
    disable_dropout: bool = _option(True, "Train without dropout, so that the policy is the sampler.")

    # How much is sampled a step
    num_generations: int = _option(8, "Completions a prompt (G), at least 2.")
    num_generations_eval: int | None = _option(None, "Completions a prompt in evaluation; None: num_generations.")
    prompts_per_step: int | None = _option(None, "Prompts an optimizer step, over all ranks and micro-batches.")
    batch_unit: Literal["auto", "completions", "prompts"] = _option(
        "auto", "What per_device_train_batch_size counts: completions, prompts, or auto."
    )
    num_iterations: int = _option(1, "Updates from the same rollouts (μ).")
    tokens_per_micro_batch: int | None = _option(
        None, "Tokens a forward pass may compute; changes memory, not results. None: what fits, measured."
    )

    # Prompts and sampling
    max_prompt_length: int | None = _option(None, "Longest prompt in tokens; None: what the model's context leaves.")
    overlong_prompts: Literal["drop", "cut"] = _option(
        "drop", "What to do with a longer prompt: drop it, or cut its beginning."
    )
    max_completion_length: int = _option(256, "Longest completion in tokens, end token included.")
    chat_template_kwargs: OptionsDict = _option(None, "Extra arguments of the chat template.")
    shuffle_dataset: bool = _option(True, "A new permutation of the prompts each epoch.")
    temperature: float = _option(1.0, "Sampling temperature; the policy's log-probabilities use it too.")
    top_k: int = _option(0, "Sample from the k most likely tokens; 0: all.")
    top_p: float = _option(1.0, "Sample from the smallest set of tokens with this total probability; 1: all.")
    min_p: float | None = _option(None, "Drop tokens below this share of the most likely one's probability.")
    repetition_penalty: float = _option(1.0, "Above 1: tokens already present become less likely.")
    stop_strings: list[str] | None = _option(None, "Strings that end a completion.")
    generation_kwargs: OptionsDict = _option(
        None, "Sampling options by transformers' names, over those above; one that no engine has is refused."
    )
    engine: str = _option(
        "auto", "What makes completions: auto, fast (four families), transformers (any model), package.module:object."
    )
    engine_options: OptionsDict = _option(None, "The engine's own options.")
    kv_cache_gib: float | None = _option(None, "Most GiB for keys and values; None: a share of what is free.")
    max_turns: int = _option(8, "With an environment: turns of the model in one conversation at most.")

    # Rewards
    reward_weights: list[float] | None = _option(None, "One weight a reward function; None: all 1.")
    reward_timeout: float | None = _option(60.0, "Seconds a reward call may take; None: no limit.")
    on_reward_error: Literal["raise", "skip"] = _option(
        "raise", "A reward that fails: raise, or skip the row (counted, never 0)."
    )

    # Algorithm
    loss_type: str = _option(
        "dapo",
        "Preset: grpo, bnpo, dr_grpo, dapo, gspo, cispo, sapo, luspo, vespo, reinforce; or a loss "
        "package.module:function.",
    )
    loss_options: OptionsDict = _option(None, "The policy loss's own options, over those below.")
    loss_aggregation: Literal["seq_mean", "token_mean", "seq_sum", "seq_sum_norm"] | None = _option(
        None, "How token losses become one number; None: the preset's."
    )
    scale_rewards: str | bool | None = _option(None, "Divide advantages by the std of the group, the batch, or none.")
    advantage_baseline: Literal["mean", "leave_one_out"] = _option(
        "mean", "Compare with the group's mean, or with the others' (leave_one_out)."
    )
    importance_sampling_level: Literal["token", "sequence", "none"] | None = _option(
        None, "Level of the ratio: token, sequence or none."
    )
    epsilon: float = _option(0.2, "Lower clip range of the ratio.")
    epsilon_high: float | None = _option(None, "Upper clip range; None: epsilon. For cispo: the cap itself.")
    delta: float | None = _option(None, "Upper bound of the ratio where the advantage is negative (dual clip).")
    mask_truncated_completions: bool = _option(False, "Leave completions cut by the token limit out of the loss.")
    importance_correction: Literal["none", "truncate", "mask"] = _option(
        "none", "Weigh or mask tokens whose sampler's distribution is not the policy's (another dtype or server)."
    )
    importance_cap: float = _option(2.0, "Largest such weight, or largest mismatch that is trained on.")
    off_policy_mask_threshold: float | None = _option(
        None, "Leave out bad completions whose log-probability a token fell by more than this; None: none."
    )

    # KL and the reference model
    beta: float = _option(0.0, "KL coefficient; 0: no reference model.")
    kl_estimator: Literal["k1", "k2", "k3"] = _option("k3", "Schulman's k1, k2 or k3.")
    kl_in: Literal["loss", "reward"] = _option("loss", "Add the KL to the loss, or take it off the reward.")
    use_bias_correction_kl: bool = _option(True, "Multiply the KL loss by the ratio: unbiased reverse-KL gradient.")
    sync_ref_model: bool = _option(False, "Move the reference towards the policy now and then (TR-DPO).")
    ref_model_mixup_alpha: float = _option(0.6, "Share of the policy in a moved reference.")
    ref_model_sync_steps: int = _option(512, "Optimizer steps between moves of the reference.")

    # Logging
    log_completions: bool = _option(False, "Print a few completions with their rewards at every log.")
    num_completions_to_print: int = _option(2, "How many.")

    def __post_init__(self) -> None:
        self._switch_off_what_the_machine_lacks()
        self._take_either_checkpointing_name()
        # JSON strings, as a command line gives them, are read by TrainingArguments for the fields named here.
        own = ("model_init_kwargs", "chat_template_kwargs", "generation_kwargs", "engine_options", "loss_options")
        self._VALID_DICT_FIELDS = [*type(self)._VALID_DICT_FIELDS, *own]
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            self.metric_for_best_model, self.greater_is_better = "reward", True
        super().__post_init__()  # type: ignore[no-untyped-call]
        given = {name: getattr(self, name, None) for name in ("hub_token", "model_init_kwargs")}
        reject_secrets(given, "the options (every checkpoint saves them, as training_args.bin)")
        self.report_to = resolve_report_to(self.report_to, missing=self._missing_tracker)
        self._apply_generation_kwargs()
        if isinstance(self.scale_rewards, bool):
            self.scale_rewards = "group" if self.scale_rewards else "none"
        check_choices(self, GRPOConfig)
        check_ranges(self)
        check_combinations(self)
        check_optimizer(self)
        self._resolve_batch_size()
        if self.push_to_hub:
            check_push_to_hub(self)

    def algorithm(self) -> AlgorithmConfig:
        """The preset with this config's explicit options over it."""
        names = ("scale_rewards", "importance_sampling_level", "loss_aggregation")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        preset = PRESETS.get(self.loss_type, {**_OWN_LOSS, "policy_loss": self.loss_type})
        choices: dict[str, Any] = {**preset, **given}
        return AlgorithmConfig(
            **choices,
            advantage_baseline=self.advantage_baseline,
            loss_options=self._loss_options(str(choices["policy_loss"])),
            beta=self.beta,
            kl_estimator=self.kl_estimator,
            kl_in=self.kl_in,
            kl_importance_weighted=self.use_bias_correction_kl,
            importance_correction=self.importance_correction,
            importance_cap=self.importance_cap,
            off_policy_threshold=self.off_policy_mask_threshold,
        )

    def _loss_options(self, policy_loss: str) -> dict[str, Any]:
        """TRL's names of a built-in loss's options, and `loss_options` over them."""
        options: dict[str, Any] = {}
        if policy_loss == "clip":
            high = self.epsilon if self.epsilon_high is None else self.epsilon_high
            options = {"epsilon_low": self.epsilon, "epsilon_high": high, "delta": self.delta}
        elif policy_loss == "cispo" and self.epsilon_high is not None:
            options = {"cap": self.epsilon_high}
        return options | as_dict(self.loss_options)

    def other_reading(self) -> tuple[str, str, int | None] | None:
        """How the batch was read, how else it could have been, and the prompts a step it would then have been.

        None where `prompts_per_step` was given, so that nothing was read; prompts None where they make no whole
        group.
        """
        total = self._batch_read
        if total is None:
            return None
        if self.batch_unit == "completions":
            return "completions", "prompts", total
        return "prompts", "completions", total // self.num_generations if total % self.num_generations == 0 else None

    def _switch_off_what_the_machine_lacks(self) -> None:
        """CPU is a first-class path: what only a GPU has is switched off with a warning, never a crash."""
        # Without this, several CPU processes would each train alone: transformers makes a group of GPUs only.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        gpu = torch.cuda.is_available() and not self.use_cpu
        bf16_gpu = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        if self.bf16 is None:
            self.bf16 = bf16_gpu and not self.fp16
        elif self.bf16 and not bf16_gpu:
            get_logger().warning(
                "bf16=True needs a GPU that computes in it, and there is none: training in the weights' own dtype, "
                "without autocast."
            )
            self.bf16 = False
        if self.fp16 and not gpu:
            get_logger().warning(
                "fp16=True needs a GPU, and there is none: training in the weights' own dtype, without autocast."
            )
            self.fp16 = False
        if self.tf32 and not gpu:
            get_logger().warning("tf32=True needs a GPU, and there is none: it changes nothing here.")
            self.tf32 = None
        if not gpu:
            self.dataloader_pin_memory = False
        if self.ddp_find_unused_parameters is None:
            # Every forward here uses every weight; looking for others walks the whole graph at each step.
            self.ddp_find_unused_parameters = False

    def _take_either_checkpointing_name(self) -> None:
        """`gradient_checkpointing` was renamed in transformers 5.2x; both names work here, without a warning."""
        for old, new in (
            ("gradient_checkpointing", "activation_checkpointing"),
            ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
        ):
            if hasattr(self, new) and getattr(self, new) is None:
                setattr(self, new, getattr(self, old))
                setattr(self, old, None)

    def _apply_generation_kwargs(self) -> None:
        """Each option goes to the field of its name; `generate` has dozens that no engine here supports."""
        names = {**{name: name for name in _SAMPLING}, "max_new_tokens": "max_completion_length"}
        given = as_dict(self.generation_kwargs)
        for name, value in given.items():
            if name == "do_sample" and value:
                continue
            if name not in names:
                raise ConfigError(
                    f"generation_kwargs has {name}={value!r}, which the engines do not support"
                    f"{did_you_mean(name, [*names])}; remove it. Supported: {', '.join(names)}"
                )
            if name == "stop_strings" and isinstance(value, str):
                value = [value]
            setattr(self, names[name], value)
        self.generation_kwargs = None

    def _resolve_batch_size(self) -> None:
        """Turn batch size × accumulation × ranks into `prompts_per_step`.

        The unit changed from prompts (TRL 0.14) to completions (0.16 on). `auto`: a batch of 1 a device can only have
        meant prompts; otherwise completions where the total is a whole number of groups. Micro-batches are cut by
        tokens, so the accumulation count is folded in here and the loop of transformers sees one batch a step.
        """
        total = self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size
        whole_groups = total % self.num_generations == 0
        self._batch_read = total if self.prompts_per_step is None else None
        if self.batch_unit == "auto":
            counts_completions = whole_groups and self.per_device_train_batch_size > 1
            self.batch_unit = "completions" if counts_completions else "prompts"
        if self.prompts_per_step is None:
            if self.batch_unit == "completions" and not whole_groups:
                raise ConfigError(
                    f"{total} completions a step are not a whole number of groups of {self.num_generations}; "
                    "set prompts_per_step, or batch_unit='prompts'."
                )
            self.prompts_per_step = total // self.num_generations if self.batch_unit == "completions" else total
        if self.prompts_per_step < self.world_size:
            raise ConfigError(
                f"{self.prompts_per_step} prompts a step leave some of {self.world_size} processes without work; "
                f"set prompts_per_step to at least {self.world_size}"
            )
        self.gradient_accumulation_steps = 1
