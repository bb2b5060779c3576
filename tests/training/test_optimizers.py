"""Optimizers that are safe in bfloat16: libraries' own, by transformers' names, held to the numbers that matter."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch
from transformers import Trainer

from dunwu import GRPOConfig

STEPS = 100


def moved(optim: str, tmp_path, *, lr: float = 1e-6, optim_args: str | None = None) -> float:
    """Mean way of bfloat16 weights after 100 steps with equal signs, in units of 100 learning rates."""
    torch.manual_seed(0)
    model = torch.nn.Linear(256, 256, bias=False)
    torch.nn.init.normal_(model.weight, std=0.02)
    model.to(torch.bfloat16)
    config = GRPOConfig(output_dir=str(tmp_path), optim=optim, optim_args=optim_args, learning_rate=lr)
    make, options = Trainer.get_optimizer_cls_and_kwargs(config, model)
    optimizer = make(model.parameters(), **{**options, "weight_decay": 0.0})
    before = model.weight.detach().double().clone()
    for _ in range(STEPS):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
    return float((before - model.weight.detach().double()).mean()) / (STEPS * lr)


def test_kahan_summation_moves_bfloat16_weights_by_what_the_steps_add_up_to(tmp_path):
    """Numerics 8: within 1 % (the weights' own last digit makes the mean a little uneven)."""
    assert moved("stable_adamw", tmp_path) == pytest.approx(1.0, abs=0.01)


def test_plain_adamw_in_bfloat16_stays_almost_where_it_was(tmp_path):
    """What the others are for: most steps are rounded away."""
    assert moved("adamw_torch", tmp_path) < 0.1


@pytest.mark.slow
def test_eight_bit_adam_with_stochastic_rounding_moves_as_far(tmp_path):
    """In a process of its own: the library compiles its step, and warns while it is imported."""
    if importlib.util.find_spec("torchao") is None:
        pytest.skip("torchao is not installed: pip install 'dunwu[eightbit]'")
    script = tmp_path / "eight.py"
    folder = str(tmp_path)
    script.write_text(
        f"import sys; sys.path.insert(0, {str(__file__).rpartition('/')[0]!r})\n"
        "from test_optimizers import moved\n"
        f"print(moved('adamw_torch_8bit', {folder!r}, optim_args='bf16_stochastic_round=True'))\n"
        f"print(moved('adamw_torch_8bit', {folder!r}))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    rounded, plain = (float(line) for line in done.stdout.strip().splitlines()[-2:])
    assert rounded == pytest.approx(1.0, abs=0.02)
    assert plain < 0.1


def test_the_launch_warns_of_bfloat16_weights_unless_the_optimizer_keeps_small_steps(tiny, make_trainer, caplog):
    for optim, warned in (("adamw_torch", True), ("stable_adamw", False)):
        caplog.clear()
        with caplog.at_level("INFO", logger="dunwu"):
            make_trainer(tiny.model().to(torch.bfloat16), max_steps=1, learning_rate=1e-6, optim=optim).train()
        assert ("leave most bfloat16 weights where they were" in caplog.text) == warned
