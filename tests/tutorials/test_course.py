"""T1, the course: `t1_course.py` unmodified, to the end, twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

REWARDS = (
    "xmlcount_reward_func",
    "soft_format_reward_func",
    "strict_format_reward_func",
    "int_reward_func",
    "correctness_reward_func",
)
OUT = "outputs/Qwen-0.5B-GRPO"


@pytest.mark.slow
def test_the_course_runs_unmodified_says_what_it_replaced_and_resumes(workplace: Any, has_old_names: Any) -> None:
    workplace.has("t1_course.py")
    said = workplace.dunwu("t1_course.py")

    assert "4 prompts × 16 completions = 64 a step; 3 steps an epoch of 12 prompts, 3 in this run" in said
    assert "attn_implementation='flash_attention_2' is not installed here: sdpa" in said
    assert "'cuda' is not here: cpu" in said
    assert "bf16 was asked for" in said
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
    assert f"--resume: going on from {OUT}/checkpoint-3" in again
    assert "Question:\n" not in again, "nothing was left to do"
    assert (workplace.folder / OUT / "checkpoint-3" / "trainer_state.json").stat().st_mtime_ns == kept


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
