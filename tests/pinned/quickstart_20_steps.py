"""Twenty steps of GRPO, written down exactly: `test_pinned.py` compares them with the committed ones.

    python tests/pinned/quickstart_20_steps.py > tests/pinned/quickstart_20_steps.json

The settings are those of the first quickstart and stand here in full (`RECIPE`), so that tuning the recipe of that
name moves nothing. It runs in a process of its own, in which all that depends on the kind of processor is switched
off (`ENVIRONMENT`): compiled decoding steps, torch's vector kernels, MKL's choice of kernels.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "DUNWU_NATIVE": "0",
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "MKL_NUM_THREADS": "1",
}
STEPS = 20
RECIPE = f"""\
model: embedded
task:
  name: countdown
  style: tiny
  numbers: 3
  high: 20
  target_low: 10
  target_high: 99
  limit: 99
  train_rows: 4096
  validation_rows: 500
  test_rows: 500
rewards: [think_answer_format, thought_lines_differ, equation_solves]
max_reward: 3.0
train:
  max_steps: {STEPS}
  prompts_per_step: 16
  num_generations: 8
  max_completion_length: 120
  tokens_per_micro_batch: 2048
  reward_weights: [0.3, 1.0, 1.0]
  learning_rate: 2.5e-4
  lr_scheduler_type: linear
  warmup_steps: 5
  adam_beta2: 0.95
  weight_decay: 0.0
  loss_type: dapo
  epsilon_high: 0.28
  beta: 0.008
  max_grad_norm: 1.0
  seed: 42
  save_strategy: no
"""
FIGURES = (
    "loss",
    "reward",
    "rewards/equation_solves/mean",
    "rewards/think_answer_format/mean",
    "rewards/thought_lines_differ/mean",
    "completions/mean_length",
    "grad_norm",
    "kl",
    "entropy",
)


class Watch:
    """An observer that keeps the figures of each step and a hash of what was sampled for it."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def on_step(self, step: Any) -> None:
        ids = [list(rollout.completion.ids) for group in step.groups for rollout in group.rollouts]
        found = {name: step.metrics[name] for name in FIGURES}
        self.steps.append({"step": step.index, "token_ids": _hash(json.dumps(ids)), **found})


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def curve(folder: Path) -> dict[str, Any]:
    """The figures of each step, and a hash of the weights after the last."""
    from dunwu.recipes.recipe import load_recipe
    from dunwu.recipes.wiring import make_config, make_task, make_trainer

    file = folder / "recipe.yaml"
    file.write_text(RECIPE, encoding="utf-8")
    recipe = load_recipe(str(file), {"train.output_dir": str(folder)})
    watch = Watch()
    trainer = make_trainer(recipe, make_task(recipe), make_config(recipe, disable_tqdm=True), observers=[watch])
    trainer.train()
    weights = hashlib.sha256()
    for name, tensor in sorted(trainer.model.state_dict().items()):
        weights.update(name.encode() + tensor.numpy().tobytes())
    return {"steps": watch.steps, "weights": weights.hexdigest()[:16]}


if __name__ == "__main__":
    logging.getLogger("dunwu").addHandler(logging.StreamHandler(sys.stderr))
    printed, sys.stdout = sys.stdout, sys.stderr
    with tempfile.TemporaryDirectory() as scratch:
        found = curve(Path(scratch))
    json.dump(found, printed, indent=1)
    printed.write("\n")
