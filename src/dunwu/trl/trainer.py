"""`GRPOTrainer` as scripts for TRL 0.14 to 1.16 call it.

`dunwu.GRPOTrainer` with the arguments, attributes and metric names of earlier TRL versions beside today's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from torch import nn
from transformers import ProcessorMixin, TrainerCallback
from transformers.trainer_utils import TrainOutput

from dunwu import config
from dunwu._utils.known_arguments import known_arguments
from dunwu._utils.logging import get_logger
from dunwu.core.records import Row
from dunwu.errors import ConfigError
from dunwu.training import trainer
from dunwu.training.checkpoint import last_complete_checkpoint
from dunwu.training.trainer_arguments import TRL_ARGUMENTS
from dunwu.trl.config import GRPOConfig
from dunwu.trl.options import get_options
from dunwu.trl.supported_names import alternative_to

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from transformers import PreTrainedTokenizerBase

    from dunwu.rollout.plugs import Tokenizers

__all__ = ["GRPOTrainer", "legacy_metrics"]

_MIRRORED_OPTIONS: Final = (
    "num_generations",
    "max_prompt_length",
    "max_completion_length",
    "beta",
    "temperature",
    "epsilon_high",
)
"""Options that TRL's trainer repeats as attributes, which subclasses and callbacks read."""

_SAMPLING: Final = "completions come from an engine: dunwu.GRPOTrainer(engine=…)"
_LOSS: Final = "the loss of a token is a function: GRPOConfig(loss_type='package.module:function')"
_NEVER_CALLED: Final = {
    "_generate": _SAMPLING,
    "_generate_single_turn": _SAMPLING,
    "_generate_and_score_completions": _SAMPLING,
    "_calculate_rewards": "give functions as reward_funcs, with reward_weights",
    "_compute_loss": _LOSS,
    "_get_per_token_logps": _LOSS,
    "_get_per_token_logps_and_entropies": _LOSS,
    "_get_train_sampler": "shuffle_dataset and prompts_per_step decide the order of the prompts",
}
"""Methods of TRL's trainer that a subclass may override, and that nothing would call here."""
_OURS: Final = dict.fromkeys(("engine", "observers", "environment"), "take GRPOTrainer from dunwu, which has it")


class GRPOTrainer(trainer.GRPOTrainer):
    """Trains with GRPO; called as TRL's trainer is. The arguments are those of `dunwu.GRPOTrainer`.

    `tokenizer` is the old name of `processing_class`.

    Raises:
        ConfigError: for what is not supported in this form (tools, images, a quantised model by name, a subclass
            with TRL's own methods), each by name.
    """

    @known_arguments("GRPOTrainer", _OURS)
    def __init__(
        self,
        model: str | nn.Module,
        reward_funcs: Any = None,
        args: config.GRPOConfig | None = None,
        train_dataset: Iterable[Row] | None = None,
        eval_dataset: Iterable[Row] | Mapping[str, Iterable[Row]] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        reward_processing_classes: Tokenizers = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Optimizer | None, LRScheduler | None] = (None, None),
        peft_config: PeftConfig | None = None,
        tools: object = None,
        rollout_func: object = None,
        environment_factory: object = None,
        quantization_config: object = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        _refuse({"tools": tools, "rollout_func": rollout_func, "environment_factory": environment_factory})
        _refuse({"quantization_config": quantization_config})
        processing_class = processing_class if processing_class is not None else tokenizer
        _refuse_images(processing_class, train_dataset)
        super().__init__(
            model,
            reward_funcs,
            _options(args, model),
            train_dataset,
            eval_dataset,
            processing_class,
            reward_processing_classes,
            callbacks,
            optimizers,
            peft_config,
            observers="standard" if get_options().observed else (),
        )

    def __init_subclass__(cls) -> None:
        """Refuse a subclass that changes TRL's own methods: it would train without the change, and say nothing.

        Raises:
            ConfigError: for such a method, with what takes its place.
        """
        super().__init_subclass__()
        for name in _NEVER_CALLED.keys() & vars(cls).keys():
            raise ConfigError(f"{cls.__name__}.{name} would never be called: {_NEVER_CALLED[name]}")

    def __getattr__(self, name: str) -> Any:
        if name in _MIRRORED_OPTIONS and "args" in self.__dict__:
            return getattr(self.args, name)
        raise AttributeError(f"GRPOTrainer has no attribute {name!r}")

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Old name of `processing_class`."""
        return cast("PreTrainedTokenizerBase", self.processing_class)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train; with `dunwu run --resume`, from the last complete checkpoint in the output folder, if any."""
        if resume_from_checkpoint is None and get_options().resume:
            last = last_complete_checkpoint(Path(str(self.args.output_dir)))
            resume_from_checkpoint = None if last is None else str(last)
            get_logger().info(
                f"--resume: continuing from {last}"
                if last
                else "--resume: no checkpoint yet; starting from the model"
            )
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def figures(self, logs: dict[str, float]) -> dict[str, float]:
        """Today's metrics, and the same under the names of earlier versions."""
        today = super().figures(logs)
        return {**today, **legacy_metrics(today)}

    def create_model_card(  # type: ignore[override]
        self,
        model_name: str | Mapping[str, object] | None = None,
        dataset_name: str | list[str] | None = None,
        tags: str | list[str] | None = None,
        finetuned_from: str | None = None,
        language: str | None = None,
        license: str | None = None,
    ) -> None:
        """A README.md beside the model; the first argument may be a dict of all of these, as some tutorials write."""
        given: dict[str, object] = {"model_name": model_name, "dataset": dataset_name, "tags": tags}
        given |= {"finetuned_from": finetuned_from, "language": language, "license": license}
        if isinstance(model_name, Mapping):
            given |= {"model_name": None, **{k: v for k, v in model_name.items() if k in given}}
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        super().create_model_card(**options)


def legacy_metrics(logs: Mapping[str, float]) -> dict[str, float]:
    """Metrics by the names of TRL 0.14, from today's: `completion_length`, `rewards/<function>`."""
    found = {}
    for name, value in logs.items():
        if name.endswith("completions/mean_length"):
            found[name.replace("completions/mean_length", "completion_length")] = value
        elif "rewards/" in name and name.endswith("/mean"):
            found[name.removesuffix("/mean")] = value
    return found


def _options(args: object, model: str | nn.Module) -> config.GRPOConfig:
    if isinstance(args, config.GRPOConfig):
        return args
    if args is None:
        make: Callable[..., config.GRPOConfig] = GRPOConfig
        return make(output_dir=f"{_name_of(model).rstrip('/').rpartition('/')[2]}-GRPO")
    raise ConfigError(f"args must be a GRPOConfig, got {type(args).__name__}; use trl's or dunwu's GRPOConfig")


def _name_of(model: str | nn.Module) -> str:
    if isinstance(model, str):
        return model
    return getattr(getattr(model, "config", None), "_name_or_path", "") or "model"


def _refuse(given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value is not None:
            raise ConfigError(f"GRPOTrainer({name}=…) is not supported: {TRL_ARGUMENTS[name]}")


def _refuse_images(processing_class: object, rows: object) -> None:
    columns = getattr(rows, "column_names", None) or []
    if isinstance(processing_class, ProcessorMixin) or {"image", "images"} & set(columns):
        raise ConfigError(alternative_to("images"))
