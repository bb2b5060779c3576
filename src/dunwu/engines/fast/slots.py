"""What each slot of the fast engine carries, on the device: its last token, its position, what it has sampled.

Static tensors, and the few operations that change them without making the host wait for the device.

Shapes: S slots, B of them in a call's range, R completions asked for, C token limit, L longest prompt, V vocabulary.
Outputs have one column more than C, which takes what finished slots go on to sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dunwu.core.records import SamplingParams
from dunwu.engines.sampling import process_logits, sample

__all__ = ["SlotState"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """State by slot, outputs by completion.

    Example: `SlotState.make(slots=4, completions=8, max_new_tokens=12, vocabulary=0, device=torch.device("cpu"))`
    """

    token_S: Tensor
    """Last token sampled."""
    position_S: Tensor
    """Its position in the sequence, prompt included."""
    count_S: Tensor
    """Tokens sampled."""
    completion_S: Tensor
    """Which completion the slot decodes."""
    done_S: Tensor
    """Whether it has ended."""
    may_stop_S: Tensor
    """Whether a token was sampled that could complete a stop string."""
    seen_SV: Tensor | None
    """Which tokens are present, for the repetition penalty."""
    tokens_RC: Tensor
    """Sampled tokens, (R, C + 1)."""
    logps_RC: Tensor
    """Their log-probabilities, (R, C + 1)."""
    uniform_RC: Tensor
    """A uniform number for each token, (R, C + 1)."""
    length_R: Tensor
    """Tokens of each completion that has left its slot."""

    @classmethod
    def make(
        cls, *, slots: int, completions: int, max_new_tokens: int, vocabulary: int, device: torch.device
    ) -> SlotState:
        """All empty; `vocabulary` is 0 where no repetition penalty is asked for."""

        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls(
            token_S=zeros(slots),
            position_S=zeros(slots),
            count_S=zeros(slots),
            completion_S=zeros(slots),
            done_S=zeros(slots, dtype=torch.bool),
            may_stop_S=zeros(slots, dtype=torch.bool),
            seen_SV=zeros(slots, vocabulary, dtype=torch.bool) if vocabulary else None,
            tokens_RC=zeros(completions, max_new_tokens + 1),
            logps_RC=zeros(completions, max_new_tokens + 1, dtype=torch.float32),
            uniform_RC=zeros(completions, max_new_tokens + 1, dtype=torch.float64),
            length_R=zeros(completions),
        )

    def fits(self, completions: int, max_new_tokens: int, penalised: bool) -> bool:
        """Whether a call of this size can use these tensors: outputs must have exactly its shape."""
        return (
            tuple(self.tokens_RC.shape) == (completions, max_new_tokens + 1)
            and (self.seen_SV is not None) == penalised
        )

    def tensors(self) -> list[Tensor]:
        """All that a step changes."""
        changed = [self.token_S, self.position_S, self.count_S, self.done_S, self.may_stop_S]
        changed += [self.tokens_RC, self.logps_RC]
        return changed if self.seen_SV is None else [*changed, self.seen_SV]

    def reset(self) -> None:
        """No slot is live."""
        self.done_S.fill_(True)
        self.may_stop_S.fill_(False)
        self.position_S.zero_()

    def set_uniforms(self, uniform_RC: Tensor) -> None:
        """The numbers that tokens will be drawn with, (R, C)."""
        self.uniform_RC[:, :-1] = uniform_RC

    def assign(self, start: int, completions: list[int], last: list[int], prompt_BL: Tensor) -> None:
        """Completions begin in the slots from `start`; their prompts' last tokens are at the positions `last`."""
        end = start + len(completions)
        self.completion_S[start:end] = torch.tensor(completions, device=self.completion_S.device)
        self.position_S[start:end] = torch.tensor(last, device=self.completion_S.device)
        self.count_S[start:end] = 0
        self.done_S[start:end] = False
        self.may_stop_S[start:end] = False
        if self.seen_SV is not None:
            self.seen_SV[start:end] = False
            self.seen_SV[start:end].scatter_(1, prompt_BL, True)

    def sample(
        self,
        start: int,
        end: int,
        logits_BV: Tensor,
        sampling: SamplingParams,
        end_ids: Tensor,
        may_stop_V: Tensor | None,
    ) -> None:
        """Sample a token for each slot of a range and write it down; finished slots write to the spare column."""
        slots = slice(start, end)
        completion_B, done_B, count_B = self.completion_S[slots], self.done_S[slots], self.count_S[slots]
        max_new_tokens = self.tokens_RC.shape[1] - 1
        column_B = torch.where(done_B, max_new_tokens, count_B)
        seen_BV = self.seen_SV[slots] if self.seen_SV is not None else None
        warped_BV = process_logits(logits_BV, sampling, seen_BV)
        ids_B, logps_B = sample(warped_BV, self.uniform_RC[completion_B, column_B], greedy=sampling.temperature == 0)
        self.tokens_RC[completion_B, column_B] = ids_B
        self.logps_RC[completion_B, column_B] = logps_B.to(self.logps_RC.dtype)
        if seen_BV is not None:
            seen_BV.scatter_(1, ids_B.unsqueeze(1), True)
        if may_stop_V is not None:
            self.may_stop_S[slots] |= may_stop_V[ids_B] & ~done_B
        self.token_S[slots] = ids_B
        going_B = (~done_B).long()
        count_B += going_B
        self.position_S[slots] += going_B
        done_B |= (ids_B.unsqueeze(1) == end_ids).any(dim=1) | (count_B >= max_new_tokens)

    def record_lengths(self, live: int) -> None:
        """Write down how long the completions in the live slots are."""
        self.length_R.index_copy_(0, self.completion_S[:live], self.count_S[:live])

    def move(self, source: Tensor, target: Tensor) -> None:
        """Slots move onto others."""
        for tensor in (
            *(self.token_S, self.position_S, self.count_S),
            *(self.completion_S, self.done_S, self.may_stop_S),
        ):
            tensor[target] = tensor[source]
        if self.seen_SV is not None:
            self.seen_SV[target] = self.seen_SV[source]
