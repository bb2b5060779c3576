"""The safety net under every run: is the policy that is trained the one that was sampled?"""

from __future__ import annotations

from typing import Final

from dunwu._utils.logging import get_logger
from dunwu.config import GRPOConfig
from dunwu.errors import EngineError
from dunwu.rollout.collector import sampling_params

__all__ = ["SAMPLER_GAP", "check_sampler_gap"]

SAMPLER_GAP: Final = "sampling/sampling_logp_difference/mean"
"""Metric: mean difference of the sampler's and the policy's log-probabilities of the sampled tokens (nats)."""
_STOP: Final = 0.1
"""Rounding stays under this: 1e-6 in float32, 0.01 to 0.03 in bfloat16. Dropout, another adapter, stale or missing
weights and virtual tokens were all above."""
_WARN: Final = 0.01
"""In float32 throughout."""


def check_sampler_gap(gap: float, args: GRPOConfig, *, is_foreign: bool = False) -> None:
    """Stop a run whose first step shows that its completions were sampled from another policy.

    Nothing is checked where the sampling itself is cut (top-k, top-p, min-p, a repetition penalty), for the
    probabilities are then of another distribution on purpose. It is a warning where a gap is asked for: by dropout in
    training, by an engine of the user's, or by an `importance_correction`.

    Args:
        gap: the metric `SAMPLER_GAP` of the first update of a sampling.
        args: the run's options.
        is_foreign: whether the engine is none of ours.

    Raises:
        EngineError: with the gap, its usual causes, and what to do.
    """
    if sampling_params(args, step=0).has_warpers or gap < _WARN:
        return
    what = (
        f"the sampler's and the policy's log-probabilities of the same tokens differ by {gap:.2g} nats a token: the "
        "completions were sampled from another model than the one that is trained"
    )
    is_wanted = is_foreign or not args.disable_dropout or args.importance_correction != "none"
    if gap >= _STOP and not is_wanted:
        raise EngineError(
            f"{what}. Usual causes: dropout or noise in the model, an engine with stale weights, an adapter that the "
            "engine does not see. Try engine='transformers', or weigh it: importance_correction='truncate'"
        )
    if not (args.bf16 or args.fp16) or gap >= _STOP:
        get_logger().warning(f"{what}; in float32 it should be below 1e-5. See metrics under {SAMPLER_GAP}")
