"""Two processes on this machine learn what one does: whole groups, one denominator, the same completions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, os, sys
import torch
from dunwu import GRPOConfig, GRPOTrainer
from dunwu.embedded import embedded_model_path
from dunwu.rollout.collector import warn_if_ranks_differ

torch.set_num_threads(1)

def shorter(completions, log_metric, log_extra, trainer_state, **columns):
    log_metric("mine/characters", sum(map(len, completions)) / len(completions))
    log_metric("mine/step", trainer_state.global_step)
    log_extra("text", completions)
    return [-float(len(text)) for text in completions]

rows = [{"prompt": f"{n} 3 4 = {n + 7}"} for n in range(1, 13)]
config = GRPOConfig(
    output_dir=sys.argv[1], max_steps=3, prompts_per_step=4, num_generations=4, max_completion_length=12,
    learning_rate=1e-3, tokens_per_micro_batch=100, loss_type=sys.argv[2], scale_rewards=sys.argv[3],
    beta=0.02, logging_steps=1, save_strategy="no", disable_tqdm=True,
)
class Seen:
    rows = []
    def on_step(self, step):
        self.rows.append(sorted(group.prompt.row_index for group in step.groups))
        for rollout in (rollout for group in step.groups for rollout in group.rollouts):
            assert rollout.extras == {"text": rollout.completion.text}, rollout

observers = [Seen()] if config.process_index == 0 else []  # one rank that listens is enough
trainer = GRPOTrainer(embedded_model_path(), shorter, config, rows, observers=observers)
trainer.train()
warn_if_ranks_differ(trainer.prompts, trainer.parallel)
print("SAME ROWS: SAID NOTHING")
warn_if_ranks_differ(trainer.prompts[config.process_index:], trainer.parallel)
if trainer.is_world_process_zero():
    weights = {name: float(p.detach().double().abs().sum()) for name, p in trainer.model.named_parameters()}
    wrapper = type(trainer.model_wrapped).__name__
    timed = ("time", "step_time", "train_", "epoch")
    logs = [{k: v for k, v in h.items() if not k.startswith(timed)} for h in trainer.state.log_history[:3]]
    print("RESULT " + json.dumps({"world": config.world_size, "wrapper": wrapper, "weights": weights, "logs": logs,
        "rows": Seen.rows}))
"""


def result(command: list[str], folder: Path, *options: str) -> dict[str, object]:
    script = folder / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script), str(folder / "out"), *options],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    before, _, after = done.stdout.partition("SAME ROWS: SAID NOTHING")
    assert "different training rows" not in before
    assert ("different training rows" in after) is ("torch.distributed.run" in command)
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    found: dict[str, object] = json.loads(line.removeprefix("RESULT "))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("options", [("dapo", "group"), ("grpo", "batch")])
def test_two_ranks_take_the_same_steps_as_one(tmp_path: Path, options: tuple[str, str]) -> None:
    """Launchers quietly fall back to one process: world size and wrapper are asserted, not assumed."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    one = result([sys.executable], tmp_path, *options)
    two = result(torchrun, tmp_path, *options)
    assert (one["world"], two["world"]) == (1, 2)
    assert two["wrapper"] == "DistributedDataParallel"
    assert two["rows"] == one["rows"], "observers hear of every rank's groups"
    assert [log["mine/step"] for log in one["logs"]] == [0, 1, 2]  # type: ignore[attr-defined]
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-5)
    for alone, together in zip(one["logs"], two["logs"], strict=True):  # type: ignore[call-overload]
        assert together == pytest.approx(alone, rel=1e-3, abs=1e-5)
