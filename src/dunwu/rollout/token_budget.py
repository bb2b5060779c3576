"""How many tokens a forward and backward pass may hold: found before the first step, halved when memory runs out.

What it is: one number, where it comes from, and the retry of a step that did not fit. A smaller budget cuts a step
into more micro-batches, and no cut changes a step's gradient; so a retried step is the same step.
What it is not: a plan of a run's memory before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from dunwu._utils.logging import get_logger
from dunwu._utils.memory import free_memory
from dunwu.core.records import MicroBatch
from dunwu.model.architectures import unwrap_model, why_not_known
from dunwu.model.lm_head import chunk_rows
from dunwu.model.logprobs import forward_logps
from dunwu.rollout.micro_batches import forward_tokens, split_micro_batch

__all__ = ["TokenBudget", "make_token_budget"]

Result = TypeVar("Result")

_MOST: Final = {"cuda": 16_384}
_MOST_ELSEWHERE: Final = 8192
"""Beyond these, a micro-batch is no faster. On the CPU, 4,096 and 8,192 took the same time; the GPU's is a guess."""
_SHARE: Final = 0.6
"""Of the memory that is free and not owed to gradients and the optimizer."""
_SAMPLE_TOKENS: Final = 256
_MOMENTS: Final = 8
"""Bytes that Adam keeps for a trained weight."""
_CHUNKS_AT_ONCE: Final = 4
"""float32 copies of a chunk of logits that live at a time in the head's backward pass."""


@dataclass
class TokenBudget:
    """The budget of a run, `None` until it is found.

    Example: `TokenBudget(tokens=4096)` as configured; `TokenBudget(tokens=None)` finds it.
    """

    tokens: int | None
    """Tokens a forward pass may compute."""
    temperature: float = 1.0
    """Of the sampling; the measurement runs the step's own forward."""
    shared_prompts: bool = True
    """Whether the forward computes a prompt once for all its completions."""
    ranks: int = 1
    """Processes that share a machine's memory, where that is the CPU's."""

    def settle(self, model: Any, sample: Callable[[int], Sequence[MicroBatch]]) -> int:
        """The budget; measured on a small forward pass where it is not known.

        `sample(tokens)` gives batches of at most so many tokens; the first is run.
        """
        if self.tokens is None:
            batch = sample(_SAMPLE_TOKENS)[0]
            each = activation_bytes(model, batch, self.temperature) / self._computed(batch)
            device = batch.completion_ids_BC.device
            shared = self.ranks if device.type == "cpu" else 1
            free = free_memory(device) // shared - _reserved_bytes(model)
            most = _MOST.get(device.type, _MOST_ELSEWHERE)
            self.tokens = max(_SAMPLE_TOKENS, min(most, int(free * _SHARE / each)))
            get_logger().info(
                f"micro-batches of up to {self.tokens:,} tokens: a token's activations take {each / 1e3:,.0f} kB, "
                f"and {max(free, 0) / 1e9:.1f} GB are free for them (tokens_per_micro_batch sets another number)"
            )
        return self.tokens

    def attempt(
        self,
        batches: list[MicroBatch],
        run: Callable[[list[MicroBatch]], Result],
        *,
        undo: Callable[[], None],
        can_retry: Callable[[], bool],
    ) -> tuple[list[MicroBatch], Result]:
        """`run(batches)`; when memory runs out, `undo()` and again with half the budget, until it fits.

        Returns:
            The batches as they were cut in the end, and the result.

        Raises:
            ValueError: when a single row does not fit, or other processes have already been waiting for this pass.
        """
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

        while True:
            try:
                return batches, run(batches)
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                largest = max(self._computed(batch) for batch in batches)
                if all(len(batch.lengths) == 1 for batch in batches) or not can_retry():
                    raise ValueError(_advice(largest, error)) from error
            # Outside the handler: the exception holds the frames, and they hold the activations.
            undo()
            clear_device_cache(garbage_collection=True)
            self.tokens = max(1, min(self.tokens or largest, largest) // 2)
            batches = [part for batch in batches for part in self._split(batch)]
            get_logger().warning(
                f"out of memory at {largest:,} tokens a micro-batch: the same step again with at most "
                f"{self.tokens:,}, and so from now on; the result is the same"
            )

    def _computed(self, batch: MicroBatch) -> int:
        return forward_tokens(batch, shared_prompts=self.shared_prompts)

    def _split(self, batch: MicroBatch) -> list[MicroBatch]:
        assert self.tokens is not None, "halved just now"
        return split_micro_batch(batch, self.tokens, shared_prompts=self.shared_prompts)


def activation_bytes(model: Any, batch: MicroBatch, temperature: float) -> int:
    """Bytes that a forward pass keeps for its backward pass, weights not counted."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        where = tensor.untyped_storage().data_ptr()
        if where not in weights:
            kept[where] = tensor  # held, so that no later tensor gets the same address
        return tensor

    inner = unwrap_model(model)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = forward_logps(inner, batch, temperature)
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del outputs
    return max(found, 1)


def make_token_budget(model: Any, tokens: int | None, temperature: float, ranks: int) -> TokenBudget:
    """The budget for a model: its forward shares prompts, or pads."""
    shared = why_not_known(model) is None
    return TokenBudget(tokens=tokens, temperature=temperature, shared_prompts=shared, ranks=ranks)


def _reserved_bytes(model: Any) -> int:
    """What the rest of the step still takes: gradients, the optimizer's moments, a few chunks of logits."""
    trained = [p for p in model.parameters() if p.requires_grad]
    weights = sum(p.numel() * (p.element_size() + _MOMENTS) for p in trained)
    vocabulary = unwrap_model(model).config.vocab_size
    chunk = chunk_rows(vocabulary, trained[0].device) * vocabulary * 4 if trained else 0
    return int(weights + _CHUNKS_AT_ONCE * chunk)


def _advice(tokens: int, error: Exception) -> str:
    return (
        f"the training step does not fit into memory: a micro-batch of {tokens:,} tokens failed "
        f"({str(error).splitlines()[0][:200]}). Set gradient_checkpointing, lower max_completion_length or "
        "tokens_per_micro_batch, or train an adapter"
    )
