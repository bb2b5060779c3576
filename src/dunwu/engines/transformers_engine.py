"""The engine for any model of transformers whose cache consists of keys and values: its forward, its cache, our loop.

Against `model.generate`: each prompt is computed once however many completions it gets, finished ones leave the
batch, and every completion has a random stream of its own. The policy's own modules run, so no weights are copied.

Shapes: P prompts, L longest prompt, R completions of a batch, C token limit, B of them still being decoded, T
positions so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dunwu.core.records import Completion, Prompt, SamplingParams
from dunwu.engines.cache_probe import check_cache, forward_cached
from dunwu.engines.completions import SampledTokens, make_completions
from dunwu.engines.in_process import InProcessEngine, check_adapter
from dunwu.engines.sampling import process_logits, sample, sample_seeds, uniform_draws
from dunwu.model.architectures import unwrap_model

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedTokenizerBase

__all__ = ["TransformersEngine"]

_KEEP_SHARE = 0.75
"""A smaller batch is cheaper to step, but gathering the cache costs about one step: wait until a quarter ended."""


class TransformersEngine(InProcessEngine):
    """Completions from a transformers model in this process.

    Args:
        model: a causal language model, PEFT models included; its weights are used as they are at each call.
        tokenizer: decodes completions, and names the end and pad tokens.
        max_rows: completions computed at a time; changes memory and speed, not results.
        autocast: dtype of the forward passes, as the trainer's own; None: the weights' dtype.

    Raises:
        EngineError: for a model whose cache it cannot drive (found by decoding two tokens), or an adapter that would
            make it sample from another model (prompt tuning and its kin).
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_rows: int = 256,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__(tokenizer, autocast)
        self.max_rows = max_rows
        self._take(model)

    def sync_weights(self, policy: nn.Module, *, version: int) -> None:
        """Nothing to copy: the policy's tensors are shared, and no cache outlives a call.

        Raises:
            EngineError: for another model than before that cannot be decoded.
        """
        if policy is not self.model:
            self._take(policy)

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt, in order.

        Returns:
            One list of `sampling.n` completions a prompt.
        """
        per_batch = max(1, self.max_rows // sampling.n)
        seeds = sample_seeds(prompts, sampling)
        completions: list[list[Completion]] = []
        with self.session(), self._autocast_context():
            for start in range(0, len(prompts), per_batch):
                part = prompts[start : start + per_batch]
                own = seeds[start * sampling.n : (start + len(part)) * sampling.n]
                sampled = _BatchDecoder(self, part, sampling, own).run()
                completions += make_completions(sampled, self.tokenizer, self.end_ids, sampling.n)
        return completions

    def _take(self, model: nn.Module) -> None:
        check_adapter(model)
        self._use_model(model)
        with self.session(), self._autocast_context():
            check_cache(model, self.device)


class _BatchDecoder:
    """One batch of prompts: what every completion needs, and the tokens sampled so far."""

    def __init__(
        self, engine: TransformersEngine, prompts: Sequence[Prompt], sampling: SamplingParams, seeds: Sequence[int]
    ) -> None:
        self.engine = engine
        self.sampling = sampling
        device, max_new_tokens, completions = engine.device, sampling.max_new_tokens, len(prompts) * sampling.n
        self.ids_PL, self.attention_PL = _left_padded([p.ids for p in prompts], engine.tokenizer.pad_token_id, device)
        self.uniform_RC = uniform_draws(seeds, max_new_tokens, device)
        self.tokens_RC = torch.zeros(completions, max_new_tokens, dtype=torch.long, device=device)
        self.logps_RC = torch.zeros(completions, max_new_tokens, device=device)
        self.length_R = torch.zeros(completions, dtype=torch.long, device=device)
        self.ended_R = torch.zeros(completions, dtype=torch.bool, device=device)
        self.end_ids = torch.tensor(engine.end_ids, device=device)
        self.stopped: set[int] = set()
        self.stops = engine.stops(sampling)

    def run(self) -> SampledTokens:
        """Decode until every completion has ended or reached the token limit."""
        logits_BV, cache = self._prefill()
        live_B = torch.arange(len(self.tokens_RC), device=logits_BV.device)
        attention_BT = self.attention_PL.repeat_interleave(self.sampling.n, dim=0)
        for column in range(self.sampling.max_new_tokens):
            self._append(column, logits_BV, live_B)
            keep_B = ~self.ended_R[live_B]
            remaining = int(keep_B.sum())
            if remaining == 0 or column + 1 == self.sampling.max_new_tokens:
                break
            if remaining <= _KEEP_SHARE * len(live_B):
                cache.batch_select_indices(keep_B.nonzero().squeeze(1))
                live_B, attention_BT = live_B[keep_B], attention_BT[keep_B]
            attention_BT = torch.cat([attention_BT, attention_BT.new_ones(len(live_B), 1)], dim=1)
            ids_B1 = self.tokens_RC[live_B, column : column + 1]
            logits_BV = forward_cached(self.engine.model, ids_B1, attention_BT, cache)
        return SampledTokens(
            tokens_RC=self.tokens_RC, logps_RC=self.logps_RC, length_R=self.length_R, stopped=self.stopped
        )

    def _prefill(self) -> tuple[Tensor, DynamicCache]:
        """Each prompt once; its logits and cache are then repeated for its completions."""
        from transformers import DynamicCache

        cache = DynamicCache(config=unwrap_model(self.engine.model).config)
        logits_PV = forward_cached(self.engine.model, self.ids_PL, self.attention_PL, cache)
        cache.batch_repeat_interleave(self.sampling.n)
        return logits_PV.repeat_interleave(self.sampling.n, dim=0), cache

    def _append(self, column: int, logits_BV: Tensor, live_B: Tensor) -> None:
        warped_BV = process_logits(logits_BV, self.sampling, self._seen(column, live_B, logits_BV))
        ids_B, logps_B = sample(warped_BV, self.uniform_RC[live_B, column], greedy=self.sampling.temperature == 0)
        going_B = ~self.ended_R[live_B]
        self.tokens_RC[live_B, column] = ids_B
        self.logps_RC[live_B, column] = logps_B
        self.length_R[live_B] += going_B
        self.ended_R[live_B] |= torch.isin(ids_B, self.end_ids)
        if self.stops is not None:
            for completion in live_B[self.stops.may_stop_V[ids_B] & going_B].tolist():
                if self.stops.first_end(self.tokens_RC[completion, : column + 1].tolist(), column) is not None:
                    self.ended_R[completion] = True
                    self.stopped.add(completion)

    def _seen(self, column: int, live_B: Tensor, logits_BV: Tensor) -> Tensor | None:
        """Which tokens are present in each sequence, (B, V); needed for the repetition penalty only."""
        if self.sampling.repetition_penalty == 1.0:
            return None
        # Padding is filled with the prompt's last token, which is present anyway: the pad token is not penalised.
        prompt_PL = torch.where(self.attention_PL.bool(), self.ids_PL, self.ids_PL[:, -1:])
        prompt_BL = prompt_PL.repeat_interleave(self.sampling.n, dim=0)[live_B]
        present_BT = torch.cat([prompt_BL, self.tokens_RC[live_B, :column]], dim=1)
        return torch.zeros_like(logits_BV, dtype=torch.bool).scatter_(1, present_BT, True)


def _left_padded(sequences: Sequence[Sequence[int]], pad: int | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """(P, L) ids and attention; the pad token's id is written but never read, so it may equal the end token's."""
    length = max(len(ids) for ids in sequences)
    fill = 0 if pad is None else pad
    ids = [[fill] * (length - len(ids)) + list(ids) for ids in sequences]
    attention = [[0] * (length - len(ids)) + [1] * len(ids) for ids in sequences]
    return torch.tensor(ids, device=device), torch.tensor(attention, device=device)
