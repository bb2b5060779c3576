"""What the engines that run the policy in the trainer's process have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from dunwu.core.records import SamplingParams
from dunwu.engines.completions import end_token_ids
from dunwu.engines.stop_strings import StopStrings
from dunwu.errors import EngineError
from dunwu.model.architectures import unwrap_model
from dunwu.model.loading import eval_mode
from dunwu.model.weights import virtual_token_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["InProcessEngine", "check_adapter"]


class InProcessEngine:
    """The policy's device, precision, end tokens, stop strings and sessions.

    Args:
        tokenizer: decodes completions, and names the end token.
        autocast: dtype the trainer computes in over float32 weights; None: the weights' own.
    """

    model: nn.Module
    end_ids: list[int]

    def __init__(self, tokenizer: PreTrainedTokenizerBase, autocast: torch.dtype | None) -> None:
        self.tokenizer = tokenizer
        self.autocast = autocast
        self._stops: dict[tuple[str, ...], StopStrings] = {}
        self._session_model: nn.Module | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def stops(self, sampling: SamplingParams) -> StopStrings | None:
        """The table of a call's stop strings, made once: it decodes the whole vocabulary."""
        if not sampling.stop:
            return None
        if sampling.stop not in self._stops:
            head = unwrap_model(self.model).get_output_embeddings()  # type: ignore[no-untyped-call]
            vocabulary = head.weight.shape[0]
            self._stops[sampling.stop] = StopStrings(self.tokenizer, sampling.stop, vocabulary, self.device)
        return self._stops[sampling.stop]

    @contextmanager
    def session(self) -> Iterator[None]:
        """Dropout off while it lasts; afterwards, memory that training could miss is given back.

        `generate` opens one where none is open, so a session around several calls saves work and changes nothing.
        """
        if self._session_model is self.model:
            yield
            return
        outer, self._session_model = self._session_model, self.model
        try:
            with eval_mode(self.model):
                yield
        finally:
            self._session_model = outer
            if outer is None:
                self._release_memory()

    def _use_model(self, model: nn.Module) -> None:
        """Sample from another model from now on."""
        self.model = model
        self.end_ids = end_token_ids(unwrap_model(model), self.tokenizer)
        self._stops = {}

    def _release_memory(self) -> None:
        """Give back what a session leaves, where training could miss it."""

    def _autocast_context(self) -> AbstractContextManager[object]:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)


def check_adapter(policy: nn.Module) -> None:
    """Refuse adapters under which a model with a cache is another model.

    peft puts the virtual tokens of prompt-learning methods before the input of *every* forward call, and so before
    each single token that is decoded with a cache.

    Raises:
        EngineError: for prompt tuning, p-tuning, prefix tuning and their kin, by name.
    """
    kind = virtual_token_adapter(policy)
    if kind is not None:
        raise EngineError(
            f"an adapter of the kind {kind} puts virtual tokens before every input, and no built-in engine decodes "
            "it correctly: it would sample from another model than the one trained; use LoRA, or train all weights"
        )
