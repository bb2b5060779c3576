"""From logits to tokens: the seed of every completion, the warpers, and one random number a token.

A completion's tokens depend on its own seed only, not on those beside it in the batch.

Shapes: B completions of a batch, C token limit, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from dunwu.core.records import Prompt, SamplingParams

__all__ = ["process_logits", "sample", "sample_seeds", "sequence_seed", "uniform_draws"]


def sample_seeds(prompts: Sequence[Prompt], sampling: SamplingParams) -> list[int]:
    """The seed of every completion of a call, `sampling.n` for each prompt, in order.

    Prompts that agree in row, first sample and turn ask for more samples of the same: the k-th of them counts as the
    samples from `first_sample + k · n`. Seeds are made for a whole call: how it is cut into batches changes none.

    Example: `len(sample_seeds(prompts, SamplingParams(n=4)))` is `4 * len(prompts)`.
    """
    asked: Counter[tuple[int, int, int]] = Counter()
    seeds = []
    for prompt in prompts:
        key = (prompt.row_index, prompt.first_sample, prompt.turn)
        first = prompt.first_sample + asked[key] * sampling.n
        asked[key] += 1
        for sample in range(first, first + sampling.n):
            seeds.append(sequence_seed(sampling.seed, sampling.step, prompt.row_index, sample, prompt.turn))
    return seeds


def sequence_seed(seed: int, step: int, row: int, sample: int, turn: int = 0) -> int:
    """The seed of turn `turn` of sample `sample` of dataset row `row` at step `step` of the run `seed`.

    A hash of the five, in [0, 2^63); torch's CPU generator keeps its lower 32 bits, so two completions share their
    random numbers with probability 2^-32.
    """
    parts = (seed, step, row, sample, turn) if turn else (seed, step, row, sample)
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def uniform_draws(seeds: Sequence[int], length: int, device: torch.device) -> Tensor:
    """One number in [0, 1) a token, (B, length), float64; completion i from seeds[i] alone."""
    generator = torch.Generator()
    rows = [torch.rand(length, dtype=torch.float64, generator=generator.manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(device)


def process_logits(logits_BV: Tensor, sampling: SamplingParams, seen_BV: Tensor | None = None) -> Tensor:
    """Logits of the distribution that is sampled, (B, V), float32; tokens that are cut away get −inf.

    Order: repetition penalty, temperature, top-k, top-p, min-p, as transformers applies them. `seen_BV` says which
    tokens are present in each sequence; needed for the repetition penalty only.
    """
    logits_BV = logits_BV.float()
    if sampling.repetition_penalty != 1.0 and seen_BV is not None:
        logits_BV = torch.where(seen_BV, _penalised(logits_BV, sampling.repetition_penalty), logits_BV)
    if sampling.temperature not in (0.0, 1.0):
        logits_BV = logits_BV / sampling.temperature
    if 0 < sampling.top_k < logits_BV.shape[-1]:
        kth_B1 = logits_BV.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < kth_B1, -torch.inf)
    if sampling.top_p < 1.0:
        logits_BV = _nucleus(logits_BV, sampling.top_p)
    if sampling.min_p > 0:
        floor_B1 = logits_BV.amax(dim=-1, keepdim=True) + torch.tensor(sampling.min_p).log().item()
        logits_BV = logits_BV.masked_fill(logits_BV < floor_B1, -torch.inf)
    return logits_BV


def sample(logits_BV: Tensor, uniform_B: Tensor, *, greedy: bool) -> tuple[Tensor, Tensor]:
    """A token and its log-probability for each completion: (B,), (B,).

    The inverse of the cumulative distribution at one uniform number: some 10 times faster than torch.multinomial on a
    small vocabulary. The sum runs in float64, so that a completion's token does not depend on the rounding of its
    batch.
    """
    logps_BV = logits_BV.log_softmax(dim=-1)
    if greedy:
        ids_B = logits_BV.argmax(dim=-1)
    else:
        cumulative_BV = logps_BV.exp().cumsum(dim=-1, dtype=torch.float64)
        point_B1 = uniform_B.unsqueeze(1) * cumulative_BV[:, -1:]
        # `right=True` passes over tokens of probability 0: their cumulative value equals that of the token before.
        ids_B = torch.searchsorted(cumulative_BV, point_B1, right=True).squeeze(1).clamp(max=logits_BV.shape[-1] - 1)
    return ids_B, logps_BV.gather(-1, ids_B.unsqueeze(1)).squeeze(1)


def _penalised(logits_BV: Tensor, penalty: float) -> Tensor:
    """CTRL's penalty (arXiv 1909.05858): a token already present is divided by it (multiplied where negative)."""
    return torch.where(logits_BV < 0, logits_BV * penalty, logits_BV / penalty)


def _nucleus(logits_BV: Tensor, top_p: float) -> Tensor:
    sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True)
    probs_BV = sorted_BV.softmax(dim=-1)
    # The token that crosses top_p stays: what counts is the probability *before* it.
    beyond_BV = probs_BV.cumsum(dim=-1) - probs_BV >= top_p
    return logits_BV.masked_fill(beyond_BV.scatter(1, order_BV, beyond_BV), -torch.inf)
