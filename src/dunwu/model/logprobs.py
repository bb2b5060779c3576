"""The policy's forward pass: a micro-batch in, log-probabilities of its completion tokens out.

Padding-free where the architecture is supported, each prompt once; padded elsewhere. In both, the model's head
returns log-probabilities in place of logits, so that all logits never exist at once. transformers' modules run, with
whatever wraps them (adapters, gradient checkpointing, DDP, FSDP): hence the head is replaced inside the model's own
forward call instead of being called after it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dunwu.core.algorithm import token_entropy, token_logps
from dunwu.core.records import MicroBatch
from dunwu.model.architectures import unsupported_reason, unwrap_model
from dunwu.model.layout import layout_of
from dunwu.model.lm_head import head_logps
from dunwu.model.padding_free import packed_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["forward_logps", "packed_attention_context", "padded", "padded_logps"]

_HeadLogps: TypeAlias = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]
"""(head, hidden states) → log-probabilities and entropies, (M,) each."""

_replaced: ContextVar[tuple[nn.Module, Callable[[Tensor], Tensor], _HeadLogps]] = ContextVar("replaced head")
_raw_logits_cache: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def forward_logps(model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the batch's completion tokens at its temperature, and the distributions' entropies.

    Only the log-probabilities have a gradient. Where it is computed, call this and the backward pass within
    `packed_attention_context(model)`.

    Returns:
        (B, C), (B, C) nats; 0 in padding.
    """
    if unsupported_reason(model) is None:
        with packed_attention_context(model):
            return _packed_logps(model, batch)
    return padded_logps(model, batch)


def packed_attention_context(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """The context of a forward and backward pass: gradient checkpointing runs the attention again in the latter."""
    return packed_attention(model) if unsupported_reason(model) is None else contextlib.nullcontext()


def padded(batch: MicroBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts padded on the left, completions on the right: ids, attention mask and positions, (B, T) each, int64.

    Masks come from lengths; a position counts from its row's first real token.
    """
    before, after = max(map(len, batch.prompts)), batch.completion_ids_BC.shape[1]
    prompts_PL = torch.tensor([[0] * (before - len(ids)) + list(ids) for ids in batch.prompts])
    real_PL = torch.tensor([[0] * (before - len(ids)) + [1] * len(ids) for ids in batch.prompts])
    index_B = torch.tensor(batch.prompt_index)
    real_BC = (torch.arange(after) < torch.tensor(batch.lengths).unsqueeze(1)).long()
    device = batch.completion_ids_BC.device
    ids_BT = torch.cat([prompts_PL[index_B].to(device), batch.completion_ids_BC], dim=1)
    attention_BT = torch.cat([real_PL[index_B], real_BC], dim=1).to(device)
    return ids_BT, attention_BT, (attention_BT.cumsum(dim=1) - 1).clamp(min=0)


def _packed_logps(model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    layout = layout_of(batch)

    def logps(head: nn.Module, hidden_1NH: Tensor) -> tuple[Tensor, Tensor]:
        hidden_MH = hidden_1NH[0].index_select(0, layout.source_M)
        return head_logps(head, hidden_MH, layout.target_M, batch.temperature)

    with _head_returns_logprobs(model, logps):
        output_1M2: Tensor = model(
            input_ids=layout.ids_N.unsqueeze(0),
            position_ids=layout.positions_N.unsqueeze(0),
            use_cache=False,
            layout=layout,
        ).logits
    shape = batch.completion_ids_BC.shape
    flat = output_1M2.new_zeros(shape.numel(), 2).index_copy(0, layout.place_M, output_1M2[0])
    logps_BC, entropy_BC = flat.view(*shape, 2).unbind(-1)
    return logps_BC, entropy_BC.detach()


def padded_logps(model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """`forward_logps` over padded rows: for any causal model.

    Position t predicts token t + 1, hence one position more than completions have, and one left off at the end.
    """
    shape = batch.completion_ids_BC.shape
    ids_BT, attention_BT, positions_BT = padded(batch)

    def logps(head: nn.Module, hidden_BTH: Tensor) -> tuple[Tensor, Tensor]:
        hidden_MH = hidden_BTH[:, -shape[1] - 1 : -1].flatten(0, 1)
        return head_logps(head, hidden_MH, batch.completion_ids_BC.flatten(), batch.temperature)

    raw = _returns_raw_logits(model)
    with _head_returns_logprobs(model, logps) if raw else contextlib.nullcontext():
        output: Tensor = model(
            input_ids=ids_BT,
            attention_mask=attention_BT,
            position_ids=positions_BT,
            use_cache=False,
            logits_to_keep=shape[1] + 1,
        ).logits
    if raw:
        logps_BC, entropy_BC = output[0].view(*shape, 2).unbind(-1)
    else:
        logits_BCV = output[:, -shape[1] - 1 : -1]
        logps_BC = token_logps(logits_BCV, batch.completion_ids_BC, batch.temperature)
        entropy_BC = token_entropy(logits_BCV.detach(), batch.temperature)
    real_BC = (
        torch.arange(shape[1], device=ids_BT.device) < torch.tensor(batch.lengths, device=ids_BT.device)[:, None]
    )
    return torch.where(real_BC, logps_BC, 0.0), torch.where(real_BC, entropy_BC, 0.0).detach()


@contextlib.contextmanager
def _head_returns_logprobs(model: nn.Module, logps: _HeadLogps) -> Iterator[None]:
    """Within it, the head returns (1, tokens, 2) log-probabilities and entropies in place of logits.

    Only the forward of this one module is replaced, for the time of one call: its hooks run as ever, so that weights
    that a wrapper gathers for a forward pass are there.
    """
    head: nn.Module = unwrap_model(model).get_output_embeddings()  # type: ignore[no-untyped-call]
    wrapped = head.__dict__.get("forward")  # where someone's hooks stand before it
    outer = _replaced.set((head, head.forward, logps))
    head.forward = _replacement()
    try:
        yield
    finally:
        _replaced.reset(outer)
        head.__dict__.pop("forward", None)
        if wrapped is not None:
            head.forward = wrapped


@functools.cache
def _replacement() -> Callable[[Tensor], Tensor]:
    """The forward of a replaced head: one object for all, because torch.compile starts anew for each new one."""

    def forward(hidden: Tensor) -> Tensor:
        head, usual, logps = _replaced.get()
        head.forward = usual  # an adapter's head calls itself
        return torch.stack(logps(head, hidden), dim=-1).unsqueeze(0)

    function: Callable[[Tensor], Tensor] = torch.compiler.disable(forward)
    return function


def _returns_raw_logits(model: nn.Module) -> bool:
    """Whether a model returns its head's output as it is; some scale or cap it. Probed once, with a few tokens."""
    inner = unwrap_model(model)
    if inner not in _raw_logits_cache:
        _raw_logits_cache[inner] = _probe_head(inner)
    return _raw_logits_cache[inner]


@torch.no_grad()
def _probe_head(inner: PreTrainedModel) -> bool:
    head = inner.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None:
        return False
    outputs: list[Tensor] = []
    # Several ids: the padding token's embedding may be zero, and scaled zeros are zeros.
    ids = torch.arange(min(8, head.weight.shape[0]), device=inner.device).unsqueeze(0)
    hook = head.register_forward_hook(lambda module, args, output: outputs.append(output.clone()))
    try:
        logits = inner(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    finally:
        hook.remove()
    return len(outputs) == 1 and outputs[0].shape == logits.shape and torch.equal(outputs[0], logits)
