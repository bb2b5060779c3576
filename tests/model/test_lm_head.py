"""The head: log-probabilities, entropies and gradients through chunks are those of all logits at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dunwu.model import lm_head as head_module
from dunwu.model.lm_head import head_logps, linear_logps

HIDDEN, WORDS = 8, 50
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}


class Adapted(nn.Linear):
    """A head with a low-rank addition: a Linear by its type, and not by what it computes."""

    def __init__(self, hidden: int, words: int, *, bias: bool = True) -> None:
        super().__init__(hidden, words, bias=bias)
        self.down, self.up = nn.Linear(hidden, 2, bias=False), nn.Linear(2, words, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden) + self.up(self.down(hidden))


class Largest(TorchDispatchMode):
    """The largest tensor that any operation gives, forward and backward."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.numel = max([self.numel, *sizes])
        return out


def chunks_of(monkeypatch, logits: int | None) -> None:
    """So many logits are held at a time."""
    if logits is not None:
        monkeypatch.setattr(head_module, "_CHUNK_LOGITS_ELSEWHERE", logits)


def numbers(tokens: int, dtype: torch.dtype = torch.float64, words: int = WORDS) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, targets and the gradient that comes from above."""
    make = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, HIDDEN, generator=make, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(words, (tokens,), generator=make)
    return hidden, targets, torch.randn(tokens, generator=make, dtype=torch.float64)


def linear(
    words: int = WORDS, *, bias: bool = True, dtype: torch.dtype = torch.float64, kind: Any = nn.Linear
) -> Any:
    torch.manual_seed(0)
    head = kind(HIDDEN, words, bias=bias).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    return head.to(dtype)


def through_all_logits(head: nn.Module, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The definition: all logits, one softmax, one gather."""
    every = (head(hidden) / temperature).log_softmax(dim=-1)
    return every.gather(-1, targets.unsqueeze(-1)).squeeze(-1), -(every.exp() * every).sum(dim=-1)


def answers(way: Any, head: nn.Module, tokens: int, dtype: torch.dtype, temperature: float) -> dict[str, Tensor]:
    """Log-probabilities, entropies and every gradient, by name."""
    hidden, targets, above = numbers(tokens, dtype)
    head.zero_grad()
    logps, entropies = way(head, hidden, targets, temperature)
    assert logps.shape == entropies.shape == (tokens,) and logps.dtype == entropies.dtype == dtype
    logps.backward(above.to(dtype))
    found = {name: p.grad.clone() for name, p in head.named_parameters() if p.grad is not None}
    return {"logps": logps.detach(), "entropies": entropies.detach(), "hidden": hidden.grad, **found}


def far(one: Tensor, other: Tensor) -> float:
    """Norm of the difference, relative to the norm (0 where both are empty)."""
    one, other = one.detach().double(), other.detach().double()
    return float((one - other).norm() / other.norm().clamp(min=1e-300))


# Everything in one chunk, whole chunks and a rest, one token a chunk, chunks smaller than one token's logits.
@pytest.mark.parametrize("chunk", [None, 3 * WORDS, WORDS, 7], ids=["one chunk", "a rest", "one token", "too small"])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [nn.Linear, Adapted])
def test_chunks_give_what_all_logits_give_and_so_do_their_gradients(monkeypatch, chunk, temperature, bias, kind):
    """A temperature that the backward pass forgets, a chunk of the rest that is left out, a bias added twice."""
    chunks_of(monkeypatch, chunk)
    for dtype, tolerance in TOLERANCE.items():
        for tokens in (1, 6, 7):
            head = linear(bias=bias, dtype=dtype, kind=kind)
            exact = linear(bias=bias, kind=kind)
            expected = answers(through_all_logits, exact, tokens, torch.float64, temperature)
            found = answers(head_logps, head, tokens, dtype, temperature)
            assert found.keys() == expected.keys() and len(found) == 4 + bias + 2 * (kind is Adapted)
            assert {name: far(found[name], expected[name]) for name in expected} == pytest.approx(
                dict.fromkeys(expected, 0.0), abs=tolerance
            )


@pytest.mark.parametrize("kind", [nn.Linear, Adapted])
def test_no_tokens_have_no_log_probabilities_and_gradients_of_zero(kind):
    """A rank may be left without a token: its backward pass must still run, for the others wait in it."""
    head = linear(kind=kind)
    hidden, targets, _ = numbers(0)
    logps, entropies = head_logps(head, hidden, targets, 1.0)
    assert logps.shape == entropies.shape == (0,)
    logps.sum().backward()
    assert hidden.grad is not None and hidden.grad.shape == (0, HIDDEN)
    assert all(p.grad is None or not p.grad.any() for p in head.parameters())


def test_two_vocabulary_entries_and_two_tokens_are_as_worked_out_by_hand(monkeypatch):
    """Logits 0 and ln 3: p = (1/4, 3/4). At temperature 1/2 they are 0 and ln 9: p = (1/10, 9/10)."""
    chunks_of(monkeypatch, 2)
    weight = torch.tensor([[1.0], [3.0]], dtype=torch.float64).log()
    hidden = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    for temperature, p in ((1.0, 0.75), (0.5, 0.9)):
        hidden.grad = None
        logps, entropy = linear_logps(hidden, weight, None, torch.tensor([0, 1]), temperature)
        quarter, most = torch.tensor([1 - p, p], dtype=torch.float64).log()
        torch.testing.assert_close(logps, torch.stack([quarter, most]), atol=1e-14, rtol=0)
        torch.testing.assert_close(entropy[0], -(1 - p) * quarter - p * most, atol=1e-14, rtol=0)
        logps.sum().backward()
        # (onehot − p) · weight / temperature: −p·ln 3 / T for the first word, (1 − p)·ln 3 / T for the second.
        slope = weight[1, 0] / temperature
        torch.testing.assert_close(hidden.grad[:, 0], torch.stack([-p * slope, (1 - p) * slope]), atol=1e-14, rtol=0)


@pytest.mark.parametrize("chunk", [None, WORDS])
@pytest.mark.parametrize("kind", [nn.Linear, Adapted])
def test_the_entropy_carries_no_gradient(monkeypatch, chunk, kind):
    """It is a metric; an entropy in the graph would hold all logits until the backward pass."""
    chunks_of(monkeypatch, chunk)
    hidden, targets, _ = numbers(5)
    logps, entropies = head_logps(linear(kind=kind), hidden, targets, 1.0)
    assert logps.requires_grad and not entropies.requires_grad


@pytest.mark.parametrize("chunk", [None, 3 * WORDS])
def test_a_frozen_head_hands_the_gradient_on_and_keeps_none(monkeypatch, chunk):
    """With an adapter elsewhere, the gradient of the head is the largest tensor of the step, and for nothing."""
    chunks_of(monkeypatch, chunk)
    expected = answers(through_all_logits, linear(), 7, torch.float64, 0.7)
    found = answers(head_logps, linear().requires_grad_(False), 7, torch.float64, 0.7)
    assert found.keys() == {"logps", "entropies", "hidden"}
    assert all(far(found[name], expected[name]) < 1e-12 for name in found)


@pytest.mark.parametrize("chunk", [None, 3 * WORDS])
def test_a_head_alone_is_trained_below_frozen_hidden_states(monkeypatch, chunk):
    chunks_of(monkeypatch, chunk)
    expected = answers(through_all_logits, linear(), 7, torch.float64, 0.7)
    head = linear()
    hidden, targets, above = numbers(7)
    logps, _ = head_logps(head, hidden.detach(), targets, 0.7)
    logps.backward(above)
    assert far(head.weight.grad, expected["weight"]) < 1e-12 and far(head.bias.grad, expected["bias"]) < 1e-12


@pytest.mark.parametrize("kind", [nn.Linear, Adapted])
def test_the_largest_tensor_does_not_grow_with_the_tokens(monkeypatch, kind):
    """Vocabulary × tokens is what fills a GPU: no operation, forward or backward, may give a tensor of that size."""
    words, at_a_time = 5000, 10
    chunks_of(monkeypatch, at_a_time * words)

    def largest(way: Any, tokens: int) -> int:
        head = linear(words, kind=kind)
        hidden, targets, above = numbers(tokens, words=words)
        with Largest() as seen:
            logps, _ = way(head, hidden, targets, 1.0)
            logps.backward(above)
        assert hidden.grad is not None
        return seen.numel

    assert largest(through_all_logits, 200) == 200 * words, "the measure sees all logits where they are"
    assert largest(head_logps, 200) == largest(head_logps, 400) == at_a_time * words


@pytest.mark.parametrize("kind", [nn.Linear, Adapted])
def test_half_precision_gives_log_probabilities_in_float32(monkeypatch, kind):
    """A softmax over the vocabulary in bfloat16 would be off by whole per cents, in the ratio of every token."""
    chunks_of(monkeypatch, 3 * WORDS)
    half = linear(dtype=torch.bfloat16, kind=kind)
    whole = linear(dtype=torch.bfloat16, kind=kind).float()
    hidden, targets, above = numbers(40, torch.bfloat16)
    logps, entropies = head_logps(half, hidden, targets, 1.0)
    assert logps.dtype == entropies.dtype == torch.float32
    logps.backward(above.float())
    assert hidden.grad.dtype == half.weight.grad.dtype == torch.bfloat16
    exact = hidden.detach().float().requires_grad_()
    expected, its_entropies = through_all_logits(whole, exact, targets, 1.0)
    expected.backward(above.float())
    # Logits are up to 10 here, and a bfloat16 holds 8 bits of them.
    assert (logps - expected).abs().max() < 0.1 and (entropies - its_entropies).abs().max() < 0.1
    assert far(logps, expected) < 5e-3
    assert far(hidden.grad, exact.grad) < 2e-2 and far(half.weight.grad, whole.weight.grad) < 2e-2


def test_under_autocast_the_product_is_in_bfloat16_and_the_softmax_in_float32(monkeypatch):
    chunks_of(monkeypatch, 3 * WORDS)
    head = linear(dtype=torch.float32)
    hidden, targets, above = numbers(40, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logps, _ = head_logps(head, hidden, targets, 1.0)
    assert logps.dtype == torch.float32
    logps.backward(above.float())
    assert hidden.grad.dtype == head.weight.grad.dtype == torch.float32
    expected = answers(through_all_logits, linear(), 40, torch.float64, 1.0)
    assert 1e-5 < far(logps.detach(), expected["logps"]) < 1e-2
    assert far(hidden.grad, expected["hidden"]) < 3e-2 and far(head.weight.grad, expected["weight"]) < 3e-2


@pytest.mark.parametrize("kind", [nn.Linear, Adapted])
@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_of_zero_is_refused(kind, temperature):
    hidden, targets, _ = numbers(3)
    with pytest.raises(ValueError, match=r"temperature must be above 0.*use 1\.0"):
        head_logps(linear(kind=kind), hidden, targets, temperature)
