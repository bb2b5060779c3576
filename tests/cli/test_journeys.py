"""The eight journeys of docs/journeys.md: every command as it stands there, in order, in one empty folder."""

import json
import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dunwu.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "journeys.md"

SMALL = [*("--train.max_steps", "4", "--train.save_steps", "2"), *("--train.prompts_per_step", "2")]
SMALL += ["--train.num_generations", "4"]
ROWS = ["--evaluate.rows", "6", "--evaluate.samples", "2"]

SEEN = {
    "dunwu quickstart": ("6 held-out prompts", "4 steps in", "chat runs/quickstart", "rollouts runs/quickstart"),
    "dunwu chat runs/quickstart": ("> 3 14 17 = 34", "<think>"),
    "dunwu chat embedded": ("[",),
    "dunwu rollouts runs/quickstart --step last": ("scores: think_answer_format", "shown of 8"),
    "dunwu rollouts runs/quickstart --step 1 --cut --limit 3": ("",),
    "dunwu report runs/quickstart": ("runs/quickstart",),
    "dunwu options evaluate": ("--evaluate.rows  (a whole number; default 500)",),
    "dunwu options train": ("--train.num_generations  (a whole number; default 8)", "--train.lr_scheduler_type"),
    "dunwu quickstart --train.learning_rate 1e-4": ("runs/quickstart holds a run already: this one goes to", "-2"),
    "dunwu compare": ("train.learning_rate", "0.0001"),
    "dunwu train quickstart --seeds 2": ("run 1 of 2", "seed=43"),
    "dunwu eval runs/quickstart": ("6 prompts, 2 samples each",),
    "dunwu train runs/quickstart --resume": ("nothing is left to train: all 4 steps were made before",),
    "dunwu train runs/quickstart --resume --train.max_steps 8": ("train.max_steps was 4 and is 8", "trained 8 steps"),
    "dunwu train own": ("runs/own", "held-out prompts"),
    "dunwu rewards own": ("number_matches_anywhere  1",),
    "torchrun": ("2 processes",),
    "dunwu export": ("exported/quickstart",),
}
"""The beginning of a command to what must be seen."""


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def smaller(command: str) -> list[str]:
    """The command's words, with fewer steps and rows where it trains."""
    words = shlex.split(command)
    if "--resume" in words:
        return words
    if "quickstart" in words[:3] or "quickstart" in words[-4:-1] or words[1:3] == ["train", "own"]:
        trains = words[1] in ("quickstart", "train") or "train" in words
        return [*words, *SMALL, *ROWS] if trains else words
    return words


def expected(command: str) -> tuple[str, ...]:
    return SEEN[max((start for start in SEEN if command.startswith(start)), key=len)]


@pytest.mark.slow
def test_every_command_of_the_eight_journeys_works_as_it_stands(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, logger="dunwu")
    rows = [{"question": f"{a} {b} = {a + b}", "answer": str(a + b)} for a in range(1, 12) for b in range(1, 9)]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for command in commands():
        words = smaller(command)
        if words[0] == "torchrun":
            launcher = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
            environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
            done = subprocess.run(launcher, env=environment, capture_output=True, text=True, timeout=300, check=False)
            code, out, err = done.returncode, done.stdout, done.stderr
        else:
            code = main(words[1:])
            out, err = capfd.readouterr()
            out += caplog.text  # on a terminal the log is printed
            caplog.clear()
        assert code == 0, f"{command}: {out[-2000:]}{err[-2000:]}"
        for text in expected(command):
            assert text in out + err, f"{command}: {text!r} is not in\n{out[-3000:]}"
    summary = json.loads(Path("runs/quickstart/summary.json").read_text(encoding="utf-8"))
    assert summary["steps"] == 8 and summary["status"] == "finished"
    assert {path.name for path in Path("runs/several").iterdir() if path.is_dir()} == {"seed=42", "seed=43"}


def test_the_page_has_eight_journeys_and_every_command_has_something_to_see() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^## (\d)\.", text, re.MULTILINE) == list("12345678")
    assert all(expected(command) for command in commands())
