"""`GRPOTrainer` as scripts of TRL 0.14 to 1.16 call it.

What it is: `dunwu.GRPOTrainer` with the arguments, attributes and metric names of then beside today's.
What it is not: another algorithm; nothing that is learned is decided here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import ProcessorMixin
from transformers.trainer_utils import TrainOutput

from dunwu import config
from dunwu._utils.logging import get_logger
from dunwu.training import trainer
from dunwu.training.checkpoint import last_complete_checkpoint
from dunwu.trl.config import GRPOConfig
from dunwu.trl.supported_names import instead

__all__ = ["GRPOTrainer", "old_names"]

_OF_THE_OPTIONS = (
    "num_generations",
    "max_prompt_length",
    "max_completion_length",
    "beta",
    "temperature",
    "epsilon_high",
)
"""Options that TRL's trainer repeats as attributes, which subclasses and callbacks read."""
_NOT_HERE = {
    "tools": "tools are not here: rewards see one answer a prompt",
    "rollout_func": "write an Engine (dunwu.core.records.Engine) and give it to dunwu.GRPOTrainer(engine=…)",
    "environment_factory": "environments are not here: rewards see one answer a prompt",
    "quantization_config": "load the model quantised and give it as `model`, with a peft_config",
}


class GRPOTrainer(trainer.GRPOTrainer):
    """Trains with GRPO; called as TRL's trainer is. Arguments are those of `dunwu.GRPOTrainer`.

    `tokenizer` is the old name of `processing_class`.

    Raises:
        ValueError: for what Dunwu does not have (tools, images, a quantised model by name), each by name.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        reward_processing_classes: Any = None,
        callbacks: Any = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: Any = None,
        tools: Any = None,
        rollout_func: Any = None,
        environment_factory: Any = None,
        quantization_config: Any = None,
        tokenizer: Any = None,
    ) -> None:
        _refuse({"tools": tools, "rollout_func": rollout_func, "environment_factory": environment_factory})
        _refuse({"quantization_config": quantization_config})
        processing_class = processing_class if processing_class is not None else tokenizer
        _no_images(processing_class, train_dataset)
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
        )

    def __getattr__(self, name: str) -> Any:
        if name in _OF_THE_OPTIONS and "args" in self.__dict__:
            return getattr(self.args, name)
        raise AttributeError(f"GRPOTrainer has no attribute {name!r}")

    @property
    def tokenizer(self) -> Any:
        """Old name of `processing_class`."""
        return self.processing_class

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train; under `dunwu run --resume`, from the last whole checkpoint in the output folder, if there is one."""
        if resume_from_checkpoint is None and os.environ.get("DUNWU_RESUME"):
            last = last_complete_checkpoint(Path(str(self.args.output_dir)))
            resume_from_checkpoint = None if last is None else str(last)
            get_logger().info(
                f"--resume: going on from {last}" if last else "--resume: no checkpoint yet; starting anew"
            )
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def figures(self, logs: dict[str, float]) -> dict[str, float]:
        """The metrics of then beside today's."""
        today = super().figures(logs)
        return {**today, **old_names(today)}

    def create_model_card(  # type: ignore[override]
        self,
        model_name: Any = None,
        dataset_name: Any = None,
        tags: Any = None,
        finetuned_from: str | None = None,
        language: str | None = None,
        license: str | None = None,
    ) -> None:
        """A README.md beside the model; the first argument may be a dict of all of these, as some tutorials write."""
        given = {"model_name": model_name, "dataset": dataset_name, "tags": tags, "finetuned_from": finetuned_from}
        given |= {"language": language, "license": license}
        if isinstance(model_name, Mapping):
            given |= {"model_name": None, **{k: v for k, v in model_name.items() if k in given}}
        super().create_model_card(**{name: value for name, value in given.items() if value is not None})


def old_names(logs: Mapping[str, float]) -> dict[str, float]:
    """The figures that TRL 0.14 logged, by its names, from today's: `completion_length`, `rewards/<function>`."""
    found = {}
    for name, value in logs.items():
        if name.endswith("completions/mean_length"):
            found[name.replace("completions/mean_length", "completion_length")] = value
        elif "rewards/" in name and name.endswith("/mean"):
            found[name.removesuffix("/mean")] = value
    return found


def _options(args: Any, model: Any) -> config.GRPOConfig:
    if isinstance(args, config.GRPOConfig):
        return args
    if args is None:
        name = model if isinstance(model, str) else getattr(model.config, "_name_or_path", "") or "model"
        made: Callable[..., config.GRPOConfig] = GRPOConfig
        return made(output_dir=f"{name.rstrip('/').rpartition('/')[2]}-GRPO")
    raise ValueError(
        f"args must be a GRPOConfig, got {type(args).__name__}; make one with trl's or dunwu's GRPOConfig"
    )


def _refuse(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"GRPOTrainer({name}=…) does not work here: {_NOT_HERE[name]}")


def _no_images(processing_class: Any, rows: Any) -> None:
    columns = getattr(rows, "column_names", None) or []
    if isinstance(processing_class, ProcessorMixin) or {"image", "images"} & set(columns):
        raise ValueError(instead("images"))
