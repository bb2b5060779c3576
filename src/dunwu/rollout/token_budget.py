"""How many tokens a forward and backward pass may compute: measured at the start, halved when memory runs out.

A smaller budget cuts a step into more micro-batches, and no cut changes a step's gradient; so a retried step is the
same step.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dunwu._utils.logging import get_logger
from dunwu._utils.memory import free_memory
from dunwu.core.records import MicroBatch
from dunwu.errors import OutOfMemoryError
from dunwu.model.architectures import unsupported_reason, unwrap_model, unwrap_parallel
from dunwu.model.lm_head import chunk_rows
from dunwu.model.logprobs import forward_logps, packed_attention_context
from dunwu.rollout.micro_batches import forward_tokens, split_micro_batch

__all__ = ["TokenBudget", "activation_bytes", "make_token_budget"]

Result = TypeVar("Result")
_Kwargs: TypeAlias = Mapping[str, object] | None

_MOST: Final = {"cuda": 16_384}
_MOST_ELSEWHERE: Final = 8192
"""Beyond these, a micro-batch is no faster. On the CPU, 4,096 and 8,192 took the same time; the GPU's is a guess."""
_SHARE: Final = 0.6
"""Of the memory that is free and not reserved for gradients and the optimizer."""
_SAMPLE_TOKENS: Final = 256
_MOMENTS: Final = 8
"""Bytes that Adam keeps for a trained weight."""
_CHUNKS_AT_ONCE: Final = 4
"""float32 copies of a chunk of logits that exist at a time in the head's backward pass."""


@dataclass
class TokenBudget:
    """The budget of a run, `None` until it is measured.

    Example: `TokenBudget(tokens=4096)` as configured; `TokenBudget(tokens=None)` measures it.
    """

    tokens: int | None
    """Tokens a forward pass may compute."""
    shared_prompts: bool = True
    """Whether the forward computes a prompt once for all its completions."""
    ranks: int = 1
    """Processes that share a machine's memory, where that is the CPU's."""

    def measure(self, model: nn.Module, sample: Callable[[int], Sequence[MicroBatch]]) -> int:
        """The budget; measured on two small forward passes, in training mode, where it is not known.

        `sample(tokens)` returns micro-batches of at most so many tokens; the first is run, whole and halved.
        """
        if self.tokens is None:
            batch = sample(_SAMPLE_TOKENS)[0]
            per_token, constant = self._activation_cost(model, batch)
            device = batch.completion_ids_BC.device
            shared = self.ranks if device.type == "cpu" else 1
            free = free_memory(device) // shared - _reserved_bytes(model) - constant
            most = _MOST.get(device.type, _MOST_ELSEWHERE)
            self.tokens = max(_SAMPLE_TOKENS, min(most, int(free * _SHARE / per_token)))
            get_logger().debug(
                f"micro-batches of up to {self.tokens:,} tokens: a token's activations take {per_token / 1e3:,.0f} "
                f"kB, and {max(free, 0) / 1e9:.1f} GB are free for them (tokens_per_micro_batch sets another number)"
            )
        return self.tokens

    def run_with_oom_retry(
        self,
        batches: list[MicroBatch],
        run: Callable[[list[MicroBatch]], Result],
        *,
        can_retry: Callable[[], bool] = lambda: True,
    ) -> tuple[list[MicroBatch], Result]:
        """`run(batches)`; when memory runs out, again with half the budget, until it fits.

        `run` starts from scratch each time it is called: it clears what a failed call has left behind, such as
        gradients. `can_retry` is asked after a failure.

        Returns:
            The micro-batches as they were cut in the end, and the result.

        Raises:
            OutOfMemoryError: when a single row does not fit, or other processes are already waiting in this pass.
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
                    raise OutOfMemoryError(_advice(largest, error)) from error
            # Outside the handler: the exception refers to the frames, and they refer to the activations.
            clear_device_cache(garbage_collection=True)
            self.tokens = max(1, min(self.tokens or largest, largest) // 2)
            batches = [part for batch in batches for part in self._split(batch)]
            get_logger().warning(
                f"out of memory at {largest:,} tokens a micro-batch: repeating the step with at most "
                f"{self.tokens:,}, which stays the limit; the result is the same"
            )

    def _activation_cost(self, model: nn.Module, batch: MicroBatch) -> tuple[float, int]:
        """(bytes a token, bytes that do not depend on the tokens): the line through a batch and its half.

        Copies of weights, which autocast makes, are as large in both.
        """
        half = _halved(batch)
        tokens, fewer = self._computed(batch), self._computed(half)
        most = activation_bytes(model, batch)
        if tokens == fewer:
            return most / tokens, 0
        per_token = max(1.0, (most - activation_bytes(model, half)) / (tokens - fewer))
        return per_token, max(0, int(most - per_token * tokens))

    def _computed(self, batch: MicroBatch) -> int:
        return forward_tokens(batch, shared_prompts=self.shared_prompts)

    def _split(self, batch: MicroBatch) -> list[MicroBatch]:
        assert self.tokens is not None, "halved just now"
        return split_micro_batch(batch, self.tokens, shared_prompts=self.shared_prompts)


def activation_bytes(model: nn.Module, batch: MicroBatch) -> int:
    """Bytes that a forward pass in training mode keeps for its backward pass, weights not counted.

    With gradient checkpointing these are each layer's inputs, and what one layer computes again in the backward pass.
    """
    plain = unwrap_parallel(model)
    saved = _forward_bytes(plain, batch, training=True)
    if any(getattr(module, "gradient_checkpointing", False) for module in plain.modules()):
        layers = int(getattr(unwrap_model(model).config, "num_hidden_layers", 1))
        saved += _forward_bytes(plain, batch, training=False) // max(1, layers)
    return max(1, saved)


def make_token_budget(model: nn.Module, tokens: int | None, ranks: int) -> TokenBudget:
    """The budget for a model: its forward shares prompts, or pads."""
    return TokenBudget(tokens=tokens, shared_prompts=unsupported_reason(model) is None, ranks=ranks)


class _LiveMemory(TorchDispatchMode):
    """Counts the bytes of tensors that operations have made and that are still there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self._made: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: tuple[object, ...] = (), kwargs: _Kwargs = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        given = {_storage_of(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (key := _storage_of(leaf)) not in given | self._made:
                self._made.add(key)
                storage = leaf.untyped_storage()
                self.bytes += storage.nbytes()
                weakref.finalize(storage, self._forget, key, storage.nbytes())
        return result

    def _forget(self, key: int, size: int) -> None:
        self._made.discard(key)
        self.bytes -= size


def _storage_of(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _forward_bytes(model: nn.Module, batch: MicroBatch, *, training: bool) -> int:
    """Bytes that are there after a forward pass and were not before, its layout included."""
    batch = replace(batch, completion_ids_BC=batch.completion_ids_BC.clone())
    was_training = model.training
    torch.clear_autocast_cache()  # or only the first pass would pay for the weights' copies
    try:
        model.train(training)
        with torch.random.fork_rng(_cuda_devices(batch)), packed_attention_context(model), _LiveMemory() as memory:
            outputs = forward_logps(model, batch)
            made: int = memory.bytes
        del outputs
    finally:
        model.train(was_training)
    return made


def _cuda_devices(batch: MicroBatch) -> list[torch.device]:
    device = batch.completion_ids_BC.device
    return [device] if device.type == "cuda" else []


def _halved(batch: MicroBatch) -> MicroBatch:
    """The first half of every prompt and completion, rounded up."""
    lengths = tuple((length + 1) // 2 for length in batch.lengths)
    width = max(lengths)
    return replace(
        batch,
        prompts=tuple(ids[: (len(ids) + 1) // 2] for ids in batch.prompts),
        lengths=lengths,
        completion_ids_BC=batch.completion_ids_BC[:, :width],
    )


def _reserved_bytes(model: nn.Module) -> int:
    """What the rest of the step still takes: gradients, the optimizer's moments, a few chunks of logits."""
    trained = [p for p in model.parameters() if p.requires_grad]
    weights = sum(p.numel() * (p.element_size() + _MOMENTS) for p in trained)
    vocabulary = int(unwrap_model(model).config.vocab_size)
    chunk = chunk_rows(vocabulary, trained[0].device) * vocabulary * 4 if trained else 0
    return int(weights + _CHUNKS_AT_ONCE * chunk)


def _advice(tokens: int, error: Exception) -> str:
    return (
        f"the training step does not fit into memory: a micro-batch of {tokens:,} tokens failed "
        f"({str(error).splitlines()[0][:200]}). Set gradient_checkpointing, lower max_completion_length or "
        "tokens_per_micro_batch, or train an adapter"
    )
