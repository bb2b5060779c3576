"""The nouns of the loop, and the small interfaces that others may plug in.

What it is: frozen dataclasses that flow through a step of GRPO, and the Protocols `Engine`, `Task`, `Observer`.
What it is not: behaviour. Nothing here samples, scores, or trains.

    row -task-> Prompt -engine-> Completion -rewards-> Rollout -> Group -pack-> Batch -> Step -> observers

Shape suffixes of tensors, here and everywhere: B rows of a micro-batch, T positions of a row,
C completion positions (the last C of T), P prompts, G completions a prompt, F reward functions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

__all__ = [
    "Completion",
    "FinishReason",
    "Grade",
    "Group",
    "Message",
    "MicroBatch",
    "Prompt",
    "RewardFailure",
    "RewardScores",
    "Rollout",
    "Row",
    "SamplingParams",
    "StepResult",
]

Message: TypeAlias = dict[str, str]
"""One turn of a chat: `{"role": "user", "content": "What is 2+2?"}`."""

Row: TypeAlias = Mapping[str, Any]
"""One row of a dataset: column name to value."""

FinishReason: TypeAlias = Literal["stop", "length"]
"""Why a completion ended: an end token was sampled, or the token limit cut it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One question as the model sees it.

    Example: `Prompt(row_index=7, row={"nums": [3, 14, 17], "target": 51}, original="3 14 17 = 51", text="<user>3 14 17 = 51
    <assistant>", ids=(5, 12, 23, 26, 60, 6))`
    """

    row_index: int
    """Index of the row in its dataset; part of every random seed, so that batching never changes a sample."""
    row: Row
    """The dataset row: its columns go to the reward functions."""
    original: str | list[Message]
    """The `prompt` column as given: text, or messages (then completions reach rewards as messages too)."""
    text: str
    """What the model reads, template applied."""
    ids: tuple[int, ...]
    """The tokens of `text`."""

    @property
    def conversational(self) -> bool:
        """Whether the prompt was given as messages."""
        return not isinstance(self.original, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to draw completions.

    Example: `SamplingParams(n=8, max_new_tokens=128, temperature=1.0, seed=42, step=3)`; greedy is `temperature=0.0`.
    """

    n: int = 1
    """Completions a prompt (G)."""
    max_new_tokens: int = 256
    """Token limit of one completion, end token included."""
    temperature: float = 1.0
    """Divides the logits; 0 means greedy."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with at least this probability; 1 keeps all."""
    min_p: float = 0.0
    """Keep tokens with at least this share of the most likely token's probability; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Divides (positive) or multiplies (negative) the logits of tokens already present; 1 changes nothing."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion, which then ends with the token that completed one."""
    seed: int = 0
    """The run's seed."""
    step: int = 0
    """The step the completions are for. A sequence's own seed is a hash of (seed, step, prompt.row_index, g)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What the engine sampled: ids in are ids out, never a text round trip.

    Example: `Completion(ids=(31, 7, 2), sampler_logps=(-0.41, -1.20, -0.02), finish_reason="stop", text="51")`
    """

    ids: tuple[int, ...]
    """Sampled tokens, the end token included."""
    sampler_logps: tuple[float, ...]
    """`sampler_logps`: log-probability of each token under the very distribution that was sampled (nats)."""
    finish_reason: FinishReason
    """`stop` or `length`."""
    text: str
    """The decoded tokens without special tokens: what reward functions read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A completion with what it earned.

    Example: `Rollout(completion=c, reward=1.5, scores={"equation": 1.0, "format": 0.5}, advantage=0.7)`
    """

    completion: Completion
    """What was said."""
    reward: float | None
    """Weighted sum of the scores; None where no function could score it (it then carries no advantage)."""
    scores: Mapping[str, float | None]
    """Reward function name to its value, before weights."""
    advantage: float = 0.0
    """How much better than its group; filled by `algorithm.advantages`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All rollouts of one prompt: the unit GRPO compares within.

    Example: `Group(prompt=p, rollouts=(a, b, c, d))`
    """

    prompt: Prompt
    """The shared prompt."""
    rollouts: tuple[Rollout, ...]
    """Its G rollouts, in sampling order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Rows of one forward pass, each distinct prompt held once; how they are laid out is the forward's affair.

    Example: three completions, two of the first prompt and one of the second: `prompts=((5, 9, 7), (5, 8))`,
    `prompt_index=(0, 0, 1)`, `lengths=(2, 1, 2)`, `completion_ids_BC=[[3,1],[1,0],[4,1]]`.
    """

    prompts: tuple[tuple[int, ...], ...]
    """Token ids of each distinct prompt."""
    prompt_index: tuple[int, ...]
    """Which prompt each row answers."""
    lengths: tuple[int, ...]
    """Tokens of each completion, the end token included; masks are built from these, never from a pad id."""
    completion_ids_BC: Tensor
    """Token ids of the completions, int64, padded on the right; what stands in padding is never read."""
    mask_BC: Tensor
    """1.0 on completion tokens that count in the loss, float32."""
    sampler_logps_BC: Tensor
    """Log-probabilities under the sampler, float32, 0 on padding."""
    advantages_B: Tensor
    """One advantage a row, float32."""
    weights_BC: Tensor
    """Weight of each token's loss, float32; the sum over a step is divided once by the step's denominator."""
    rollout_index: tuple[int, ...] = ()
    """Which rollout of the step each row is (group-major)."""
    old_logps_BC: Tensor | None = None
    """Policy log-probabilities when the rollout was first trained on; None at the first update (ratio is then 1)."""
    reference_logps_BC: Tensor | None = None
    """Log-probabilities under the reference model; None without a KL term."""

    def to(self, device: torch.device) -> MicroBatch:
        """The same batch on another device."""
        moved: dict[str, Any] = {name: value.to(device) for name, value in self._tensors().items()}
        return replace(self, **moved)

    def select_rows(self, rows: Sequence[int]) -> MicroBatch:
        """The batch of these rows alone: narrower where they are, and without prompts that no row answers."""
        width = max(self.lengths[row] for row in rows)
        used = sorted({self.prompt_index[row] for row in rows})
        kept: dict[str, Any] = {
            name: value[list(rows), :width] if name.endswith("_BC") else value[list(rows)]
            for name, value in self._tensors().items()
        }
        return replace(
            self,
            prompts=tuple(self.prompts[index] for index in used),
            prompt_index=tuple(used.index(self.prompt_index[row]) for row in rows),
            lengths=tuple(self.lengths[row] for row in rows),
            rollout_index=tuple(self.rollout_index[row] for row in rows) if self.rollout_index else (),
            **kept,
        )

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name in self.__slots__ if isinstance(value := getattr(self, name), Tensor)}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What happened in one optimizer step, for observers.

    Example: `StepResult(index=12, groups=(g1, g2), metrics={"reward": 0.41, "loss": -0.003})`
    """

    index: int
    """Optimizer steps finished, counting this one."""
    groups: tuple[Group, ...]
    """The rollouts trained on."""
    metrics: Mapping[str, float]
    """Metric name to value; names follow TRL where they mean the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """What a task says of one answer, apart from any reward.

    Example: `Grade(strict=False, lenient=True, formatted=False)`: right number, wrong dress.
    """

    strict: bool
    """Right, and in the demanded format."""
    lenient: bool
    """Right wherever it can be found in the text."""
    formatted: bool
    """In the demanded format, right or wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardFailure:
    """Something a reward function did wrong on one row.

    Example: `RewardFailure(function="equation", row=3, kind="exception", detail="ZeroDivisionError: division by zero")`
    """

    function: str
    """Name of the reward function."""
    row: int | None
    """Index in the call's batch, None where the whole call is meant."""
    kind: Literal["length", "nan", "exception", "timeout", "type"]
    """What went wrong."""
    detail: str
    """The exception's text, the length that was returned, …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardScores:
    """What all reward functions said of one batch of completions.

    Example: `RewardScores(names=("format", "equation"), values=((1.0, 0.0), (None, 1.0)), problems=())`
    """

    names: tuple[str, ...]
    """Reward function names, unique."""
    values: tuple[tuple[float | None, ...], ...]
    """One tuple a completion, in the order of `names`."""
    problems: tuple[RewardFailure, ...] = field(default=())
    """What went wrong; a row named here has None, never a silent 0."""


@dataclass(kw_only=True)
class PendingRollouts:
    """Rollouts between sampling and their last update: what of a run's state is neither weight nor counter."""

    groups: list[Group]
    """This rank's groups."""
    batches: list[MicroBatch]
    """Their batches; `old_logps_BC` is filled at the first update when more follow."""
    denominator: float
    """The step's one denominator."""
    updates_left: int
    """Updates still to be made from these rollouts."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics of the rollouts."""
