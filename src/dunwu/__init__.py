"""Dunwu (顿悟, "sudden insight"): teaches language models to reason with GRPO.

    from dunwu import GRPOConfig, GRPOTrainer

    trainer = GRPOTrainer("Qwen/Qwen2.5-0.5B-Instruct", reward_funcs=my_reward, train_dataset=rows)
    trainer.train()

Names are loaded when first used: `import dunwu` alone loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

import dunwu._utils.language as _language
import dunwu.errors as _errors

if TYPE_CHECKING:
    from dunwu.config import GRPOConfig as GRPOConfig
    from dunwu.core.algorithm import AlgorithmConfig as AlgorithmConfig
    from dunwu.core.algorithm import advantages as advantages
    from dunwu.core.algorithm import loss_denominator as loss_denominator
    from dunwu.core.algorithm import loss_weights as loss_weights
    from dunwu.core.algorithm import token_loss as token_loss
    from dunwu.core.policy_losses import LossInputs as LossInputs
    from dunwu.core.policy_losses import LossOutputs as LossOutputs
    from dunwu.core.protocols import Engine as Engine
    from dunwu.core.protocols import Environment as Environment
    from dunwu.core.protocols import Observer as Observer
    from dunwu.core.protocols import PolicyLoss as PolicyLoss
    from dunwu.core.protocols import Task as Task
    from dunwu.core.records import Completion as Completion
    from dunwu.core.records import Grade as Grade
    from dunwu.core.records import Group as Group
    from dunwu.core.records import MicroBatch as MicroBatch
    from dunwu.core.records import Prompt as Prompt
    from dunwu.core.records import Rollout as Rollout
    from dunwu.core.records import RunInfo as RunInfo
    from dunwu.core.records import SamplingParams as SamplingParams
    from dunwu.core.records import StepResult as StepResult
    from dunwu.embedded import embedded_model_path as embedded_model_path
    from dunwu.embedded import quickstart_task as quickstart_task
    from dunwu.engines import TransformersEngine as TransformersEngine
    from dunwu.engines import make_engine as make_engine
    from dunwu.engines import ready as ready
    from dunwu.errors import DunwuError as DunwuError
    from dunwu.model.loading import load_model as load_model
    from dunwu.model.loading import load_tokenizer as load_tokenizer
    from dunwu.model.loading import to_best_device as to_best_device
    from dunwu.model.logprobs import forward_logps as forward_logps
    from dunwu.observers import MetricsLog as MetricsLog
    from dunwu.observers import RolloutLog as RolloutLog
    from dunwu.observers import draw_curves as draw_curves
    from dunwu.recipes.evaluation import Evaluation as Evaluation
    from dunwu.recipes.evaluation import evaluate as evaluate
    from dunwu.recipes.experiment import Experiment as Experiment
    from dunwu.recipes.recipe import Recipe as Recipe
    from dunwu.recipes.recipe import load_recipe as load_recipe
    from dunwu.recipes.recipe import prompt_rows as prompt_rows
    from dunwu.rewards import RewardModel as RewardModel
    from dunwu.rewards import RewardRunner as RewardRunner
    from dunwu.rewards import get_reward as get_reward
    from dunwu.rollout.collect import add_advantages as add_advantages
    from dunwu.rollout.collect import collect as collect
    from dunwu.rollout.micro_batches import make_micro_batches as make_micro_batches
    from dunwu.rollout.micro_batches import trained_token_counts as trained_token_counts
    from dunwu.rollout.prompts import PromptOrder as PromptOrder
    from dunwu.rollout.prompts import build_prompts as build_prompts
    from dunwu.rollout.prompts import describe_prompt as describe_prompt
    from dunwu.tasks import get_task as get_task
    from dunwu.tasks.read_rows import read_rows as read_rows
    from dunwu.training.trainer import GRPOTrainer as GRPOTrainer

__version__ = "0.1.0"

# tqdm's advice to install widgets would be the first thing that a notebook shows, in red; no bar here needs them.
warnings.filterwarnings("ignore", message="IProgress not found")
_errors.DunwuError.translate = staticmethod(_language.translated)  # type: ignore[method-assign, assignment]

_NAMES = {
    "config": ("GRPOConfig",),
    "core.algorithm": (
        "AlgorithmConfig",
        "advantages",
        "loss_denominator",
        "loss_weights",
        "token_loss",
    ),
    "core.policy_losses": ("LossInputs", "LossOutputs"),
    "core.protocols": ("Engine", "Environment", "Observer", "PolicyLoss", "Task"),
    "core.records": (
        *("Completion", "Grade", "Group", "MicroBatch", "Prompt", "Rollout", "RunInfo", "SamplingParams"),
        "StepResult",
    ),
    "embedded": ("embedded_model_path", "quickstart_task"),
    "engines": ("TransformersEngine", "make_engine", "ready"),
    "errors": ("DunwuError",),
    "model.loading": ("load_model", "load_tokenizer", "to_best_device"),
    "model.logprobs": ("forward_logps",),
    "observers": ("MetricsLog", "RolloutLog", "draw_curves"),
    "recipes.evaluation": ("Evaluation", "evaluate"),
    "recipes.experiment": ("Experiment",),
    "recipes.recipe": ("Recipe", "load_recipe", "prompt_rows"),
    "rewards": ("RewardModel", "RewardRunner", "get_reward"),
    "rollout.collect": ("add_advantages", "collect"),
    "rollout.micro_batches": ("make_micro_batches", "trained_token_counts"),
    "rollout.prompts": ("PromptOrder", "build_prompts", "describe_prompt"),
    "tasks": ("get_task",),
    "tasks.read_rows": ("read_rows",),
    "training.trainer": ("GRPOTrainer",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dunwu' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dunwu.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
