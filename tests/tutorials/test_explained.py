"""T4, the trainer explained: the quick start unmodified, twice, and its reward functions in all their shapes."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.slow
def test_the_quick_start_runs_unmodified_and_resumes(workplace: Any, has_old_names: Any) -> None:
    workplace.has("t4/train_grpo.py")
    said = workplace.dunwu("train_grpo.py")
    assert "1 prompts × 8 completions = 8 a step; 16 steps an epoch of 16 prompts, 48 in this run" in said
    assert "beta=0.0, loss_type='dapo', temperature=1.0; for another version's: dunwu run --trl 0.14" in said
    assert "beta=0 means no reference model and no `kl` metric" in said
    steps = workplace.steps("Qwen2-0.5B-GRPO/checkpoint-48")
    assert not any("kl" in step for step in steps)
    assert [step["step"] for step in steps] == [10, 20, 30, 40, 48]
    for step in steps:
        has_old_names(step, "reward_len")
        assert step["reward"] == step["rewards/reward_len"] > 0

    again = workplace.dunwu("--resume", "train_grpo.py")
    assert "--resume: continuing from Qwen2-0.5B-GRPO/checkpoint-48" in again


@pytest.mark.slow
def test_with_trl_0_14_named_the_quick_start_has_the_batch_of_trl_0_14(workplace: Any) -> None:
    workplace.has("t4/train_grpo.py")
    said = workplace.dunwu("--trl", "0.14", "train_grpo.py")
    # TRL 0.14's own defaults: 1 prompt a device, 8 accumulations.
    assert "8 prompts × 8 completions = 64 a step; 2 steps an epoch of 16 prompts, 6 in this run" in said
    assert "beta=0.04" in said and "temperature=0.9" in said
    assert "no `kl` metric" not in said
    assert all("kl" in step for step in workplace.state("Qwen2-0.5B-GRPO/checkpoint-6")["log_history"])


@pytest.mark.slow
def test_longer_is_better(workplace: Any) -> None:
    workplace.has("t4/train_longer.py")
    said = workplace.dunwu("train_longer.py")
    assert "[6.0, 12.0]" in said, "the function by itself, as the tutorial tries it"
    assert workplace.state("Qwen2-0.5B-longer/checkpoint-2")["global_step"] == 2


@pytest.mark.slow
def test_a_format_on_conversational_prompts_gets_lists_of_messages(workplace: Any, has_old_names: Any) -> None:
    workplace.has("t4/train_format.py")
    assert "[1.0]" in workplace.dunwu("train_format.py")
    steps = workplace.steps("Qwen2-0.5B-format/checkpoint-2")
    assert len(steps) == 2
    for step in steps:
        has_old_names(step, "format_reward_func")


@pytest.mark.slow
def test_a_column_of_the_dataset_reaches_the_reward(workplace: Any, has_old_names: Any) -> None:
    workplace.has("t4/train_boxed.py")
    assert "[1.0]" in workplace.dunwu("train_boxed.py")
    steps = workplace.steps("Qwen2-0.5B-boxed/checkpoint-2")
    assert len(steps) == 2
    for step in steps:
        has_old_names(step, "reward_func")


@pytest.mark.slow
def test_functions_a_partial_and_a_reward_model_are_weighed_and_evaluated(workplace: Any, has_old_names: Any) -> None:
    workplace.has("t4/train_several.py")
    said = workplace.dunwu("train_several.py")
    assert "evaluation_strategy='steps' is now eval_strategy" in said
    history = workplace.state("Qwen2-0.5B-several/checkpoint-2")["log_history"]
    names = ("reward_func1", "near_twenty", "Qwen2-0.5B-Reward")
    for step in (entry for entry in history if "loss" in entry):
        has_old_names(step, *names)
        weighed = sum(w * step[f"rewards/{n}"] for w, n in zip((0.5, 1.0, 2.0), names, strict=True))
        assert step["reward"] == pytest.approx(weighed, abs=1e-4)
    evaluated = next(entry for entry in history if "eval_reward" in entry)
    assert evaluated["step"] == 2 and evaluated["eval_completion_length"] == evaluated["eval_completions/mean_length"]
