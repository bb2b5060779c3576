"""Commands print what Dunwu says and nothing of its dependencies; run as users run them, with the default filters."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dunwu._utils.quiet import quiet_dependencies

RUN = (
    "--train.save_steps 1 --train.save_strategy steps --train.save_total_limit 1 --train.num_generations 4 "
    "--train.prompts_per_step 2 --train.max_completion_length 8 --evaluate.rows 2 --train.output_dir run"
)
NOISE = ("missing keys", "mtime may not", "FutureWarning", "UserWarning", "pin_memory", "deprecated", "%|")


def dunwu(line: str, folder: Path) -> str:
    """What a command prints; it must print nothing else."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(
        [sys.executable, "-m", "dunwu", *line.split()],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert not [noise for noise in NOISE if noise in done.stdout], done.stdout
    return done.stdout


@pytest.mark.slow
def test_training_resuming_chatting_and_measuring_leave_the_screen_clean(tmp_path: Path) -> None:
    dunwu(f"train quickstart --train.max_steps 3 {RUN}", tmp_path)
    assert "checkpoint-3" in dunwu(f"train quickstart --train.max_steps 5 {RUN} --resume", tmp_path)
    dunwu("chat run --message 3_14_17 --max-new-tokens 8", tmp_path)
    dunwu("eval run --rows 2 --samples 2", tmp_path)


@pytest.mark.slow
def test_an_adapter_with_gradient_checkpointing_does_so_too(tmp_path: Path) -> None:
    adapter = "--lora.r 2 --train.gradient_checkpointing true"
    dunwu(f"train quickstart --train.max_steps 2 {RUN} {adapter}", tmp_path)
    dunwu(f"train quickstart --train.max_steps 3 {RUN} {adapter} --resume", tmp_path)
    dunwu("export run --to merged", tmp_path)


def test_other_words_of_the_same_logger_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    quiet_dependencies()
    quiet_dependencies()
    logger = logging.getLogger("transformers.trainer_utils")
    assert len([one for one in logger.filters if type(one).__module__ == "dunwu._utils.quiet"]) == 1
    logger.propagate = True
    with caplog.at_level(logging.WARNING, logger=logger.name):
        logger.warning("mtime may not be reliable on this filesystem")
        logger.warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]
