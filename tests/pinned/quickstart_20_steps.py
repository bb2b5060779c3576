"""Twenty steps of the quickstart, written down exactly: `test_pinned.py` compares them with the committed ones.

    python tests/pinned/quickstart_20_steps.py > tests/pinned/quickstart_20_steps.json

It runs in a process of its own, in which all that depends on the kind of processor is switched off (`ENVIRONMENT`):
compiled decoding steps, torch's vector kernels, MKL's choice of kernels.
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

    recipe = load_recipe("quickstart", {"train.output_dir": str(folder), "train.max_steps": str(STEPS)})
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
