"""The nouns of the loop: frozen dataclasses that flow through a step of GRPO.

    row -task-> Prompt -engine-> Completion -rewards-> Rollout -> Group -> MicroBatch -policy-> loss -> StepResult

Shape suffixes of tensors, one legend for the whole library (a letter means one thing):

    B  rows of a micro-batch: one a completion      C  positions of the longest completion
    P  prompts                                      G  completions a prompt
    T  positions of a sequence, prompt and completion; keys and values of an attention
    N  tokens of a padding-free row                 M  tokens whose log-probability is asked for
    V  vocabulary     H  hidden size                D  dimension of one attention head
    Q  query heads    K  key-value heads            S  slots of the engine
    R  completions asked of the engine in a call    L  longest prompt of a call
    F  reward functions
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from dunwu.errors import RewardFailure

__all__ = [
    "Completion",
    "FinishReason",
    "Grade",
    "Group",
    "Message",
    "MicroBatch",
    "PendingRollouts",
    "Prompt",
    "RewardScores",
    "Rollout",
    "Row",
    "RunInfo",
    "SamplingParams",
    "StepResult",
]

Message: TypeAlias = dict[str, str]
"""One turn of a chat: `{"role": "user", "content": "What is 2+2?"}`."""

Row: TypeAlias = Mapping[str, Any]
"""One row of a dataset: column name to value."""

FinishReason: TypeAlias = Literal["stop", "length"]
"""Why a completion ended: an end token or stop string was sampled, or the token limit cut it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One question as the model sees it.

    Example: `Prompt(row_index=7, row={"nums": [3, 14, 17], "target": 31}, original="3 14 17 = 31",
    text="<user>3 14 17 = 31<assistant>", ids=(5, 12, 23, 26, 60, 6))`
    """

    row_index: int
    """Index of the row in its dataset; part of every random seed, so that batching never changes a sample."""
    row: Row
    """The dataset row: its columns go to the reward functions."""
    original: str | list[Message]
    """The `prompt` column as given: text, or messages (then rewards receive completions as messages too)."""
    text: str
    """What the model reads, template applied."""
    ids: tuple[int, ...]
    """The tokens of `text`."""
    first_sample: int = 0
    """Number of the first completion that is asked for; above 0 where one sample of a group goes on by itself."""
    turn: int = 0
    """Turns by the model before this one; part of every random seed."""

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
    """The step the completions are for. A sequence's own seed is a hash of (seed, step, row, sample, turn)."""

    @property
    def has_warpers(self) -> bool:
        """Whether tokens are drawn from another distribution than softmax(logits / temperature)."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0 or self.repetition_penalty != 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What the engine sampled: ids in are ids out, never a text round trip.

    Example: `Completion(ids=(31, 7, 2), sampler_logps=(-0.41, -1.20, -0.02), finish_reason="stop", text="51")`

    Example, two turns by the model (31 7 2, then 9 2) around one of the environment's (5 12 6), flattened:
    `Completion(ids=(31, 7, 2, 5, 12, 6, 9, 2), sampler_logps=(-0.4, -1.2, 0.0, 0.0, 0.0, 0.0, -0.3, 0.0),
    sampled=(True, True, True, False, False, False, True, True), finish_reason="stop", text="17*3 51 yes",
    messages=({"role": "assistant", "content": "17*3"}, {"role": "tool", "content": "51"},
    {"role": "assistant", "content": "yes"}))`
    """

    ids: tuple[int, ...]
    """All tokens after the prompt, end tokens included."""
    sampler_logps: tuple[float, ...]
    """Log-probability of each token under the very distribution that was sampled (nats); 0 where not sampled."""
    finish_reason: FinishReason
    """`stop` or `length`."""
    text: str
    """The decoded tokens without special tokens: what reward functions read."""
    sampled: tuple[bool, ...] | None = None
    """Which tokens the model sampled: the others came from an environment and are never trained on. None: all."""
    messages: tuple[Message, ...] = ()
    """The turns, where there are several; empty for a completion of one turn."""

    @property
    def sampled_tokens(self) -> int:
        """Number of tokens that the model sampled."""
        return len(self.ids) if self.sampled is None else sum(self.sampled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A completion with what it earned.

    Example: `Rollout(completion=c, reward=1.5, scores={"equation": 1.0, "format": 0.5}, advantage=0.7)`
    """

    completion: Completion
    """What was sampled."""
    reward: float | None
    """Weighted sum of the scores; None where no function could score it (it then carries no advantage)."""
    scores: Mapping[str, float | None]
    """Reward function name to its value, before weights."""
    advantage: float = 0.0
    """How much better than its group; filled by `algorithm.advantages`."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Column to what a reward function logged of it (`log_extra`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All rollouts of one prompt: the unit GRPO compares within.

    Example: `Group(prompt=p, rollouts=(r1, r2, r3, r4))`
    """

    prompt: Prompt
    """The shared prompt."""
    rollouts: tuple[Rollout, ...]
    """Its G rollouts, in sampling order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Rows of one forward pass, each distinct prompt stored once; `model.logprobs` decides how they are laid out.

    Example, three completions, two of the first prompt and one of the second:
    `MicroBatch(prompts=((5, 9, 7), (5, 8)), prompt_index=(0, 0, 1), lengths=(2, 1, 2),
    completion_ids_BC=torch.tensor([[3, 1], [1, 0], [4, 1]]), mask_BC=torch.tensor([[1.0, 1], [1, 0], [1, 1]]),
    sampler_logps_BC=torch.zeros(3, 2), advantages_B=torch.tensor([0.7, -0.7, 0.0]), weights_BC=torch.ones(3, 2))`
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
    """1.0 on completion tokens that are trained on, float32."""
    sampler_logps_BC: Tensor
    """Log-probabilities under the sampler, float32, 0 on padding."""
    advantages_B: Tensor
    """One advantage a row, float32."""
    weights_BC: Tensor
    """Weight of each token's loss, float32; the sum over a step is divided once by the step's denominator."""
    temperature: float = 1.0
    """Sampling temperature: the policy's log-probabilities are of the distribution that was sampled."""
    rollout_index: tuple[int, ...] = ()
    """Which rollout of the step each row is (group-major)."""
    old_logps_BC: Tensor | None = None
    """Policy log-probabilities when the rollout was first trained on; None at the first update (ratio is then 1)."""
    reference_logps_BC: Tensor | None = None
    """Log-probabilities under the reference model; None without a KL term."""

    def to(self, device: torch.device) -> MicroBatch:
        """The same micro-batch on another device."""
        moved: dict[str, Any] = {name: value.to(device) for name, value in self._tensors().items()}
        return replace(self, **moved)

    def select_rows(self, rows: Sequence[int]) -> MicroBatch:
        """The micro-batch of these rows alone: as narrow as they allow, without prompts that no row answers."""
        width = max(self.lengths[row] for row in rows)
        used = sorted({self.prompt_index[row] for row in rows})
        selected: dict[str, Any] = {
            name: value[list(rows), :width] if name.endswith("_BC") else value[list(rows)]
            for name, value in self._tensors().items()
        }
        return replace(
            self,
            prompts=tuple(self.prompts[index] for index in used),
            prompt_index=tuple(used.index(self.prompt_index[row]) for row in rows),
            lengths=tuple(self.lengths[row] for row in rows),
            rollout_index=tuple(self.rollout_index[row] for row in rows) if self.rollout_index else (),
            **selected,
        )

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name in self.__slots__ if isinstance(value := getattr(self, name), Tensor)}


@dataclass(kw_only=True)
class PendingRollouts:
    """Rollouts between sampling and their last update, and what their step has come to so far.

    It is all of a run's state that is neither weight nor counter, and it is part of every checkpoint.

    Example: `PendingRollouts(groups=[g1, g2], batches=[m1, m2, m3], denominator=731.0, updates_left=1)`
    """

    groups: list[Group]
    """This rank's groups."""
    batches: list[MicroBatch]
    """Their micro-batches; `old_logps_BC` is filled at the first update when more follow."""
    denominator: float
    """The step's one denominator."""
    updates_left: int
    """Updates still to be made from these rollouts."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics of the rollouts."""
    policy_version: int = 0
    """Optimizer steps that the policy had taken when it sampled them."""
    observed: list[Group] = field(default_factory=list)
    """Groups of all ranks, where an observer listens; not saved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What a run is, as observers get it at its start.

    Example: `RunInfo(folder="runs/quickstart", total_steps=330, resumed_from=0, num_prompts=4096,
    prompts_per_step=16, num_generations=8)`
    """

    folder: str
    """The run's output folder."""
    total_steps: int
    """Optimizer steps after which the run ends."""
    resumed_from: int = 0
    """Optimizer steps that an earlier start of the run has finished; what follows them is made again."""
    num_prompts: int = 0
    """Prompts of the training set."""
    prompts_per_step: int = 0
    """Prompts a step, over all ranks."""
    num_generations: int = 0
    """Completions a prompt (G)."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The run's options by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What happened in one optimizer step, as observers get it.

    Example: `StepResult(index=12, groups=(g1, g2), metrics={"reward": 0.41, "loss": -0.003})`
    """

    index: int
    """Optimizer steps finished, counting this one."""
    groups: tuple[Group, ...]
    """The rollouts trained on; with several updates a sampling the same for each of them."""
    metrics: Mapping[str, float]
    """Metric name to value; names follow TRL where they mean the same."""
    epoch: float = 0.0
    """Passes over the training set finished."""
    learning_rate: float = 0.0
    """Of this step."""
    policy_version: int = 0
    """Optimizer steps that the policy had taken when it sampled these rollouts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """A task's judgement of one answer, apart from any reward.

    Example, the right number in the wrong format: `Grade(strict=False, lenient=True, formatted=False)`
    """

    strict: bool
    """Right, and in the demanded format."""
    lenient: bool
    """Right wherever it can be found in the text."""
    formatted: bool
    """In the demanded format, right or wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardScores:
    """What all reward functions returned for one batch of completions.

    Example: `RewardScores(names=("format", "equation"), values=((1.0, 0.0), (None, 1.0)), failures=())`
    """

    names: tuple[str, ...]
    """Reward function names, unique."""
    values: tuple[tuple[float | None, ...], ...]
    """One tuple a completion, in the order of `names`."""
    failures: tuple[RewardFailure, ...] = ()
    """What went wrong; a row named here has None, never a silent 0."""
    metrics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Name to what functions logged under it (`log_metric`), to be averaged."""
    extras: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Column to one value a completion, logged by functions (`log_extra`)."""
