"""The algorithms by name: each is a product of choices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["PRESETS"]

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
    "sapo": {
        "scale_rewards": "group",
        "importance_sampling_level": "token",
        "policy_loss": "sapo",
        "loss_aggregation": "seq_mean",
    },
    # As its paper has it; TRL leaves the level at "token", with a warning.
    "luspo": {
        "scale_rewards": "group",
        "importance_sampling_level": "sequence",
        "policy_loss": "clip",
        "loss_aggregation": "seq_sum",
    },
    "vespo": {
        "scale_rewards": "group",
        "importance_sampling_level": "token",
        "policy_loss": "vespo",
        "loss_aggregation": "token_mean",
    },
    "reinforce": {
        "scale_rewards": "none",
        "importance_sampling_level": "none",
        "policy_loss": "logp",
        "loss_aggregation": "token_mean",
    },
}
"""`loss_type` to the choices it stands for: the fields of `algorithm.AlgorithmConfig`."""
