"""Every argument of TRL 0.14 to 1.16's `GRPOConfig`, and of its `TrainingArguments`, that `dunwu.GRPOConfig` lacks.

One row an argument: when it was there, what it became here, and the function that makes it so. The table
in `docs/old_arguments.md` is printed from these rows (`python -m dunwu.trl.docs_page`).

Defaults that changed are in `versioned_defaults`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from dunwu.trl.migrations import (
    Settings,
    adafactor,
    backend,
    deepspeed,
    evaluation,
    hub_key,
    inverse,
    logging_folder,
    model_option,
    renamed,
    use_vllm,
)

__all__ = ["OLD", "Old", "Settings"]

Act: TypeAlias = Callable[[Settings, str, Any], None]

TEXT: Final = str | None
NUMBER: Final = float | None
WHOLE: Final = int | None
SWITCH: Final = bool | None
ANY: Final = dict | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Old:
    """One argument of then.

    Example: `Old(name="no_cuda", when="transformers 4", kind=SWITCH, act=renamed("use_cpu"), now="`use_cpu`")`
    """

    name: str
    """As scripts write it."""
    when: str
    """Who knew it, and from when to when."""
    kind: Any
    """Its type, for the command line."""
    now: str
    """What we do with it, in words; for an argument set aside, why."""
    act: Act | None = None
    """What does it; None: it is accepted and set aside."""
    quiet: tuple[Any, ...] = field(default=())
    """Values that ask for nothing: not a word is said of them."""
    until: str | None = None
    """The last TRL in which it meant something, where that dates a script."""
    refused: bool = False
    """Whether any value but a quiet one is refused: the run would not be what the script says."""


IN_PROCESS = "completions are made in the trainer's own process, on its own weights: there is no vLLM to set up"
NO_GAP = "sampler and trainer use the same weights, so there is no gap to correct; it is logged"
NO_PADDING = "nothing is padded here"
GONE = "transformers 5 has dropped it; it changes nothing here"
NOT_GATHERED = "the engine reads the weights it is given; sharded models have an issue of their own"
ANEW = "rollouts are made anew for each optimizer step (`num_iterations` reuses them)"
SAPO = "only `loss_type='sapo'` reads it, which is not here"
VESPO = "only `loss_type='vespo'` reads it, which is not here"
ENTROPY = "read only with `use_adaptive_entropy`, which is refused"


def _aside(name: str, when: str, kind: Any, why: str, *quiet: Any, until: str | None = None) -> Old:
    return Old(name=name, when=when, kind=kind, now=why, quiet=quiet, until=until)


def _refused(name: str, when: str, kind: Any, why: str, *quiet: Any) -> Old:
    return Old(name=name, when=when, kind=kind, now=why, quiet=quiet, refused=True)


def _became(name: str, when: str, kind: Any, new: str, *quiet: Any, until: str | None = None) -> Old:
    return Old(name=name, when=when, kind=kind, now=f"`{new}`", act=renamed(new), quiet=quiet, until=until)


_VLLM: Final = (
    Old(
        name="use_vllm",
        when="TRL 0.14–",
        kind=SWITCH,
        now="the fast engine of this process instead, and said",
        act=use_vllm,
        quiet=(False,),
    ),
    _aside("vllm_device", "TRL 0.14–0.17", TEXT, IN_PROCESS, until="0.15"),
    _aside("vllm_gpu_memory_utilization", "TRL 0.14–", NUMBER, IN_PROCESS),
    _aside("vllm_dtype", "TRL 0.15–0.17", TEXT, IN_PROCESS, until="0.15"),
    _aside("vllm_max_model_len", "TRL 0.15–0.17", WHOLE, IN_PROCESS, until="0.15"),
    _aside("vllm_enable_prefix_caching", "TRL 0.16–0.17", SWITCH, IN_PROCESS, False, until="0.17"),
    _aside("vllm_mode", "TRL 0.18–", TEXT, IN_PROCESS),
    _aside("vllm_model_impl", "TRL 0.21–", TEXT, IN_PROCESS),
    _aside("vllm_enable_sleep_mode", "TRL 0.23–", SWITCH, IN_PROCESS, False),
    _aside("vllm_server_base_url", "TRL 0.18–", TEXT, IN_PROCESS),
    _aside("vllm_server_host", "TRL 0.16–", TEXT, IN_PROCESS),
    _aside("vllm_server_port", "TRL 0.16–", WHOLE, IN_PROCESS),
    _aside("vllm_server_timeout", "TRL 0.16–", NUMBER, IN_PROCESS),
    _aside("vllm_group_port", "TRL 0.27–", WHOLE, IN_PROCESS),
    _aside("vllm_max_model_length", "TRL 0.26–", WHOLE, IN_PROCESS),
    _aside("vllm_tensor_parallel_size", "TRL 0.18–", WHOLE, IN_PROCESS),
    _aside("cache_implementation", "TRL 0.16–", TEXT, IN_PROCESS),
    _aside("use_transformers_paged", "TRL 0.20–", SWITCH, IN_PROCESS, False),
    _aside("use_transformers_continuous_batching", "TRL 1.7–", SWITCH, IN_PROCESS, False),
    _aside("transformers_continuous_batching_config", "TRL 1.7–", ANY, IN_PROCESS),
    _aside("ds3_gather_for_generation", "TRL 0.15–", SWITCH, NOT_GATHERED, True),
    _aside("vllm_importance_sampling_correction", "TRL 0.23–", SWITCH, NO_GAP),
    _aside("vllm_importance_sampling_mode", "TRL 0.26–", TEXT, NO_GAP),
    _aside("vllm_importance_sampling_cap", "TRL 0.23–", NUMBER, NO_GAP),
    _aside("vllm_importance_sampling_clip_max", "TRL 1.6–", NUMBER, NO_GAP),
    _aside("vllm_importance_sampling_clip_min", "TRL 1.6–", NUMBER, NO_GAP),
    _refused(
        "vllm_guided_decoding_regex",
        "TRL 0.16–0.27",
        TEXT,
        "completions cannot be forced into a pattern here; reward the format instead (`dunwu.rewards.formats`)",
    ),
    _refused(
        "vllm_structured_outputs_regex",
        "TRL 0.27–",
        TEXT,
        "completions cannot be forced into a pattern here; reward the format instead (`dunwu.rewards.formats`)",
    ),
)

_LOSS: Final = (
    _aside("sapo_temperature_neg", "TRL 0.26–", NUMBER, SAPO, 1.05),
    _aside("sapo_temperature_pos", "TRL 0.26–", NUMBER, SAPO, 1.0),
    _aside("vespo_k_pos", "TRL 1.0–", NUMBER, VESPO, 2.0),
    _aside("vespo_lambda_pos", "TRL 1.0–", NUMBER, VESPO, 3.0),
    _aside("vespo_k_neg", "TRL 1.0–", NUMBER, VESPO, 3.0),
    _aside("vespo_lambda_neg", "TRL 1.0–", NUMBER, VESPO, 2.0),
    _refused(
        "top_entropy_quantile", "TRL 0.20–", NUMBER, "training on high-entropy tokens alone is not here; use 1.0", 1.0
    ),
    _refused("entropy_coef", "TRL 1.8–", NUMBER, "an entropy bonus is not here; entropy is logged; use 0.0", 0.0),
    _refused("use_adaptive_entropy", "TRL 1.8–", SWITCH, "an entropy bonus is not here; entropy is logged", False),
    _aside("entropy_coef_min", "TRL 1.8–", NUMBER, ENTROPY, 0.0),
    _aside("entropy_coef_max", "TRL 1.8–", NUMBER, ENTROPY, 1.0),
    _aside("entropy_coef_delta", "TRL 1.8–", NUMBER, ENTROPY, 0.005),
    _aside("entropy_target", "TRL 1.8–", NUMBER, ENTROPY, 0.2),
    _refused(
        "off_policy_mask_threshold",
        "TRL 0.27–",
        NUMBER,
        "masking of off-policy sequences is not here; `delta` bounds their ratio",
    ),
    _refused(
        "multi_objective_aggregation",
        "TRL 0.27–",
        TEXT,
        "rewards are summed, then normalised, as TRL's default does; weigh them by `reward_weights`",
        "sum_then_normalize",
    ),
    _aside(
        "router_aux_loss_coef", "TRL 1.7–", NUMBER, "no balance loss is added for mixtures of experts", 0.0, 0.001
    ),
    _aside("use_liger_loss", "TRL 0.17–0.27", SWITCH, "the loss never holds all logits anyway", False),
    _aside("cast_lm_head_to_fp32", "TRL 0.25–", SWITCH, "log-probabilities are float32 anyway", False),
    _aside("generation_batch_size", "TRL 0.18–", WHOLE, ANEW),
    _aside("steps_per_generation", "TRL 0.18–", WHOLE, ANEW),
    _refused(
        "max_tool_calling_iterations", "TRL 0.27–", WHOLE, "tools are not here: rewards see one answer a prompt"
    ),
)

_SAID: Final = (
    _aside("pad_to_multiple_of", "TRL 1.0–", ANY, NO_PADDING, "auto"),
    _aside("log_multimodal", "TRL 1.9–", SWITCH, "there are no images here", True, False),
    _aside("log_unique_prompts", "TRL 0.26–", SWITCH, "tables hold every rollout, each with its prompt", False),
    _aside("wandb_log_unique_prompts", "TRL 0.17–0.26", SWITCH, "tables hold every rollout", False, until="0.26"),
    _aside("log_completions_hub_repo", "TRL 0.28–", TEXT, "nothing is uploaded; completions go to trackers"),
    Old(
        name="trust_remote_code",
        when="TRL 1.7–",
        kind=SWITCH,
        now="`model_init_kwargs={'trust_remote_code': True}`",
        act=model_option("trust_remote_code"),
        quiet=(False,),
    ),
)

_TRANSFORMERS_4: Final = (
    _became("warmup_ratio", "transformers 4–5.0", NUMBER, "warmup_steps", 0.0),
    Old(
        name="evaluation_strategy",
        when="transformers 4–4.50",
        kind=TEXT,
        now="`eval_strategy`",
        act=evaluation,
        quiet=(),
    ),
    Old(name="no_cuda", when="transformers 4", kind=SWITCH, now="`use_cpu`", act=renamed("use_cpu"), quiet=(False,)),
    Old(
        name="logging_dir",
        when="transformers 4–5.0",
        kind=TEXT,
        now="TensorBoard's folder (`TENSORBOARD_LOGGING_DIR`)",
        act=logging_folder,
    ),
    _became("per_gpu_train_batch_size", "transformers 4", WHOLE, "per_device_train_batch_size"),
    _became("per_gpu_eval_batch_size", "transformers 4", WHOLE, "per_device_eval_batch_size"),
    Old(
        name="adafactor",
        when="transformers 4",
        kind=SWITCH,
        now="`optim='adafactor'`",
        act=adafactor,
        quiet=(False,),
    ),
    _became("torchdynamo", "transformers 4", TEXT, "torch_compile_backend"),
    _became("push_to_hub_model_id", "transformers 4", TEXT, "hub_model_id"),
    Old(
        name="push_to_hub_token",
        when="transformers 4",
        kind=TEXT,
        now="taken out of the options and put into HF_TOKEN for this process, with a warning",
        act=hub_key,
    ),
    Old(
        name="save_safetensors",
        when="transformers 4",
        kind=SWITCH,
        now="weights are always saved as safetensors",
        act=None,
        quiet=(True,),
    ),
    _aside(
        "overwrite_output_dir",
        "transformers 4",
        SWITCH,
        "nothing in the folder is deleted; `resume_from_checkpoint` decides",
        False,
    ),
    _aside("group_by_length", "transformers 4–5.0", SWITCH, NO_PADDING, False),
    _aside("half_precision_backend", "transformers 4", TEXT, GONE, "auto"),
    _aside("fp16_backend", "transformers 4", TEXT, GONE, "auto"),
    _aside("fp16_opt_level", "transformers 4", TEXT, GONE, "O1"),
    _aside("use_mps_device", "transformers 4", SWITCH, "an Apple GPU is used where there is one", False),
    _aside("use_ipex", "transformers 4", SWITCH, GONE, False),
    _aside("jit_mode_eval", "transformers 4", SWITCH, GONE, False),
    _aside("tpu_num_cores", "transformers 4", WHOLE, GONE),
    _aside("tpu_metrics_debug", "transformers 4", SWITCH, GONE, False),
    _aside("past_index", "transformers 4", WHOLE, GONE, -1),
    _aside("mp_parameters", "transformers 4", TEXT, GONE, ""),
    _aside("ray_scope", "transformers 4", TEXT, GONE, "last"),
    _aside("use_legacy_prediction_loop", "transformers 4", SWITCH, GONE, False),
    _aside("include_inputs_for_metrics", "transformers 4", SWITCH, GONE, False),
    _aside("include_tokens_per_second", "transformers 4", SWITCH, "`step_time` and tokens are logged", False),
    _aside("dispatch_batches", "transformers 4", SWITCH, GONE),
    _aside("split_batches", "transformers 4", SWITCH, GONE),
    _aside("tp_size", "transformers 4.50", WHOLE, GONE, 0, 1),
    _aside("push_to_hub_organization", "transformers 4", TEXT, "write it into `hub_model_id` as ORG/NAME"),
    _refused("fsdp_min_num_params", "transformers 4", WHOLE, "write `min_num_params` into `fsdp_config`", 0),
    _refused(
        "fsdp_transformer_layer_cls_to_wrap",
        "transformers 4",
        TEXT,
        "write `transformer_layer_cls_to_wrap` into `fsdp_config`",
    ),
)

_RENAMED_NOW: Final = (
    Old(
        name="use_liger_kernel",
        when="transformers 4.45–",
        kind=SWITCH,
        now="the loss never holds all logits anyway",
        act=inverse("use_liger_kernel"),
        quiet=(False,),
    ),
    Old(
        name="remove_unused_columns",
        when="transformers 4–",
        kind=SWITCH,
        now="kept False: every column goes to the rewards",
        act=inverse("remove_unused_columns"),
        quiet=(False,),
    ),
    Old(
        name="hub_token",
        when="transformers 4–",
        kind=TEXT,
        now="taken out of the options and put into HF_TOKEN for this process, with a warning",
        act=hub_key,
    ),
    Old(
        name="deepspeed",
        when="transformers 4–",
        kind=ANY,
        now="used where DeepSpeed is installed; otherwise set aside, and said",
        act=deepspeed,
    ),
    Old(
        name="ddp_backend",
        when="transformers 4–",
        kind=TEXT,
        now="the same; without a GPU `nccl` is gloo, and said; one process needs none",
        act=backend,
    ),
)
"""Arguments that `dunwu.GRPOConfig` has too, and that an old script may give in a way which no longer works."""

OLD: Final[Mapping[str, Old]] = {row.name: row for row in (*_VLLM, *_LOSS, *_SAID, *_TRANSFORMERS_4, *_RENAMED_NOW)}
"""Name to row."""
