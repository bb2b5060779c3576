"""Every argument of TRL 0.14 to 1.16's `GRPOConfig`, and of its `TrainingArguments`, that `dunwu.GRPOConfig` lacks.

One entry an argument: which versions had it, and what is done with it. `docs/trl_arguments.md` is printed from these
entries (`python -m dunwu.trl.docs_page`). Defaults that changed are in `versioned_defaults`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dunwu.trl.migrations import (
    Migration,
    adafactor,
    ddp_backend,
    deepspeed,
    evaluation,
    hub_key,
    logging_folder,
    loss_option,
    model_option,
    renamed,
    switched_off,
    vllm,
    warmup_ratio,
)

__all__ = ["LEGACY_ARGUMENTS", "LegacyArgument"]

TEXT: Final = "str | None"
NUMBER: Final = "float | None"
WHOLE: Final = "int | None"
SWITCH: Final = "bool | None"
MAPPING: Final = "dict | str | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyArgument:
    """One argument that `dunwu.GRPOConfig` does not have, or has with another meaning.

    Example: `LegacyArgument(name="vllm_mode", versions="TRL 0.18–", kind=TEXT, note=IN_PROCESS)`
    """

    name: str
    """As scripts write it."""
    versions: str
    """The releases that had it."""
    kind: str
    """Its type as an annotation, for the command line."""
    note: str
    """What it became; for an argument that is ignored or refused, why."""
    migrate: Migration | None = None
    """Sets other options instead; None: it is accepted and ignored, or refused."""
    silent_values: tuple[object, ...] = ()
    """Values that ask for nothing: neither logged nor refused."""
    last_version: str | None = None
    """The last TRL in which it meant something, where that bounds the version of a script."""
    refused: bool = False
    """Whether any value but a silent one is refused: the run would not be what the script says."""

    @property
    def is_ignored(self) -> bool:
        """Whether it is accepted and does nothing."""
        return self.migrate is None and not self.refused


IN_PROCESS = "completions are sampled in the trainer's own process; there is no vLLM to set up"
NO_VLLM_GAP = "the engine samples from the trainer's own weights; `importance_correction` corrects what gap remains"
NO_PADDING = "nothing is padded"
DROPPED = "transformers 5 dropped it; it has no effect"
NOT_GATHERED = "the engine uses the weights as the trainer has them"
FRESH = "every optimizer step samples its own completions (`num_iterations` reuses them)"
ENTROPY = "read only with `use_adaptive_entropy`, which is refused"
NO_GRAMMAR = "sampling cannot be constrained to a pattern; reward the format instead (`dunwu.rewards.formats`)"
NO_TOOLS = "tools are an environment's: `dunwu.GRPOTrainer(environment=…)`, with `max_turns` as the limit"


def _ignored(
    name: str, versions: str, kind: str, why: str, *silent: object, last_version: str | None = None
) -> LegacyArgument:
    return LegacyArgument(
        name=name, versions=versions, kind=kind, note=why, silent_values=silent, last_version=last_version
    )


def _refused(name: str, versions: str, kind: str, why: str, *silent: object) -> LegacyArgument:
    return LegacyArgument(name=name, versions=versions, kind=kind, note=why, silent_values=silent, refused=True)


def _renamed(name: str, versions: str, kind: str, new: str) -> LegacyArgument:
    return LegacyArgument(name=name, versions=versions, kind=kind, note=f"`{new}`", migrate=renamed(new))


def _loss_option(name: str, versions: str, default: float) -> LegacyArgument:
    """`sapo_temperature_neg`: the option `temperature_neg` of the loss `sapo`."""
    loss_type, _, option = name.partition("_")
    note = f"`loss_options={{'{option}': …}}` with `loss_type='{loss_type}'`; nothing with another loss"
    migrate = loss_option(loss_type, option)
    return LegacyArgument(
        name=name, versions=versions, kind=NUMBER, note=note, migrate=migrate, silent_values=(default,)
    )


_VLLM: Final = (
    LegacyArgument(
        name="use_vllm",
        versions="TRL 0.14–",
        kind=SWITCH,
        note="Dunwu's own engine, in the trainer's process",
        migrate=vllm,
        silent_values=(False,),
    ),
    _ignored("vllm_device", "TRL 0.14–0.17", TEXT, IN_PROCESS, last_version="0.15"),
    _ignored("vllm_gpu_memory_utilization", "TRL 0.14–", NUMBER, IN_PROCESS),
    _ignored("vllm_dtype", "TRL 0.15–0.17", TEXT, IN_PROCESS, last_version="0.15"),
    _ignored("vllm_max_model_len", "TRL 0.15–0.17", WHOLE, IN_PROCESS, last_version="0.15"),
    _ignored("vllm_enable_prefix_caching", "TRL 0.16–0.17", SWITCH, IN_PROCESS, False, last_version="0.17"),
    _ignored("vllm_mode", "TRL 0.18–", TEXT, IN_PROCESS),
    _ignored("vllm_model_impl", "TRL 0.21–", TEXT, IN_PROCESS),
    _ignored("vllm_enable_sleep_mode", "TRL 0.23–", SWITCH, IN_PROCESS, False),
    _ignored("vllm_server_base_url", "TRL 0.18–", TEXT, IN_PROCESS),
    _ignored("vllm_server_host", "TRL 0.16–", TEXT, IN_PROCESS),
    _ignored("vllm_server_port", "TRL 0.16–", WHOLE, IN_PROCESS),
    _ignored("vllm_server_timeout", "TRL 0.16–", NUMBER, IN_PROCESS),
    _ignored("vllm_group_port", "TRL 0.27–", WHOLE, IN_PROCESS),
    _ignored("vllm_max_model_length", "TRL 0.26–", WHOLE, IN_PROCESS),
    _ignored("vllm_tensor_parallel_size", "TRL 0.18–", WHOLE, IN_PROCESS),
    _ignored("cache_implementation", "TRL 0.16–", TEXT, IN_PROCESS),
    _ignored("use_transformers_paged", "TRL 0.20–", SWITCH, IN_PROCESS, False),
    _ignored("use_transformers_continuous_batching", "TRL 1.7–", SWITCH, IN_PROCESS, False),
    _ignored("transformers_continuous_batching_config", "TRL 1.7–", MAPPING, IN_PROCESS),
    _ignored("ds3_gather_for_generation", "TRL 0.15–", SWITCH, NOT_GATHERED, True),
    _ignored("vllm_importance_sampling_correction", "TRL 0.23–", SWITCH, NO_VLLM_GAP),
    _ignored("vllm_importance_sampling_mode", "TRL 0.26–", TEXT, NO_VLLM_GAP),
    _ignored("vllm_importance_sampling_cap", "TRL 0.23–", NUMBER, NO_VLLM_GAP),
    _ignored("vllm_importance_sampling_clip_max", "TRL 1.6–", NUMBER, NO_VLLM_GAP),
    _ignored("vllm_importance_sampling_clip_min", "TRL 1.6–", NUMBER, NO_VLLM_GAP),
    _refused("vllm_guided_decoding_regex", "TRL 0.16–0.27", TEXT, NO_GRAMMAR),
    _refused("vllm_structured_outputs_regex", "TRL 0.27–", TEXT, NO_GRAMMAR),
)

_LOSS: Final = (
    _loss_option("sapo_temperature_neg", "TRL 0.26–", 1.05),
    _loss_option("sapo_temperature_pos", "TRL 0.26–", 1.0),
    _loss_option("vespo_k_pos", "TRL 1.0–", 2.0),
    _loss_option("vespo_lambda_pos", "TRL 1.0–", 3.0),
    _loss_option("vespo_k_neg", "TRL 1.0–", 3.0),
    _loss_option("vespo_lambda_neg", "TRL 1.0–", 2.0),
    _refused(
        "top_entropy_quantile",
        "TRL 0.20–",
        NUMBER,
        "training on high-entropy tokens only is not supported; use 1.0",
        1.0,
    ),
    _refused("entropy_coef", "TRL 1.8–", NUMBER, "there is no entropy bonus; entropy is logged; use 0.0", 0.0),
    _refused("use_adaptive_entropy", "TRL 1.8–", SWITCH, "there is no entropy bonus; entropy is logged", False),
    _ignored("entropy_coef_min", "TRL 1.8–", NUMBER, ENTROPY, 0.0),
    _ignored("entropy_coef_max", "TRL 1.8–", NUMBER, ENTROPY, 1.0),
    _ignored("entropy_coef_delta", "TRL 1.8–", NUMBER, ENTROPY, 0.005),
    _ignored("entropy_target", "TRL 1.8–", NUMBER, ENTROPY, 0.2),
    _refused(
        "multi_objective_aggregation",
        "TRL 0.27–",
        TEXT,
        "rewards are summed, then normalised, as in TRL's default; weight them with `reward_weights`",
        "sum_then_normalize",
    ),
    _ignored(
        "router_aux_loss_coef",
        "TRL 1.7–",
        NUMBER,
        "no load-balancing loss is added for mixtures of experts",
        0.0,
        0.001,
    ),
    _ignored(
        "use_liger_loss",
        "TRL 0.17–0.27",
        SWITCH,
        "the loss never materialises all logits",
        False,
        last_version="0.27",
    ),
    _ignored("cast_lm_head_to_fp32", "TRL 0.25–", SWITCH, "log-probabilities are always float32", False),
    _ignored("generation_batch_size", "TRL 0.18–", WHOLE, FRESH),
    _ignored("steps_per_generation", "TRL 0.18–", WHOLE, FRESH),
    _refused("max_tool_calling_iterations", "TRL 0.27–", WHOLE, NO_TOOLS),
)

_LOGGING: Final = (
    _ignored("pad_to_multiple_of", "TRL 1.0–", MAPPING, NO_PADDING, "auto"),
    _ignored("log_multimodal", "TRL 1.9–", SWITCH, "prompts are text; there are no images", True, False),
    _ignored("log_unique_prompts", "TRL 0.26–", SWITCH, "tables list every rollout with its prompt", False),
    _ignored(
        "wandb_log_unique_prompts",
        "TRL 0.17–0.26",
        SWITCH,
        "tables list every rollout with its prompt",
        False,
        last_version="0.26",
    ),
    _ignored("log_completions_hub_repo", "TRL 0.28–", TEXT, "nothing is uploaded; completions go to the trackers"),
    LegacyArgument(
        name="trust_remote_code",
        versions="TRL 1.7–",
        kind=SWITCH,
        note="`model_init_kwargs={'trust_remote_code': True}`",
        migrate=model_option("trust_remote_code"),
        silent_values=(False,),
    ),
)

_TRANSFORMERS_4: Final = (
    LegacyArgument(
        name="warmup_ratio",
        versions="transformers 4–5.0",
        kind=NUMBER,
        note="`warmup_steps`, if the script gives none: a value below 1 is a share of all steps",
        migrate=warmup_ratio,
        silent_values=(0.0,),
    ),
    LegacyArgument(
        name="evaluation_strategy",
        versions="transformers 4–4.50",
        kind=TEXT,
        note="`eval_strategy`",
        migrate=evaluation,
        last_version="0.18",
    ),
    LegacyArgument(
        name="no_cuda",
        versions="transformers 4",
        kind=SWITCH,
        note="`use_cpu`",
        migrate=renamed("use_cpu"),
        silent_values=(False,),
    ),
    LegacyArgument(
        name="logging_dir",
        versions="transformers 4–5.0",
        kind=TEXT,
        note="`TENSORBOARD_LOGGING_DIR`, TensorBoard's folder",
        migrate=logging_folder,
    ),
    _renamed("per_gpu_train_batch_size", "transformers 4", WHOLE, "per_device_train_batch_size"),
    _renamed("per_gpu_eval_batch_size", "transformers 4", WHOLE, "per_device_eval_batch_size"),
    LegacyArgument(
        name="adafactor",
        versions="transformers 4",
        kind=SWITCH,
        note="`optim='adafactor'`",
        migrate=adafactor,
        silent_values=(False,),
    ),
    _renamed("torchdynamo", "transformers 4", TEXT, "torch_compile_backend"),
    _renamed("push_to_hub_model_id", "transformers 4", TEXT, "hub_model_id"),
    LegacyArgument(
        name="push_to_hub_token",
        versions="transformers 4",
        kind=TEXT,
        note="moved to HF_TOKEN for this process, with a warning; not saved",
        migrate=hub_key,
    ),
    LegacyArgument(
        name="save_safetensors",
        versions="transformers 4",
        kind=SWITCH,
        note="weights are always saved as safetensors",
        silent_values=(True,),
    ),
    _ignored(
        "overwrite_output_dir",
        "transformers 4",
        SWITCH,
        "nothing in the folder is deleted; `resume_from_checkpoint` decides what is continued",
        False,
    ),
    _ignored("group_by_length", "transformers 4–5.0", SWITCH, NO_PADDING, False),
    _ignored("half_precision_backend", "transformers 4", TEXT, DROPPED, "auto"),
    _ignored("fp16_backend", "transformers 4", TEXT, DROPPED, "auto"),
    _ignored("fp16_opt_level", "transformers 4", TEXT, DROPPED, "O1"),
    _ignored("use_mps_device", "transformers 4", SWITCH, "an Apple GPU is used if there is one", False),
    _ignored("use_ipex", "transformers 4", SWITCH, DROPPED, False),
    _ignored("jit_mode_eval", "transformers 4", SWITCH, DROPPED, False),
    _ignored("tpu_num_cores", "transformers 4", WHOLE, DROPPED),
    _ignored("tpu_metrics_debug", "transformers 4", SWITCH, DROPPED, False),
    _ignored("past_index", "transformers 4", WHOLE, DROPPED, -1),
    _ignored("mp_parameters", "transformers 4", TEXT, DROPPED, ""),
    _ignored("ray_scope", "transformers 4", TEXT, DROPPED, "last"),
    _ignored("use_legacy_prediction_loop", "transformers 4", SWITCH, DROPPED, False),
    _ignored("include_inputs_for_metrics", "transformers 4", SWITCH, DROPPED, False),
    _ignored("include_tokens_per_second", "transformers 4", SWITCH, "`step_time` and token counts are logged", False),
    _ignored("dispatch_batches", "transformers 4–4.50", SWITCH, DROPPED, last_version="0.18"),
    _ignored("split_batches", "transformers 4–4.50", SWITCH, DROPPED, last_version="0.18"),
    _ignored("tp_size", "transformers 4.50", WHOLE, DROPPED, 0, 1),
    _ignored("push_to_hub_organization", "transformers 4", TEXT, "set `hub_model_id` to ORG/NAME"),
    _refused("fsdp_min_num_params", "transformers 4", WHOLE, "set `min_num_params` in `fsdp_config`", 0),
    _refused(
        "fsdp_transformer_layer_cls_to_wrap",
        "transformers 4",
        TEXT,
        "set `transformer_layer_cls_to_wrap` in `fsdp_config`",
    ),
)

_CHANGED_MEANING: Final = (
    LegacyArgument(
        name="use_liger_kernel",
        versions="transformers 4.45–",
        kind=SWITCH,
        note="the loss never materialises all logits",
        migrate=switched_off("use_liger_kernel"),
        silent_values=(False,),
    ),
    LegacyArgument(
        name="remove_unused_columns",
        versions="transformers 4–",
        kind=SWITCH,
        note="always False: every column is passed to the rewards",
        migrate=switched_off("remove_unused_columns"),
        silent_values=(False,),
    ),
    LegacyArgument(
        name="hub_token",
        versions="transformers 4–",
        kind=TEXT,
        note="moved to HF_TOKEN for this process, with a warning; not saved",
        migrate=hub_key,
    ),
    LegacyArgument(
        name="deepspeed",
        versions="transformers 4–",
        kind=MAPPING,
        note="used if DeepSpeed is installed; otherwise ignored",
        migrate=deepspeed,
    ),
    LegacyArgument(
        name="ddp_backend",
        versions="transformers 4–",
        kind=TEXT,
        note="`nccl` becomes `gloo` without a GPU; a single process needs no backend",
        migrate=ddp_backend,
    ),
)
"""Arguments that `dunwu.GRPOConfig` has too, with values that no longer work."""

LEGACY_ARGUMENTS: Final[Mapping[str, LegacyArgument]] = {
    row.name: row for row in (*_VLLM, *_LOSS, *_LOGGING, *_TRANSFORMERS_4, *_CHANGED_MEANING)
}
"""Name → entry."""
