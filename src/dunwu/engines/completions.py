"""Where completions end, and what they are once they have: shared by the engines.

What it is: end tokens, and tensors turned into `Completion` records. What it is not: sampling.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from dunwu.core.records import Completion, FinishReason
from dunwu.engines.fast.slots import Rows

__all__ = ["completed", "end_token_ids", "records_of"]


def end_token_ids(model: nn.Module, tokenizer: Any) -> list[int]:
    """Every token that ends a completion: the tokenizer's, and those of the model's generation config (often two)."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in [*listed, tokenizer.eos_token_id] if i is not None})


def completed(
    tokenizer: Any, rows: Rows, end_ids: Collection[int], stopped: Collection[int], n: int
) -> list[list[Completion]]:
    """The completions of all rows, `n` a prompt; `stopped` are those that a stop string ended."""
    return records_of(
        tokenizer, rows.tokens_RN.tolist(), rows.logps_RN.tolist(), rows.length_R.tolist(), end_ids, stopped, n
    )


def records_of(
    tokenizer: Any,
    tokens: list[list[int]],
    logps: list[list[float]],
    lengths: list[int],
    end_ids: Collection[int],
    stopped: Collection[int],
    n: int,
) -> list[list[Completion]]:
    """Records of rows of which the first `lengths` tokens count.

    Ids that the tokenizer does not know (a model's vocabulary is often padded) decode to nothing.
    """
    ids = [row[:length] for row, length in zip(tokens, lengths, strict=True)]
    known = len(tokenizer)
    texts = tokenizer.batch_decode([[i for i in row if i < known] for row in ids], skip_special_tokens=True)
    flat = []
    for row, text in enumerate(texts):
        finish: FinishReason = "stop" if ids[row][-1] in end_ids or row in stopped else "length"
        flat.append(
            Completion(
                ids=tuple(ids[row]), sampler_logps=tuple(logps[row][: lengths[row]]), finish_reason=finish, text=text
            )
        )
    return [flat[start : start + n] for start in range(0, len(flat), n)]
