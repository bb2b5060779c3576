"""Dunwu (顿悟, "sudden insight"): teaches language models to reason with GRPO.

    from dunwu import GRPOConfig, GRPOTrainer

    trainer = GRPOTrainer("Qwen/Qwen2.5-0.5B-Instruct", reward_funcs=my_reward, train_dataset=rows)
    trainer.train()

Names are loaded when first used: `import dunwu` alone loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dunwu.config import GRPOConfig
    from dunwu.core.protocols import Engine, Observer, Task
    from dunwu.core.records import Completion, Group, Prompt, Rollout, SamplingParams, StepResult
    from dunwu.engines import TransformersEngine
    from dunwu.recipes.evaluation import Evaluation, evaluate
    from dunwu.recipes.experiment import Run
    from dunwu.recipes.recipe import Recipe, load_recipe
    from dunwu.rewards import RewardModel, RewardRunner, get_reward
    from dunwu.tasks import get_task
    from dunwu.training.trainer import GRPOTrainer

__version__ = "0.1.0"

__all__ = [
    "Completion",
    "Engine",
    "Evaluation",
    "GRPOConfig",
    "GRPOTrainer",
    "Group",
    "Observer",
    "Prompt",
    "Recipe",
    "RewardModel",
    "RewardRunner",
    "Rollout",
    "Run",
    "SamplingParams",
    "StepResult",
    "Task",
    "TransformersEngine",
    "__version__",
    "evaluate",
    "get_reward",
    "get_task",
    "load_recipe",
]

_HOME = {
    "GRPOConfig": "config",
    "GRPOTrainer": "training.trainer",
    "TransformersEngine": "engines",
    "Evaluation": "recipes.evaluation",
    "evaluate": "recipes.evaluation",
    "Recipe": "recipes.recipe",
    "load_recipe": "recipes.recipe",
    "RewardModel": "rewards",
    "RewardRunner": "rewards",
    "get_reward": "rewards",
    "get_task": "tasks",
    "Run": "recipes.experiment",
    **dict.fromkeys(("Engine", "Observer", "Task"), "core.protocols"),
    **dict.fromkeys(("Completion", "Group", "Prompt", "Rollout", "SamplingParams", "StepResult"), "core.records"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dunwu' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dunwu.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
