"""The engine that runs any causal model of transformers: its forward, its cache, our loop.

What it is: prompts computed once and shared by their completions, finished rows dropped from the batch, one uniform
number a token, log-probabilities of the very distribution that was sampled. It shares the trainer's weights.
What it is not: `model.generate`, which computes each prompt once per completion, carries finished rows to the end and
draws from one random state for the whole batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dunwu.core.records import Completion, Prompt, SamplingParams
from dunwu.engines.completions import end_token_ids, records_of
from dunwu.engines.sampling import draw, process_logits, sequence_seed, uniform_draws
from dunwu.engines.stop_strings import StopStrings
from dunwu.model.loading import eval_mode

__all__ = ["TransformersEngine"]

# A smaller batch is cheaper to step, but gathering the cache costs about one step: wait until a quarter has finished.
_DROP_SHARE = 0.75


class TransformersEngine:
    """Completions from a transformers model in this process.

    Args:
        model: a causal language model, PEFT models included; its weights are used as they are at each call.
        tokenizer: decodes completions, and names the end and pad tokens.
        max_rows: completions computed at a time; changes memory and speed, not results.
        autocast: dtype of the forward passes, as the trainer's own; None: the weights' dtype.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, max_rows: int = 256, autocast: torch.dtype | None = None
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_rows = max_rows
        self.autocast = autocast
        self.end_ids = end_token_ids(model, tokenizer)
        self._stops: dict[tuple[str, ...], StopStrings] = {}

    def sync_weights(self, policy: Any, *, version: int) -> None:
        """Nothing to copy: the policy's tensors are shared, and no cache outlives a call."""
        if policy is not self.model:
            self.model = policy
            self._stops = {}

    def stops(self, sampling: SamplingParams) -> StopStrings | None:
        """The table of the run's stop strings, made once: it decodes the whole vocabulary."""
        if not sampling.stop:
            return None
        if sampling.stop not in self._stops:
            vocabulary = self.model.get_output_embeddings().weight.shape[0]
            self._stops[sampling.stop] = StopStrings(self.tokenizer, sampling.stop, vocabulary, self.device)
        return self._stops[sampling.stop]

    @contextmanager
    def session(self) -> Iterator[None]:
        """Inference mode: dropout off, and the training mode put back afterwards."""
        with eval_mode(self.model):
            yield

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt, in order.

        Returns:
            One list of `sampling.n` completions a prompt.
        """
        per_chunk = max(1, self.max_rows // sampling.n)
        completions: list[list[Completion]] = []
        with self.session(), self._precision():
            for start in range(0, len(prompts), per_chunk):
                completions += _Decoding(self, prompts[start : start + per_chunk], sampling).run()
        return completions

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self.model.parameters()).device
        return device


class _Decoding:
    """One batch of prompts on its way: what every live row needs, and what has been said so far."""

    def __init__(self, engine: TransformersEngine, prompts: Sequence[Prompt], sampling: SamplingParams) -> None:
        self.engine = engine
        self.sampling = sampling
        self.prompts = prompts
        device = engine.device
        rows = len(prompts) * sampling.n
        self.ids_PT, self.attention_PT = _left_padded([p.ids for p in prompts], engine.tokenizer.pad_token_id, device)
        seeds = [
            sequence_seed(sampling.seed, sampling.step, prompt.row_index, index)
            for prompt in prompts
            for index in range(sampling.n)
        ]
        self.uniform_RN = uniform_draws(seeds, sampling.max_new_tokens, device)
        self.tokens_RN = torch.zeros(rows, sampling.max_new_tokens, dtype=torch.long, device=device)
        self.logps_RN = torch.zeros(rows, sampling.max_new_tokens, device=device)
        self.length_R = torch.zeros(rows, dtype=torch.long, device=device)
        self.ended_R = torch.zeros(rows, dtype=torch.bool, device=device)
        self.end_ids = torch.tensor(engine.end_ids, device=device)
        self.stopped: set[int] = set()
        self.stops = engine.stops(sampling)

    def run(self) -> list[list[Completion]]:
        """Decode until all rows have ended or reached the limit."""
        logits_BV, cache = self._prefill()
        live_B = torch.arange(len(self.tokens_RN), device=logits_BV.device)
        attention_BT = self.attention_PT.repeat_interleave(self.sampling.n, dim=0)
        for n in range(self.sampling.max_new_tokens):
            self._append(n, logits_BV, live_B)
            keep_B = ~self.ended_R[live_B]
            remaining = int(keep_B.sum())
            if remaining == 0 or n + 1 == self.sampling.max_new_tokens:
                break
            if remaining <= _DROP_SHARE * len(live_B):
                cache.batch_select_indices(keep_B.nonzero().squeeze(1))
                live_B, attention_BT = live_B[keep_B], attention_BT[keep_B]
            attention_BT = torch.cat([attention_BT, attention_BT.new_ones(len(live_B), 1)], dim=1)
            logits_BV = self._forward(self.tokens_RN[live_B, n : n + 1], attention_BT, cache)
        return self._completions()

    def _prefill(self) -> tuple[Tensor, Any]:
        """Each prompt once; its logits and cache are then shared out to its completions."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.engine.model.config)
        logits_PV = self._forward(self.ids_PT, self.attention_PT, cache)
        cache.batch_repeat_interleave(self.sampling.n)
        return logits_PV.repeat_interleave(self.sampling.n, dim=0), cache

    def _forward(self, ids_BN: Tensor, attention_BT: Tensor, cache: Any) -> Tensor:
        positions_BT = (attention_BT.cumsum(dim=1) - 1).clamp(min=0)
        logits: Tensor = self.engine.model(
            input_ids=ids_BN,
            attention_mask=attention_BT,
            position_ids=positions_BT[:, -ids_BN.shape[1] :],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, -1]

    def _append(self, n: int, logits_BV: Tensor, live_B: Tensor) -> None:
        warped_BV = process_logits(logits_BV, self.sampling, self._seen(n, live_B, logits_BV))
        ids_B, logps_B = draw(warped_BV, self.uniform_RN[live_B, n], greedy=self.sampling.temperature == 0)
        going_B = ~self.ended_R[live_B]
        self.tokens_RN[live_B, n] = ids_B
        self.logps_RN[live_B, n] = logps_B
        self.length_R[live_B] += going_B
        self.ended_R[live_B] |= torch.isin(ids_B, self.end_ids)
        if self.stops is not None:
            for row in live_B[self.stops.suspect_V[ids_B] & going_B].tolist():
                if self.stops.first_end(self.tokens_RN[row, : n + 1].tolist(), n) is not None:
                    self.ended_R[row] = True
                    self.stopped.add(row)

    def _seen(self, n: int, live_B: Tensor, logits_BV: Tensor) -> Tensor | None:
        if self.sampling.repetition_penalty == 1.0:
            return None
        # Padding is filled with the prompt's last token, which is present anyway: the pad token is not penalised.
        prompt_PT = torch.where(self.attention_PT.bool(), self.ids_PT, self.ids_PT[:, -1:])
        prompt_BT = prompt_PT.repeat_interleave(self.sampling.n, dim=0)[live_B]
        present_BT = torch.cat([prompt_BT, self.tokens_RN[live_B, :n]], dim=1)
        return torch.zeros_like(logits_BV, dtype=torch.bool).scatter_(1, present_BT, True)

    def _completions(self) -> list[list[Completion]]:
        tokens, logps = self.tokens_RN.tolist(), self.logps_RN.tolist()
        engine = self.engine
        return records_of(
            engine.tokenizer, tokens, logps, self.length_R.tolist(), engine.end_ids, self.stopped, self.sampling.n
        )


def _left_padded(sequences: Sequence[Sequence[int]], pad: int | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """(P, T) ids and attention; the pad token's id is written but never read, so it may equal the end token's."""
    width = max(len(ids) for ids in sequences)
    fill = 0 if pad is None else pad
    ids = [[fill] * (width - len(ids)) + list(ids) for ids in sequences]
    attention = [[0] * (width - len(ids)) + [1] * len(ids) for ids in sequences]
    return torch.tensor(ids, device=device), torch.tensor(attention, device=device)
