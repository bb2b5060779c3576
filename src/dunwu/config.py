"""What a run is told: `GRPOConfig`, transformers' `TrainingArguments` with GRPO's own options.

What it is: options, presets and checks. What it is not: behaviour; the trainer reads it, nothing here acts.
Names and meanings are TRL 1.16's where they mean the same. An option given explicitly wins over its preset.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, cast

import torch
from transformers import TrainingArguments

from dunwu._utils.suggest import did_you_mean
from dunwu.core.algorithm import AlgorithmConfig

__all__ = ["PRESETS", "GRPOConfig"]

logger = logging.getLogger("dunwu")

PRESETS: Final[Mapping[str, Mapping[str, str | float]]] = {
    "grpo": {
        "scale_rewards": "group",
        "importance_sampling_level": "token",
        "policy_loss": "clip",
        "loss_aggregation": "seq_mean",
    },
    "bnpo": {
        "scale_rewards": "group",
        "importance_sampling_level": "token",
        "policy_loss": "clip",
        "loss_aggregation": "token_mean",
    },
    "dr_grpo": {
        "scale_rewards": "none",
        "importance_sampling_level": "token",
        "policy_loss": "clip",
        "loss_aggregation": "seq_sum_norm",
    },
    "dapo": {
        "scale_rewards": "group",
        "importance_sampling_level": "token",
        "policy_loss": "clip",
        "loss_aggregation": "token_mean",
    },
    "gspo": {
        "scale_rewards": "group",
        "importance_sampling_level": "sequence",
        "policy_loss": "clip",
        "loss_aggregation": "seq_mean",
    },
    # TRL's cap, epsilon, is 0.2 by default; ours is `cispo_loss`'s.
    "cispo": {
        "scale_rewards": "group",
        "importance_sampling_level": "token",
        "policy_loss": "cispo",
        "loss_aggregation": "token_mean",
    },
    "reinforce": {
        "scale_rewards": "none",
        "importance_sampling_level": "none",
        "policy_loss": "logp",
        "loss_aggregation": "token_mean",
    },
}
"""`loss_type` to the choices it stands for: the fields of `algorithm.Objective`."""

_CHOICES: Final[Mapping[str, tuple[object, ...]]] = {
    "loss_type": tuple(PRESETS),
    "scale_rewards": ("group", "batch", "none"),
    "advantage_baseline": ("mean", "leave_one_out"),
    "importance_sampling_level": ("token", "sequence", "none"),
    "kl_estimator": ("k1", "k2", "k3"),
    "kl_in": ("loss", "reward"),
    "batch_unit": ("auto", "completions", "prompts"),
    "overlong_prompts": ("drop", "cut"),
    "on_reward_error": ("raise", "skip"),
    "engine": ("auto", "fast", "transformers"),
}

_SAMPLING: Final = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop_strings")
"""Options of transformers' `generate` that the engines have too."""


def _warn(sentence: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        logger.warning(sentence)


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class GRPOConfig(TrainingArguments):
    """Options of a GRPO run. Everything of `transformers.TrainingArguments` works too.

    Raises:
        ValueError: for an option out of its range, with what was given and what to do.
    """

    # Units a step, where prompts_per_step came of them; not an option.
    _batch_read: int | None = field(default=None, init=False, repr=False)

    # Defaults that differ from TrainingArguments
    learning_rate: float = _option(1e-6, "Peak learning rate. Full fine-tuning: 5e-7 to 5e-6; LoRA: about ten times.")
    logging_steps: float = _option(1, "Log every so many optimizer steps.")
    bf16: bool | None = _option(  # type: ignore[assignment]
        None, "bf16 autocast over fp32 weights; None: where a GPU supports it."
    )
    remove_unused_columns: bool = _option(False, "Kept False: every column goes to the rewards.")
    # transformers writes this into the saved model's config: False would make everyone's later generation slow.
    use_cache: bool = _option(True, "What the saved model's config says; training itself never uses a cache.")

    # Model
    model_init_kwargs: dict[str, Any] | str | None = _option(
        None, "Arguments of from_pretrained for a model by name."
    )
    disable_dropout: bool = _option(True, "Train without dropout, so that the policy is the sampler.")

    # How much is sampled a step
    num_generations: int = _option(8, "Completions a prompt (G), at least 2.")
    num_generations_eval: int | None = _option(None, "Completions a prompt in evaluation; None: num_generations.")
    prompts_per_step: int | None = _option(None, "Prompts an optimizer step, over all ranks and micro-batches.")
    batch_unit: str = _option("auto", "What per_device_train_batch_size counts: completions, prompts, or auto.")
    num_iterations: int = _option(1, "Updates from the same rollouts (μ).")
    tokens_per_micro_batch: int | None = _option(
        None, "Tokens a forward pass may compute; changes memory, not results. None: what fits, measured."
    )

    # Prompts and sampling
    max_prompt_length: int | None = _option(None, "Longest prompt in tokens; None: what the model's context leaves.")
    overlong_prompts: str = _option("drop", "What to do with a longer prompt: drop it, or cut its beginning.")
    max_completion_length: int = _option(256, "Longest completion in tokens, end token included.")
    chat_template_kwargs: dict[str, Any] | str | None = _option(None, "Extra arguments of the chat template.")
    shuffle_dataset: bool = _option(True, "A new permutation of the prompts each epoch.")
    temperature: float = _option(1.0, "Sampling temperature; the policy's log-probabilities use it too.")
    top_k: int = _option(0, "Sample from the k most likely tokens; 0: all.")
    top_p: float = _option(1.0, "Sample from the most likely tokens that hold this probability; 1: all.")
    min_p: float | None = _option(None, "Drop tokens below this share of the most likely one's probability.")
    repetition_penalty: float = _option(1.0, "Above 1: tokens already present become less likely.")
    stop_strings: list[str] | None = _option(None, "Strings that end a completion.")
    generation_kwargs: dict[str, Any] | str | None = _option(
        None, "Sampling options by transformers' names, over those above; one that no engine has is refused."
    )
    engine: str = _option("auto", "What makes completions: auto, fast (four families), transformers (any model).")
    kv_cache_gib: float | None = _option(
        None, "Most GiB for the engine's keys and values; None: a share of the free."
    )

    # Rewards
    reward_weights: list[float] | None = _option(None, "One weight a reward function; None: all 1.")
    reward_timeout: float | None = _option(
        60.0, "Seconds a reward call may take; None: no limit, and in the main thread (math-verify needs that)."
    )
    on_reward_error: str = _option("raise", "A reward that fails: raise, or skip the row (counted, never 0).")

    # Algorithm
    loss_type: str = _option("dapo", "Preset: grpo, bnpo, dr_grpo, dapo, gspo, cispo, reinforce.")
    scale_rewards: str | bool | None = _option(None, "Divide advantages by the std of the group, the batch, or none.")
    advantage_baseline: str = _option("mean", "Compare with the group's mean, or with the others' (leave_one_out).")
    importance_sampling_level: str | None = _option(None, "Level of the ratio: token, sequence or none.")
    epsilon: float = _option(0.2, "Lower clip range of the ratio.")
    epsilon_high: float | None = _option(None, "Upper clip range; None: epsilon. For cispo: the cap itself.")
    delta: float | None = _option(None, "Upper bound of the ratio where the advantage is negative (dual clip).")
    mask_truncated_completions: bool = _option(False, "Leave completions cut by the token limit out of the loss.")

    # KL and the reference model
    beta: float = _option(0.0, "KL coefficient; 0: no reference model.")
    kl_estimator: str = _option("k3", "Schulman's k1, k2 or k3.")
    kl_in: str = _option("loss", "Add the KL to the loss, or take it off the reward.")
    use_bias_correction_kl: bool = _option(True, "Multiply the KL loss by the ratio: unbiased reverse-KL gradient.")
    sync_ref_model: bool = _option(False, "Move the reference towards the policy now and then (TR-DPO).")
    ref_model_mixup_alpha: float = _option(0.6, "Share of the policy in a moved reference.")
    ref_model_sync_steps: int = _option(512, "Optimizer steps between moves of the reference.")

    # What is said
    log_completions: bool = _option(False, "Print a few completions with their rewards at every log.")
    num_completions_to_print: int = _option(2, "How many.")

    def __post_init__(self) -> None:
        self._fit_the_machine()
        self._settle_checkpointing_name()
        # JSON strings, as a command line gives them, are read by TrainingArguments for the fields named here.
        self._VALID_DICT_FIELDS = [*type(self)._VALID_DICT_FIELDS, "model_init_kwargs", "chat_template_kwargs"]
        self._VALID_DICT_FIELDS.append("generation_kwargs")
        super().__post_init__()  # type: ignore[no-untyped-call]
        self._apply_generation_kwargs()
        if isinstance(self.scale_rewards, bool):
            self.scale_rewards = "group" if self.scale_rewards else "none"
        self._check_choices()
        self._check_ranges()
        self._settle_batch()

    def algorithm(self) -> AlgorithmConfig:
        """The preset with this config's explicit options over it."""
        given = {"scale_rewards": self.scale_rewards, "importance_sampling_level": self.importance_sampling_level}
        choices: dict[str, Any] = dict(PRESETS[self.loss_type])
        choices |= {name: value for name, value in given.items() if value is not None}
        return AlgorithmConfig(
            **choices,
            advantage_baseline=cast(Any, self.advantage_baseline),
            loss_options=self._loss_options(str(choices["policy_loss"])),
            beta=self.beta,
            kl_estimator=cast(Any, self.kl_estimator),
            kl_in=cast(Any, self.kl_in),
            kl_importance_weighted=self.use_bias_correction_kl,
        )

    def _loss_options(self, policy_loss: str) -> dict[str, Any]:
        if policy_loss == "clip":
            high = self.epsilon if self.epsilon_high is None else self.epsilon_high
            return {"epsilon_low": self.epsilon, "epsilon_high": high, "delta": self.delta}
        return {"cap": self.epsilon_high} if policy_loss == "cispo" and self.epsilon_high is not None else {}

    @classmethod
    def own_fields(cls) -> list[str]:
        """Names of the options that TrainingArguments does not have."""
        inherited = {f.name for f in fields(TrainingArguments)}
        return [f.name for f in fields(cls) if f.init and f.name not in inherited]

    def other_reading(self) -> tuple[str, str, int | None] | None:
        """How the batch was read, how else it could have been, and the prompts a step it would then have been.

        None where `prompts_per_step` was given, so that nothing was read; prompts None where they hold no whole
        group.
        """
        total = self._batch_read
        if total is None:
            return None
        if self.batch_unit == "completions":
            return "completions", "prompts", total
        return "prompts", "completions", total // self.num_generations if total % self.num_generations == 0 else None

    def _fit_the_machine(self) -> None:
        """CPU is a first-class path: what only a GPU has is switched off, and said, never a crash."""
        # Without this, several CPU processes would each train alone: transformers makes a group of GPUs only.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        gpu = torch.cuda.is_available() and not self.use_cpu
        bf16_gpu = gpu and torch.cuda.is_bf16_supported()
        if self.bf16 is None:
            self.bf16 = bf16_gpu and not self.fp16
        elif self.bf16 and not bf16_gpu:
            _warn("bf16 was asked for, and no GPU here computes in it: no autocast, the weights' own dtype instead.")
            self.bf16 = False
        if self.fp16 and not gpu:
            _warn("fp16 was asked for, and there is no GPU: no autocast, the weights' own dtype instead.")
            self.fp16 = False
        if self.tf32 and not gpu:
            _warn("tf32 was asked for, and there is no GPU: it changes nothing here.")
            self.tf32 = None
        if not gpu:
            self.dataloader_pin_memory = False
        if self.ddp_find_unused_parameters is None:
            # Every forward here uses every weight; looking for others walks the whole graph at each step.
            self.ddp_find_unused_parameters = False

    def _settle_checkpointing_name(self) -> None:
        """`gradient_checkpointing` was renamed in transformers 5.2x; both names work here, without a warning."""
        for old, new in (
            ("gradient_checkpointing", "activation_checkpointing"),
            ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
        ):
            if hasattr(self, new) and getattr(self, new) is None:
                setattr(self, new, getattr(self, old))
                setattr(self, old, None)

    def _apply_generation_kwargs(self) -> None:
        """Each option goes to the field of its name; `generate` has dozens that no engine here has, and says so."""
        names = {**{name: name for name in _SAMPLING}, "max_new_tokens": "max_completion_length"}
        given = cast("dict[str, Any]", self.generation_kwargs or {})
        for name, value in given.items():
            if name == "do_sample" and value:
                continue
            if name not in names:
                raise ValueError(
                    f"generation_kwargs has {name}={value!r}, which the engines do not do"
                    f"{did_you_mean(name, [*names])}; remove it. They do: {', '.join(names)}"
                )
            if name == "stop_strings" and isinstance(value, str):
                value = [value]
            setattr(self, names[name], value)
        self.generation_kwargs = None

    def _check_choices(self) -> None:
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise ValueError(f"{name}={value!r} is unknown{did_you_mean(str(value), [str(a) for a in allowed])}")

    def _check_ranges(self) -> None:
        for name, (fine, rule) in {**self._size_rules(), **self._sampling_rules(), **self._loss_rules()}.items():
            if not fine:
                raise ValueError(f"{name}={getattr(self, name)!r} does not work: it must be {rule}.")
        if self.auto_find_batch_size:
            raise ValueError("auto_find_batch_size would break groups apart; lower tokens_per_micro_batch instead.")

    def _size_rules(self) -> dict[str, tuple[bool, str]]:
        return {
            "num_generations": (self.num_generations >= 2, "at least 2: one completion has nothing to compare with"),
            "num_generations_eval": (
                self.num_generations_eval is None or self.num_generations_eval >= 1,
                "at least 1",
            ),
            "prompts_per_step": (self.prompts_per_step is None or self.prompts_per_step >= 1, "at least 1"),
            "num_iterations": (self.num_iterations >= 1, "at least 1"),
            "tokens_per_micro_batch": (
                self.tokens_per_micro_batch is None or self.tokens_per_micro_batch >= 1,
                "at least 1, or None",
            ),
            "kv_cache_gib": (self.kv_cache_gib is None or self.kv_cache_gib > 0, "above 0 GiB, or None"),
            "max_prompt_length": (
                self.max_prompt_length is None or self.max_prompt_length >= 1,
                "at least 1, or None",
            ),
            "max_completion_length": (self.max_completion_length >= 1, "at least 1"),
        }

    def _sampling_rules(self) -> dict[str, tuple[bool, str]]:
        return {
            "stop_strings": (
                all(self.stop_strings or ["x"]),
                "without empty strings: they would end every completion",
            ),
            "temperature": (self.temperature > 0, "above 0: greedy completions of a prompt are all the same"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (self.min_p is None or 0 <= self.min_p <= 1, "between 0 and 1"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0; 1 is off"),
            "reward_timeout": (self.reward_timeout is None or self.reward_timeout > 0, "above 0 seconds"),
        }

    def _loss_rules(self) -> dict[str, tuple[bool, str]]:
        return {
            "epsilon": (0 <= self.epsilon < 1, "between 0 and 1"),
            "epsilon_high": (self.epsilon_high is None or self.epsilon_high > 0, "above 0, or None for epsilon"),
            "delta": (
                self.delta is None or self.delta > 1 + self.epsilon,
                "above 1 + epsilon, or it clips good tokens",
            ),
            "beta": (self.beta >= 0, "0 or more"),
            "ref_model_mixup_alpha": (0 <= self.ref_model_mixup_alpha <= 1, "between 0 and 1"),
            "ref_model_sync_steps": (self.ref_model_sync_steps >= 1, "at least 1"),
        }

    def _settle_batch(self) -> None:
        """Turn batch size × accumulation × ranks into `prompts_per_step`.

        The unit changed from prompts (TRL 0.14) to completions (0.16 on). `auto`: a batch of 1 a device can only have
        meant prompts; otherwise completions where the total holds whole groups. Micro-batches are cut by tokens, so
        the accumulation count is folded in here and the loop of transformers sees one batch a step.
        """
        total = self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size
        whole_groups = total % self.num_generations == 0
        self._batch_read = total if self.prompts_per_step is None else None
        if self.batch_unit == "auto":
            counts_completions = whole_groups and self.per_device_train_batch_size > 1
            self.batch_unit = "completions" if counts_completions else "prompts"
        if self.prompts_per_step is None:
            if self.batch_unit == "completions" and not whole_groups:
                raise ValueError(
                    f"{total} completions a step do not hold whole groups of {self.num_generations}; "
                    "set prompts_per_step, or batch_unit='prompts'."
                )
            self.prompts_per_step = total // self.num_generations if self.batch_unit == "completions" else total
        if self.prompts_per_step < self.world_size:
            raise ValueError(
                f"{self.prompts_per_step} prompts a step leave some of {self.world_size} processes without work; "
                f"set prompts_per_step to at least {self.world_size}"
            )
        self.gradient_accumulation_steps = 1
