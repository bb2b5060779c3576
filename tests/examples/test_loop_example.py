"""The loop in one screen computes what the trainer does."""

import runpy
from pathlib import Path

import pytest
import torch

import dunwu

LOOP = Path(__file__).parents[2] / "examples" / "loop.py"


def test_after_three_steps_its_weights_are_the_trainers_bit_for_bit(tmp_path, capsys: pytest.CaptureFixture[str]):
    """Documentation that is an oracle: the trainer's hooks may add nothing to the arithmetic."""
    model = runpy.run_path(str(LOOP))["train"](steps=3)
    task = dunwu.quickstart_task()
    config = dunwu.GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=3,
        prompts_per_step=4,
        num_generations=8,
        max_completion_length=60,
        tokens_per_micro_batch=2048,
        learning_rate=2.5e-4,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=42,
        save_strategy="no",
        disable_tqdm=True,
    )
    rows = dunwu.prompt_rows(task, task.rows("train")[:64])
    trainer = dunwu.GRPOTrainer(dunwu.embedded_model_path(), list(task.rewards), config, rows)
    trainer.train()
    mine, theirs = model.state_dict(), trainer.model.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    rewards = [log["reward"] for log in trainer.state.log_history if "reward" in log]
    assert [f"{reward:.3f}" for reward in rewards] == [
        line.rpartition(" ")[2] for line in capsys.readouterr().out.splitlines() if line.startswith("step ")
    ]


def test_it_fits_a_screen():
    code = [line for line in LOOP.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(code) <= 55
