"""T1's recipe on the real GSM8K, end to end, with a tiny random model: the prompt, the batch, every reward value."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("DUNWU_SHARED", ROOT.parent / "shared")) / "data" / "gsm8k"

PROMPT = """<|im_start|>system

Respond in the following format:
<reasoning>
...
</reasoning>
<answer>
...
</answer>
<|im_end|>
<|im_start|>user
Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. \
How many clips did Natalia sell altogether in April and May?<|im_end|>
<|im_start|>assistant
"""


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="GSM8K's rows are not beside the checkout (shared/data/gsm8k)")
def test_the_courses_recipe_runs_on_all_7473_rows_and_every_reward_value_is_right(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gsm8k_pipeline.py"), "--source", str(DATA)]
    command += ["--steps", "2", "--length", "32", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "of 7473 prompts are longer than 256 tokens" in done.stdout
    assert "4 prompts × 16 completions = 64 or 5 × 16 = 80 a step; 1,86" in done.stdout
    assert "the first prompt, as the model sees it:\n" + PROMPT in done.stdout
    assert "reward values equal those computed from the texts alone" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 2 and summary["after"]["prompts"] == 20
