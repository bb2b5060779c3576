"""The one place where a trainer's parts are made and wired."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

from torch import Tensor, nn

from dunwu._utils.distributed import ParallelContext, let_gloo_finish_at_exit
from dunwu.config import GRPOConfig
from dunwu.config.options import as_dict
from dunwu.core.algorithm import AlgorithmConfig
from dunwu.core.policy_losses import bind_policy_loss
from dunwu.core.protocols import Engine, Environment, Observer, Scorer
from dunwu.core.records import PendingRollouts, Prompt, Row
from dunwu.errors import ConfigError
from dunwu.model.dropout import check_deterministic
from dunwu.model.loading import prepare_policy, tokenizer_of
from dunwu.model.reference import ReferenceModel
from dunwu.rollout.collector import RolloutCollector
from dunwu.rollout.observation import RunObservers, default_observers, expand_standard
from dunwu.rollout.plugs import make_run_engine, make_scorer
from dunwu.rollout.token_budget import TokenBudget, make_token_budget
from dunwu.rollout.training_prompts import build_training_prompts

if TYPE_CHECKING:
    from accelerate import Accelerator
    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerState
    from transformers.trainer_callback import CallbackHandler

    from dunwu.rollout.plugs import Reward, Tokenizers

__all__ = ["LoopState", "TrainerParts", "make_collector", "make_parts"]


@dataclass(kw_only=True)
class LoopState:
    """What the trainer's hooks share: the state of the loop between two of transformers' calls.

    Example: `LoopState(step_began=1204.5, learning_rate=1e-6, completions=512, run_id="0f3c9a5e")`
    """

    pending: PendingRollouts | None = None
    """Rollouts with updates left, or those just trained on."""
    step_began: float = 0.0
    """`time.perf_counter()` when the current step began."""
    learning_rate: float = 0.0
    """Of the current step."""
    policy_logps: Tensor | None = None
    """The policy's log-probabilities of the last micro-batch, (B, C)."""
    completions: int = 0
    """Completions sampled since `train` was called, over all ranks."""
    run_id: str = ""
    """Distinguishes this run's checkpoints from another's in the same folder."""
    is_gap_checked: bool = False
    """Whether a step of this call of `train` has shown that sampler and policy are one distribution."""
    is_interrupted: bool = False
    """Whether the run stops before its end because somebody asked for it."""
    random_states_from: str | None = None
    """A checkpoint whose random states are still to be put back."""


@dataclass(frozen=True, kw_only=True)
class TrainerParts:
    """What a trainer is made of before transformers' own set-up.

    Example: `TrainerParts(policy=policy, tokenizer=tokenizer, algorithm=AlgorithmConfig(), scorer=scorer,
    prompts=[p], budget=TokenBudget(tokens=4096), reference=None)`
    """

    policy: PreTrainedModel
    """The model to train, with its adapter."""
    tokenizer: PreTrainedTokenizerBase
    """Its tokenizer."""
    algorithm: AlgorithmConfig
    """The algorithm that the options name."""
    scorer: Scorer
    """The rewards."""
    prompts: list[Prompt]
    """The training set as the model reads it; empty without one."""
    budget: TokenBudget
    """Tokens a forward pass may compute."""
    reference: ReferenceModel | None
    """The policy as it was given; None without a KL term."""
    parallel: ParallelContext = field(default_factory=ParallelContext)
    """This rank."""


def make_parts(
    model: str | nn.Module,
    reward_funcs: Reward | Sequence[Reward],
    args: GRPOConfig,
    train_dataset: Iterable[Row] | None,
    tokenizers: tuple[PreTrainedTokenizerBase | None, Tokenizers],
    peft_config: PeftConfig | None,
) -> TrainerParts:
    """Load, wrap and check; the reference is copied before anything can move the policy.

    Raises:
        DunwuError: one of its kinds for anything that does not fit, each with what to do.
    """
    if not isinstance(args, GRPOConfig):
        raise ConfigError(f"args must be a GRPOConfig, got {type(args).__name__}; write GRPOConfig(output_dir=…)")
    init_kwargs = as_dict(args.model_init_kwargs)
    policy = prepare_policy(model, init_kwargs, peft_config, dropout=not args.disable_dropout)
    processing_class, reward_processing_classes = tokenizers
    tokenizer = processing_class or tokenizer_of(policy)
    algorithm = args.algorithm()
    bind_policy_loss(
        algorithm.policy_loss, algorithm.loss_options
    )  # a misspelt option of the loss is found now, not at the first step
    parallel = ParallelContext(rank=args.process_index, size=args.world_size)
    if parallel.size > 1:
        let_gloo_finish_at_exit()
    scorer = make_scorer(reward_funcs, reward_processing_classes, args)
    prompts = build_training_prompts(train_dataset, policy, tokenizer, args)
    if prompts:
        scorer.check_columns(prompts[0].row)
    return TrainerParts(
        policy=policy,
        tokenizer=tokenizer,
        algorithm=algorithm,
        scorer=scorer,
        prompts=prompts,
        budget=make_token_budget(policy, args.tokens_per_micro_batch, args.world_size),
        reference=ReferenceModel(policy, updatable=args.sync_ref_model) if algorithm.beta else None,
        parallel=parallel,
    )


class _TrainerSide(Protocol):
    """What the collector needs of a trainer that transformers has set up."""

    args: GRPOConfig
    model: PreTrainedModel
    accelerator: Accelerator
    callback_handler: CallbackHandler
    state: TrainerState
    observers: list[Observer]


def make_collector(
    parts: TrainerParts,
    trainer: _TrainerSide,
    *,
    engine: Engine | str | None,
    environment: Environment | str | None,
) -> RolloutCollector:
    """The collector of a trainer whose model is where it trains.

    Args:
        parts: from `make_parts`.
        trainer: the trainer; what watches every run is added to its list of observers.
        engine: an engine, the name of one, or None for the options'.
        environment: an environment, the name of one, or None.
    """
    args = trainer.args
    if args.disable_dropout:
        check_deterministic(trainer.model)
    parts.scorer.trainer_state = lambda: trainer.state  # transformers replaces it when training begins or resumes
    callbacks = trainer.callback_handler.callbacks
    expand_standard(cast("list[Observer | str]", trainer.observers), args, callbacks)
    watching = RunObservers(trainer.observers, parts.parallel)
    for observer in default_observers(args, callbacks):
        watching.append(observer)
    return RolloutCollector(
        args=args,
        algorithm=parts.algorithm,
        engine=make_run_engine(trainer.model, parts.tokenizer, args, engine=engine, environment=environment),
        scorer=parts.scorer,
        reference=parts.reference,
        # transformers' own context is empty since 5.0: accelerate patches the policy's forward alone, and the
        # reference is not prepared by it.
        autocast=trainer.accelerator.autocast,
        budget=parts.budget,
        observers=watching,
        parallel=parts.parallel,
    )
