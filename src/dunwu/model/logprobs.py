"""The policy's forward pass: a batch in, log-probabilities of its completion tokens out.

What it is: packed where the architecture is known (no padding, each prompt once), padded where it is not; in both the
model's head answers with log-probabilities instead of logits, so that no full logits ever exist.
What it is not: a second implementation of any model. transformers' modules run, with whatever wraps them: adapters,
gradient checkpointing, DDP, FSDP; hence the head is made to answer inside the model's own forward call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dunwu.core.algorithm import token_entropy, token_logps
from dunwu.core.records import MicroBatch
from dunwu.model.architectures import unwrap_model, why_not_known
from dunwu.model.lm_head import head_logps
from dunwu.model.padding_free import layout_of, packed_attention

__all__ = ["forward_logps", "packed_attention_context", "padded", "padded_logps"]

_Answer = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]

_head_is_last: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def forward_logps(model: Any, batch: MicroBatch, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the batch's completion tokens, and the entropies of their distributions (no gradient).

    Where gradients are computed, call it and the backward pass within `packed_attention_context(model)`.

    Returns:
        (B, C), (B, C) nats; 0 in padding.
    """
    if why_not_known(model) is None:
        with packed_attention_context(model):
            return _packed(model, batch, temperature)
    return padded_logps(model, batch, temperature)


def packed_attention_context(model: Any) -> contextlib.AbstractContextManager[None]:
    """The context of a forward and backward pass: gradient checkpointing runs the attention again in the latter."""
    return packed_attention(model) if why_not_known(model) is None else contextlib.nullcontext()


def padded(batch: MicroBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts padded on the left, completions on the right: ids, attention mask and positions, (B, T) each, int64.

    Masks come from lengths; a position counts from its row's first real token.
    """
    before, after = max(map(len, batch.prompts)), batch.completion_ids_BC.shape[1]
    prompts_PT = torch.tensor([[0] * (before - len(ids)) + list(ids) for ids in batch.prompts])
    real_PT = torch.tensor([[0] * (before - len(ids)) + [1] * len(ids) for ids in batch.prompts])
    index_B = torch.tensor(batch.prompt_index)
    real_BC = (torch.arange(after) < torch.tensor(batch.lengths).unsqueeze(1)).long()
    device = batch.completion_ids_BC.device
    ids_BT = torch.cat([prompts_PT[index_B].to(device), batch.completion_ids_BC], dim=1)
    attention_BT = torch.cat([real_PT[index_B], real_BC], dim=1).to(device)
    return ids_BT, attention_BT, (attention_BT.cumsum(dim=1) - 1).clamp(min=0)


def _packed(model: Any, batch: MicroBatch, temperature: float) -> tuple[Tensor, Tensor]:
    layout = layout_of(batch)

    def answer(head: nn.Module, hidden_1NH: Tensor) -> tuple[Tensor, Tensor]:
        hidden_MH = hidden_1NH[0].index_select(0, layout.source_M)
        return head_logps(head, hidden_MH, layout.target_M, temperature)

    with _answering(unwrap_model(model), answer):
        told: Tensor = model(
            input_ids=layout.ids_N.unsqueeze(0),
            position_ids=layout.positions_N.unsqueeze(0),
            use_cache=False,
            layout=layout,
        ).logits
    # A table of (B, C) with what was said in its places.
    shape = batch.completion_ids_BC.shape
    flat = told.new_zeros(shape.numel(), 2).index_copy(0, layout.place_M, told[0])
    logps_BC, entropy_BC = flat.view(*shape, 2).unbind(-1)
    return logps_BC, entropy_BC.detach()


def padded_logps(model: Any, batch: MicroBatch, temperature: float) -> tuple[Tensor, Tensor]:
    """`forward_logps` over padded rows: for any causal model.

    Position t predicts token t + 1, hence one position more than completions have, and one left off at the end.
    """
    shape = batch.completion_ids_BC.shape
    ids_BT, attention_BT, positions_BT = padded(batch)

    def answer(head: nn.Module, hidden_BTH: Tensor) -> tuple[Tensor, Tensor]:
        hidden_NH = hidden_BTH[:, -shape[1] - 1 : -1].flatten(0, 1)
        return head_logps(head, hidden_NH, batch.completion_ids_BC.flatten(), temperature)

    inner = unwrap_model(model)
    plain = _logits_are_the_heads(inner)
    with _answering(inner, answer) if plain else contextlib.nullcontext():
        told: Tensor = model(
            input_ids=ids_BT,
            attention_mask=attention_BT,
            position_ids=positions_BT,
            use_cache=False,
            logits_to_keep=shape[1] + 1,
        ).logits
    if plain:
        logps_BC, entropy_BC = told[0].view(*shape, 2).unbind(-1)
    else:
        logits_BCV = told[:, -shape[1] - 1 : -1]
        logps_BC = token_logps(logits_BCV, batch.completion_ids_BC, temperature)
        entropy_BC = token_entropy(logits_BCV.detach(), temperature)
    real_BC = (
        torch.arange(shape[1], device=ids_BT.device) < torch.tensor(batch.lengths, device=ids_BT.device)[:, None]
    )
    return torch.where(real_BC, logps_BC, 0.0), torch.where(real_BC, entropy_BC, 0.0).detach()


@contextlib.contextmanager
def _answering(inner: Any, answer: _Answer) -> Iterator[None]:
    """Within it, the head gives (1, tokens, 2) log-probabilities and entropies where it would give logits.

    Only the forward of this one module is replaced, for the time of one call: its hooks run as ever, so that weights
    that a wrapper gathers for a forward pass are there.
    """
    head: nn.Module = inner.get_output_embeddings()
    usual, wrapped = head.forward, head.__dict__.get("forward")  # the latter: where someone's hooks stand before it

    def told(hidden: Tensor) -> Tensor:
        head.forward = usual  # an adapter's head calls itself
        return torch.stack(answer(head, hidden), dim=-1).unsqueeze(0)

    head.forward = told
    try:
        yield
    finally:
        head.__dict__.pop("forward", None)
        if wrapped is not None:
            head.forward = wrapped


def _logits_are_the_heads(inner: nn.Module) -> bool:
    """Whether a model gives its head's output as it is; some scale or cap it. Asked once, with a few tokens."""
    if inner not in _head_is_last:
        _head_is_last[inner] = _ask(inner)
    return _head_is_last[inner]


@torch.no_grad()
def _ask(inner: Any) -> bool:
    head = inner.get_output_embeddings()
    if head is None:
        return False
    seen: list[Tensor] = []
    # Several ids: the padding token's embedding may be zero, and scaled zeros are zeros.
    ids = torch.arange(min(8, head.weight.shape[0]), device=inner.device).unsqueeze(0)
    hook = head.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    try:
        logits = inner(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    finally:
        hook.remove()
    return len(seen) == 1 and seen[0].shape == logits.shape and torch.equal(seen[0], logits)
