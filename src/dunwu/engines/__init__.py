"""Engines: prompts in, completions with the log-probabilities they were drawn with out.

`FastEngine` runs the families it knows on the trainer's own weights; `TransformersEngine` runs any causal model of
transformers. `make_engine` chooses. A new engine is any object that fits `dunwu.core.records.Engine`.
"""

from typing import Any

import torch

from dunwu._utils.logging import get_logger
from dunwu.engines.fast.engine import FastEngine
from dunwu.engines.fast.weights import why_not_readable
from dunwu.engines.sampling import sequence_seed
from dunwu.engines.transformers_engine import TransformersEngine
from dunwu.model.architectures import unwrap_model, why_not_known

__all__ = ["FastEngine", "TransformersEngine", "make_engine", "sequence_seed"]


def make_engine(
    model: Any,
    tokenizer: Any,
    *,
    kind: str = "auto",
    autocast: torch.dtype | None = None,
    cache_bytes: int | None = None,
) -> FastEngine | TransformersEngine:
    """The fast engine where it knows the model, else `generate`, and it says so.

    Args:
        model: a causal language model, wrapped or not.
        tokenizer: its tokenizer.
        kind: `auto`, or one of `fast` and `generate`.
        autocast: dtype the trainer computes in over float32 weights.
        cache_bytes: most memory for keys and values.

    Raises:
        ValueError: for `fast` with a model it does not know.
    """
    if kind == "transformers":
        return TransformersEngine(model, tokenizer, autocast=autocast)
    reason = why_not_known(model) or why_not_readable(unwrap_model(model))
    if reason is not None and kind == "auto":
        get_logger().info(f"rollouts use the engine 'transformers': the fast one does not know this model ({reason})")
        return TransformersEngine(model, tokenizer, autocast=autocast)
    return FastEngine(model, tokenizer, autocast=autocast, cache_bytes=cache_bytes)
