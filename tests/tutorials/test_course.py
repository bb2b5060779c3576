"""T1, the course: `t1_course.py` unmodified, to the end, twice."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hub_server import HubServer

REWARDS = (
    "xmlcount_reward_func",
    "soft_format_reward_func",
    "strict_format_reward_func",
    "int_reward_func",
    "correctness_reward_func",
)
OUT = "outputs/Qwen-0.5B-GRPO"


@pytest.mark.slow
def test_the_course_runs_unmodified_logs_what_it_replaced_and_resumes(workplace: Any, has_old_names: Any) -> None:
    workplace.has("t1_course.py")
    said = workplace.dunwu("t1_course.py")

    assert "4 prompts × 16 completions = 64 a step; 3 steps an epoch of 12 prompts, 3 in this run" in said
    assert "attn_implementation='flash_attention_2' is not installed: using sdpa" in said
    assert "there is no 'cuda': using cpu" in said
    assert "bf16=True needs a GPU" in said
    assert "warmup_ratio=0.1 is now warmup_steps=0.1" in said
    assert "vllm_device" in said and "vllm_gpu_memory_utilization" in said
    assert "beta=0.04" in said and "loss_type='grpo'" in said, "what TRL 0.14 did where the course says nothing"
    assert "wandb: no key was found" in said
    assert list(workplace.folder.glob("wandb/offline-run-*/*.wandb")), "offline, and kept here"
    assert said.count("Question:\n") == 3, "one call of a reward function a step, with all 64 completions"

    steps = workplace.steps(f"{OUT}/checkpoint-3")
    assert len(steps) == workplace.state(f"{OUT}/checkpoint-3")["global_step"] == 3
    for step in steps:
        has_old_names(step, *REWARDS)
        assert step["num_completions"] == 64
        assert step["reward"] == pytest.approx(sum(step[f"rewards/{name}"] for name in REWARDS), abs=1e-5)
        assert step["reward_std"] > 0 and step["grad_norm"] > 0 and step["kl"] >= 0
    # Warm-up over a tenth of three steps is one step from 0; then a cosine from the course's rate.
    assert [step["learning_rate"] for step in steps] == pytest.approx([0, 5e-6, 2.5e-6])
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-6)
    _is_saved_whole(workplace)

    kept = (workplace.folder / OUT / "checkpoint-3" / "trainer_state.json").stat().st_mtime_ns
    again = workplace.run("dunwu", "run", "--resume", "t1_course.py")
    assert f"--resume: continuing from {OUT}/checkpoint-3" in again
    assert "Question:\n" not in again, "nothing was left to do"
    assert (workplace.folder / OUT / "checkpoint-3" / "trainer_state.json").stat().st_mtime_ns == kept


@pytest.mark.slow
def test_the_course_killed_after_its_first_checkpoint_goes_on_from_it(
    tmp_path: Path, hub: HubServer, workplace_on: Any
) -> None:
    """The course saves every 100 steps, so it gets a dataset of 105 steps here."""
    repositories = {key: repository.folder for key, repository in hub.repositories.items()}
    data = ("dataset", "openai/gsm8k")
    with HubServer({**repositories, data: _many_times(repositories[data], tmp_path / "gsm8k", 35)}) as longer:
        workplace = workplace_on(longer)
        workplace.has("t1_course.py")
        _kill_once_there(workplace, workplace.folder / OUT / "checkpoint-100" / "trainer_state.json")
        assert not (workplace.folder / OUT / "checkpoint-105").exists()
        again = workplace.run("dunwu", "run", "--resume", "t1_course.py")
    assert f"--resume: continuing from {OUT}/checkpoint-100" in again
    assert "105 steps an epoch of 420 prompts, 105 in this run" in again
    assert again.count("Question:\n") == 5
    steps = workplace.steps(f"{OUT}/checkpoint-105")
    assert [step["step"] for step in steps] == list(range(1, 106))
    assert (workplace.folder / OUT / "model.safetensors").exists()


def _many_times(folder: Path, bigger: Path, times: int) -> Path:
    from datasets import Dataset, concatenate_datasets

    (bigger / "main").mkdir(parents=True)
    (bigger / "README.md").write_bytes((folder / "README.md").read_bytes())
    for file in (folder / "main").glob("*.parquet"):
        rows = Dataset.from_parquet(str(file), cache_dir=str(bigger.parent / "cache"))
        concatenate_datasets([rows] * times).to_parquet(str(bigger / "main" / file.name))
    return bigger


def _kill_once_there(workplace: Any, file: Path) -> None:
    command = [sys.executable, "-m", "dunwu.run", "t1_course.py"]
    log = (workplace.folder.parent / "log.txt").open("w", encoding="utf-8")
    with (
        log,
        subprocess.Popen(
            command,
            cwd=workplace.folder,
            env=workplace.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        deadline = time.monotonic() + 300
        while not _is_json(file) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    assert file.exists(), (workplace.folder.parent / "log.txt").read_text(encoding="utf-8")[-3000:]


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _is_saved_whole(workplace: Any) -> None:
    """What the course's own `trainer.save_model` wrote: bfloat16 weights, tokenizer and template."""
    from transformers import AutoTokenizer

    saved = load_file(workplace.folder / OUT / "model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.bfloat16}
    last = load_file(workplace.folder / OUT / "checkpoint-3" / "model.safetensors")
    assert all(torch.equal(saved[name], last[name]) for name in last)
    tokenizer = AutoTokenizer.from_pretrained(workplace.folder / OUT)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.chat_template
