"""What every row of the fast engine carries, on the device: its last token, its place, what it has said.

What it is: static tensors, and the few operations that change them without asking the device anything.
What it is not: a forward or a schedule.

Shapes: S slots, B of them live, R completions asked for, N token limit, V vocabulary. Outputs have one column more,
N, that takes what finished rows go on to say.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dunwu.core.records import SamplingParams
from dunwu.engines.sampling import draw, process_logits

__all__ = ["Rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """State by slot, outputs by row.

    Example: `Rows.make(slots=128, rows=128, limit=120, vocabulary=0, device=device)`
    """

    token_S: Tensor
    """Last token sampled."""
    position_S: Tensor
    """Its position in the row, prompt included."""
    count_S: Tensor
    """Tokens sampled."""
    row_S: Tensor
    """Which completion the slot holds."""
    done_S: Tensor
    """Whether it has ended."""
    suspect_S: Tensor
    """Whether a token was sampled that could complete a stop string."""
    seen_SV: Tensor | None
    """Which tokens are present, for the repetition penalty."""
    tokens_RN: Tensor
    """Sampled tokens, (R, N + 1)."""
    logps_RN: Tensor
    """Their log-probabilities, (R, N + 1)."""
    uniform_RN: Tensor
    """A uniform number for each draw, (R, N + 1)."""
    length_R: Tensor
    """Tokens of each completion that has left."""

    @classmethod
    def make(cls, *, slots: int, rows: int, limit: int, vocabulary: int, device: torch.device) -> Rows:
        """All empty; `vocabulary` is 0 where no repetition penalty is asked for."""

        def numbers(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls(
            token_S=numbers(slots),
            position_S=numbers(slots),
            count_S=numbers(slots),
            row_S=numbers(slots),
            done_S=numbers(slots, dtype=torch.bool),
            suspect_S=numbers(slots, dtype=torch.bool),
            seen_SV=numbers(slots, vocabulary, dtype=torch.bool) if vocabulary else None,
            tokens_RN=numbers(rows, limit + 1),
            logps_RN=numbers(rows, limit + 1, dtype=torch.float32),
            uniform_RN=numbers(rows, limit + 1, dtype=torch.float64),
            length_R=numbers(rows),
        )

    def serves(self, rows: int, limit: int, penalised: bool) -> bool:
        """Whether a call of this size can use these tensors: outputs must have exactly its shape."""
        return tuple(self.tokens_RN.shape) == (rows, limit + 1) and (self.seen_SV is not None) == penalised

    def tensors(self) -> list[Tensor]:
        """All that a step changes."""
        changed = [self.token_S, self.position_S, self.count_S, self.done_S, self.suspect_S]
        changed += [self.tokens_RN, self.logps_RN]
        return changed if self.seen_SV is None else [*changed, self.seen_SV]

    def reset(self) -> None:
        """Nothing lives."""
        self.done_S.fill_(True)
        self.suspect_S.fill_(False)
        self.position_S.zero_()

    def seed(self, uniform_RN: Tensor) -> None:
        """The numbers that draws will use, (R, N)."""
        self.uniform_RN[:, :-1] = uniform_RN

    def place(self, start: int, rows: list[int], last: list[int], prompt_BL: Tensor) -> None:
        """Completions `rows` begin in the slots from `start`, their prompts' last tokens at positions `last`."""
        end = start + len(rows)
        self.row_S[start:end] = torch.tensor(rows, device=self.row_S.device)
        self.position_S[start:end] = torch.tensor(last, device=self.row_S.device)
        self.count_S[start:end] = 0
        self.done_S[start:end] = False
        self.suspect_S[start:end] = False
        if self.seen_SV is not None:
            self.seen_SV[start:end] = False
            self.seen_SV[start:end].scatter_(1, prompt_BL, True)

    def take(
        self,
        start: int,
        end: int,
        logits_BV: Tensor,
        sampling: SamplingParams,
        end_ids: Tensor,
        suspect_V: Tensor | None,
    ) -> None:
        """Draw a token for each slot of a range and write it down; finished rows write beside the page."""
        slots = slice(start, end)
        row_B, done_B, count_B = self.row_S[slots], self.done_S[slots], self.count_S[slots]
        limit = self.tokens_RN.shape[1] - 1
        column_B = torch.where(done_B, limit, count_B)
        seen_BV = self.seen_SV[slots] if self.seen_SV is not None else None
        warped_BV = process_logits(logits_BV, sampling, seen_BV)
        ids_B, logps_B = draw(warped_BV, self.uniform_RN[row_B, column_B], greedy=sampling.temperature == 0)
        self.tokens_RN[row_B, column_B] = ids_B
        self.logps_RN[row_B, column_B] = logps_B.to(self.logps_RN.dtype)
        if seen_BV is not None:
            seen_BV.scatter_(1, ids_B.unsqueeze(1), True)
        if suspect_V is not None:
            self.suspect_S[slots] |= suspect_V[ids_B] & ~done_B
        self.token_S[slots] = ids_B
        going_B = (~done_B).long()
        count_B += going_B
        self.position_S[slots] += going_B
        done_B |= (ids_B.unsqueeze(1) == end_ids).any(dim=1) | (count_B >= limit)

    def note_lengths(self, live: int) -> None:
        """Write down how long the rows of live slots are."""
        self.length_R.index_copy_(0, self.row_S[:live], self.count_S[:live])

    def move(self, source: Tensor, target: Tensor) -> None:
        """Slots move onto others."""
        for tensor in (self.token_S, self.position_S, self.count_S, self.row_S, self.done_S, self.suspect_S):
            tensor[target] = tensor[source]
        if self.seen_SV is not None:
            self.seen_SV[target] = self.seen_SV[source]
