"""T3, Datawhale-R1: script and YAML unmodified, under `accelerate launch` with two processes, to the end, twice."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

OUT = "output/Datawhale-R1"
TWO_PROCESSES = (
    *("accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "-m", "dunwu.run"),
)
SCRIPT = ("train_Datawhale-R1.py", "--config", "Datawhale-R1.yaml", "--max_completion_length", "48")
FILES = ("t3/train_Datawhale-R1.py", "t3/Datawhale-R1.yaml", "t3/deepspeed_zero3.yaml")


@pytest.mark.slow
def test_datawhale_r1_trains_on_two_processes_and_goes_on_by_itself(workplace: Any, has_old_names: Any) -> None:
    workplace.has(*FILES)
    # DDP says itself what it is; `accelerate launch` may return 0 with one process, or with two that do not know.
    seen = {"ACCELERATE_USE_CPU": "true", "TORCH_CPP_LOG_LEVEL": "INFO", "TORCH_DISTRIBUTED_DEBUG": "INFO"}
    said = workplace.run(*TWO_PROCESSES, *SCRIPT, "--max_steps", "2", "--save_steps", "1", **seen)

    assert set(re.findall(r"\[Rank (\d)\].*DDP Initialized", said)) == {"0", "1"}
    assert set(re.findall(r"world_size: (\d)", said)) == {"2"}
    assert "16 prompts × 8 completions = 128" in said and "of 45000 prompts" in said.replace(",", "")
    assert "use_vllm=True: completions come from Dunwu's own engine" in said
    # Its split has no seed; `dunwu run` gives numpy one, so that both processes draw the same.
    assert "different training rows" not in said
    assert said.count("tf32=True needs a GPU") == 1
    assert "tf32=True needs a GPU" in said and "swanlab: no key was found" in said
    # `torch_dtype` is ModelConfig's, which this script hands to nobody; at 5e-7, bfloat16 weights would not move.
    assert "parameters train, in float32" in said
    _trained(workplace, steps=2, check=has_old_names)

    again = workplace.run(*TWO_PROCESSES, *SCRIPT, "--max_steps", "3", "--save_steps", "1", **seen)
    assert f"Checkpoint detected, resuming training at {OUT}/checkpoint-2" in again
    _trained(workplace, steps=3, check=has_old_names)


@pytest.mark.slow
def test_datawhale_r1_in_one_process_is_warned_of_its_smaller_batch(workplace: Any) -> None:
    workplace.has(*FILES)
    said = workplace.dunwu(*SCRIPT, "--max_steps", "1")
    assert "8 prompts × 8 completions = 64 a step" in said
    assert workplace.state(OUT)["global_step"] == 1


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is not None, reason="with DeepSpeed this goes on")
@pytest.mark.slow
def test_as_printed_with_deepspeed_the_launcher_names_what_is_missing(workplace: Any) -> None:
    workplace.has(*FILES)
    launch = ("accelerate", "launch", "--num_processes", "2", "--config_file", "deepspeed_zero3.yaml")
    said = workplace.run(*launch, "-m", "dunwu.run", *SCRIPT, fails=True)
    assert "DeepSpeed is not installed" in said


def _trained(workplace: Any, *, steps: int, check: Any) -> None:
    """All that the script writes is there, and says the same."""
    folder: Path = workplace.folder / OUT
    state = workplace.state(OUT)
    assert state["global_step"] == steps
    for step in workplace.steps(OUT):
        check(step, "format_reward_func", "equation_reward_func")
        # 45,000 prompts are 2,812 steps of 16 and 8 more: some steps take one of them.
        assert step["num_completions"] in (16 * 8, 17 * 8)
        parts = step["rewards/format_reward_func"] + step["rewards/equation_reward_func"]
        assert step["reward"] == pytest.approx(parts, abs=1e-5) and step["kl"] >= 0
    assert [step["step"] for step in workplace.steps(OUT)] == list(range(1, steps + 1))
    assert any(step["rewards/format_reward_func"] > 0 for step in workplace.steps(OUT))
    results = json.loads((folder / "train_results.json").read_text())
    assert results["train_samples"] == 45_000 and "train_runtime" in results
    assert {"all_results.json", "model.safetensors", "config.json", "tokenizer.json", "README.md"} <= {
        file.name for file in folder.iterdir()
    }
    assert json.loads((folder / "config.json").read_text())["use_cache"] is True
    assert {f"rng_state_{rank}.pth" for rank in (0, 1)} <= {
        f.name for f in (folder / f"checkpoint-{steps}").iterdir()
    }
    assert (workplace.folder / "completion_samples" / "completion_samples.txt").is_file(), "the rewards' own file"
    assert list(workplace.folder.glob("swanlog/*")), "SwanLab's own callback kept its run here"
