"""Where completions end, and the `Completion` records made of what was sampled; shared by the engines."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from dunwu.core.records import Completion, FinishReason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["SampledTokens", "end_token_ids", "make_completions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledTokens:
    """What a call sampled, on the device, `n` completions a prompt.

    Example: `SampledTokens(tokens_RC=torch.tensor([[7, 1], [9, 9]]), logps_RC=torch.zeros(2, 2),
    length_R=torch.tensor([2, 2]), stopped={1})`
    """

    tokens_RC: Tensor
    """Token ids; only the first `length_R` of each completion count."""
    logps_RC: Tensor
    """Their log-probabilities under the distribution that was sampled."""
    length_R: Tensor
    """Tokens of each completion."""
    stopped: Collection[int]
    """Completions that a stop string ended."""


def end_token_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a completion: the tokenizer's, and those of the model's generation config (often two)."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in [*listed, tokenizer.eos_token_id] if i is not None})


def make_completions(
    sampled: SampledTokens, tokenizer: PreTrainedTokenizerBase, end_ids: Collection[int], n: int
) -> list[list[Completion]]:
    """Records of all completions, `n` a prompt.

    Ids that the tokenizer does not know (a model's vocabulary is often padded) decode to nothing.
    """
    # One completion at a time: padding, which may be most of a large call, never becomes Python numbers.
    lengths, tokens, floats = sampled.length_R.tolist(), sampled.tokens_RC.cpu(), sampled.logps_RC.cpu()
    ids: list[list[int]] = [line[:length].tolist() for line, length in zip(tokens, lengths, strict=True)]
    logps: list[list[float]] = [line[:length].tolist() for line, length in zip(floats, lengths, strict=True)]
    known = len(tokenizer)
    texts = tokenizer.batch_decode([[i for i in sequence if i < known] for sequence in ids], skip_special_tokens=True)
    found = []
    for index, text in enumerate(texts):
        reason: FinishReason = "stop" if ids[index][-1] in end_ids or index in sampled.stopped else "length"
        found.append(
            Completion(ids=tuple(ids[index]), sampler_logps=tuple(logps[index]), finish_reason=reason, text=text)
        )
    return [found[start : start + n] for start in range(0, len(found), n)]
