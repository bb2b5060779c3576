"""Options of TRL and of earlier transformers that `GRPOConfig` does not have.

Here they are names only, for the sentence that an unknown option gets; what became of each is `dunwu.trl.arguments`.
"""

from __future__ import annotations

from typing import Final

__all__ = ["FOREIGN_OPTIONS"]

_NAMES: Final = """
    adafactor cache_implementation cast_lm_head_to_fp32 dispatch_batches ds3_gather_for_generation entropy_coef
    entropy_coef_delta entropy_coef_max entropy_coef_min entropy_target evaluation_strategy fp16_backend
    fp16_opt_level fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap generation_batch_size group_by_length
    half_precision_backend include_inputs_for_metrics include_tokens_per_second jit_mode_eval
    log_completions_hub_repo log_multimodal log_unique_prompts logging_dir max_tool_calling_iterations
    mp_parameters multi_objective_aggregation no_cuda overwrite_output_dir pad_to_multiple_of past_index
    per_gpu_eval_batch_size per_gpu_train_batch_size push_to_hub_model_id push_to_hub_organization
    push_to_hub_token ray_scope router_aux_loss_coef sapo_temperature_neg sapo_temperature_pos save_safetensors
    split_batches steps_per_generation top_entropy_quantile torchdynamo tp_size tpu_metrics_debug tpu_num_cores
    transformers_continuous_batching_config trust_remote_code use_adaptive_entropy use_ipex
    use_legacy_prediction_loop use_liger_loss use_mps_device use_transformers_continuous_batching
    use_transformers_paged use_vllm vespo_k_neg vespo_k_pos vespo_lambda_neg vespo_lambda_pos vllm_device
    vllm_dtype vllm_enable_prefix_caching vllm_enable_sleep_mode vllm_gpu_memory_utilization vllm_group_port
    vllm_guided_decoding_regex vllm_importance_sampling_cap vllm_importance_sampling_clip_max
    vllm_importance_sampling_clip_min vllm_importance_sampling_correction vllm_importance_sampling_mode
    vllm_max_model_len vllm_max_model_length vllm_mode vllm_model_impl vllm_server_base_url vllm_server_host
    vllm_server_port vllm_server_timeout vllm_structured_outputs_regex vllm_tensor_parallel_size
    wandb_log_unique_prompts warmup_ratio
"""

_REMEDY: Final = (
    "from TRL or an earlier transformers. Run the script by `dunwu run script.py`, or put `import dunwu.compat` "
    "before its imports and take GRPOConfig from trl; docs/trl_arguments.md says what becomes of each"
)

FOREIGN_OPTIONS: Final = dict.fromkeys(_NAMES.split(), _REMEDY)
"""Name to what to do about it."""
