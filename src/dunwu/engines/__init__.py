"""Engines: prompts in, completions with the log-probabilities they were drawn with out.

`FastEngine` runs the families it knows on the trainer's own weights; `GenerateEngine` runs any causal model of
transformers. `best_engine` chooses. A new engine is any object that fits `dunwu.core.records.Engine`.
"""

from typing import Any

import torch

from dunwu._utils.logging import voice
from dunwu.engines.fast.engine import FastEngine
from dunwu.engines.fast.weights import why_not_readable
from dunwu.engines.sampling import sequence_seed
from dunwu.engines.transformers_engine import GenerateEngine
from dunwu.model.architectures import inner_model, why_not_known

__all__ = ["FastEngine", "GenerateEngine", "best_engine", "sequence_seed"]


def best_engine(
    model: Any,
    tokenizer: Any,
    *,
    kind: str = "auto",
    autocast: torch.dtype | None = None,
    cache_bytes: int | None = None,
) -> FastEngine | GenerateEngine:
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
    if kind == "generate":
        return GenerateEngine(model, tokenizer, autocast=autocast)
    reason = why_not_known(model) or why_not_readable(inner_model(model))
    if reason is not None and kind == "auto":
        voice().info(f"rollouts use the engine 'generate': the fast one does not know this model ({reason})")
        return GenerateEngine(model, tokenizer, autocast=autocast)
    return FastEngine(model, tokenizer, autocast=autocast, cache_bytes=cache_bytes)
