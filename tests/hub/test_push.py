"""A model is pushed, or saved with one sentence that says how to push it later; a hub never costs a run."""

from __future__ import annotations

from typing import Any

import pytest

TRAINED = """
import sys
from dunwu import GRPOConfig, GRPOTrainer
from dunwu.embedded import embedded_model_path

def short(completions, **columns):
    return [-float(len(text)) for text in completions]

def trainer(**options):
    args = GRPOConfig(output_dir="run", max_steps=1, num_generations=4, prompts_per_step=2, save_strategy="no",
                      max_completion_length=4, report_to="none", disable_tqdm=True, **options)
    return GRPOTrainer(embedded_model_path(), short, args, [{"prompt": f"{n} {n} = 2"} for n in range(1, 9)])
"""
AFTERWARDS = f"""{TRAINED}
one = trainer()
one.train()
print("PUSHED", one.push_to_hub(dataset="org/rows"))
"""
DURING = f"""{TRAINED}
one = trainer()
# As of a hub that has answered before.
one.args.push_to_hub, one.hub_model_id, one.push_in_progress = True, "me/mine", None
one.args.save_strategy, one.args.save_steps = "steps", 1
one.train()
one.save_model()
print("SAVED")
"""
KEY = "hf_" + "k" * 34
WARNING = "run is saved and was not pushed to the hub: "


def warned(said: str) -> str:
    """The one line that warns."""
    lines = [line for line in said.splitlines() if WARNING in line]
    assert len(lines) == 1, said
    return lines[0]


@pytest.mark.slow
def test_a_push_that_fails_is_one_sentence_and_the_model_is_saved(home: Any, dead: str) -> None:
    for environment, reason in (
        ({"HF_ENDPOINT": dead, "HF_TOKEN": KEY}, f"{dead} cannot be reached from here. To push it later: "),
        ({"HF_TOKEN": KEY}, "the hub refused it ("),
    ):
        done = home.run(AFTERWARDS, **environment)
        line = warned(done.stdout)
        assert reason in line and "hf upload run run --exclude 'checkpoint-*/*'" in line
        assert done.stderr == "" and "PUSHED None" in done.stdout and KEY not in done.stdout
        assert (home.folder / "run" / "model.safetensors").is_file()
        assert "org/rows" in (home.folder / "run" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_hub_that_goes_away_during_the_run_does_not_end_it(home: Any, dead: str) -> None:
    done = home.run(DURING, HF_ENDPOINT=dead, HF_TOKEN=KEY)
    assert "hf upload me/mine run" in warned(done.stdout) and "SAVED" in done.stdout
    assert (home.folder / "run" / "checkpoint-1" / "model.safetensors").is_file()
    assert done.stderr == ""


@pytest.mark.slow
def test_a_repository_that_the_hub_does_not_make_is_said_before_the_run(home: Any) -> None:
    done = home.run(f"{TRAINED}\ntrainer(push_to_hub=True, hub_model_id='me/mine')", ok=False, HF_TOKEN=KEY)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("dunwu.errors.HubError: 'me/mine' cannot be made on the hub: the hub refused it (")
    assert "or set push_to_hub=False" in last
