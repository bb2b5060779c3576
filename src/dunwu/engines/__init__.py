"""Engines: prompts in, completions with the log-probabilities they were drawn with out.

`FastEngine` runs the families it knows on the trainer's own weights; `TransformersEngine` runs any causal model of
transformers. `make_engine` chooses. A new engine is any object that fits `dunwu.core.records.Engine`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
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
    kv_cache_bytes: int | None = None,
    options: Any = None,
) -> FastEngine | TransformersEngine:
    """The fast engine where it knows the model, else `generate`, and it says so.

    Args:
        model: a causal language model, wrapped or not.
        tokenizer: its tokenizer.
        kind: `auto`, or one of `fast` and `generate`.
        autocast: dtype the trainer computes in over float32 weights.
        kv_cache_bytes: most memory for keys and values.

    Raises:
        ValueError: for `fast` with a model it does not know.
    """
    if kind == "transformers":
        return TransformersEngine(model, tokenizer, autocast=autocast)
    reason = why_not_known(model) or why_not_readable(unwrap_model(model))
    if reason is not None and kind == "auto":
        get_logger().info(f"rollouts use the engine 'transformers': the fast one does not know this model ({reason})")
        return TransformersEngine(model, tokenizer, autocast=autocast)
    return FastEngine(model, tokenizer, autocast=autocast, cache_bytes=kv_cache_bytes)


@contextmanager
def ready(engine: Any, policy: Any = None, *, version: int | None = None, force: bool = False) -> Iterator[Any]:
    """TEMPORARY until the engines branch is merged."""
    if policy is not None:
        engine.sync_weights(policy, version=version or 0)
    with engine.session():
        yield engine
