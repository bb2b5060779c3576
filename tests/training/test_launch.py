"""What a run says before its first step: the first prompt in a few lines, and how many processes share the work."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dunwu.rollout.prompts import PromptOrder, build_prompts
from dunwu.training import processes
from dunwu.training.launch_summary import first_prompt
from dunwu.training.processes import missing_processes, shared_work


def shown(tiny: Any, text: str) -> list[str]:
    tokenizer = tiny.tokenizer()
    (prompt,), _ = build_prompts([{"prompt": text}], tokenizer)
    return first_prompt(prompt, tokenizer).split("\n")


def test_a_long_prompt_is_shown_by_its_beginning_and_its_end(tiny: Any) -> None:
    lines = shown(tiny, "\n".join(f"line {i}" for i in range(20)))
    assert lines[1:6] == ["  line 0", "  line 1", "  … (16 lines)", "  line 18", "  line 19"]
    assert lines[0].startswith("the first prompt, as the model reads it (1")
    assert lines[6].startswith("  its last ids: ") and lines[6].endswith(":'9'") and len(lines) == 7


def test_a_prompt_of_one_long_line_is_shown_in_lines_that_fit(tiny: Any) -> None:
    lines = shown(tiny, "word " * 200 + "end")
    assert len(lines) == 7 and max(map(len, lines[1:6])) <= 78 and lines[5].endswith("word end")
    assert all(len(line) <= 80 for line in shown(tiny, "x" * 500))


def test_control_characters_of_a_prompt_do_not_reach_the_terminal(tiny: Any) -> None:
    """A row from the network could otherwise clear the screen, or hide the line before it."""
    lines = shown(tiny, "a\x1b[2J\rb")
    assert lines[1] == r"  a\x1b[2J\rb" and not any("\x1b" in line or "\r" in line for line in lines)


def work(size: int, prompts: int, per_step: int) -> list[str]:
    order = PromptOrder(size=prompts, per_step=per_step, repeats=1, seed=1, epoch=lambda: 0)
    args: Any = SimpleNamespace(world_size=size, device=SimpleNamespace(type="cpu"))
    return shared_work(args, order)


def test_the_work_of_each_process_is_named_and_one_process_needs_no_word() -> None:
    (sentence,) = work(2, 64, 16)
    assert sentence.startswith("2 processes on cpu: each samples and trains on 8 of a step's 16 prompts")
    assert "on 5 or 6 of a step's 16 prompts" in work(3, 64, 16)[0]
    assert work(1, 64, 16) == []


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what a launcher leaves behind: the environment, and its own command line."""

    def set_up(command: str = "", **environment: str) -> None:
        for name in ("WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_MIXED_PRECISION"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(processes, "_parents_command", command.split)
        monkeypatch.setattr(sys, "executable", "/venv/bin/python")
        monkeypatch.setattr(processes.shutil, "which", lambda name: f"/venv/bin/{name}")
        monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "dunwu", "train", "my recipe.yaml"])

    return set_up


ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}


@pytest.mark.parametrize("option", ["--num_processes 3", "--num_processes=3", "--num-processes 3"])
def test_a_launcher_that_started_fewer_than_it_was_asked_for_is_named(launcher: Any, option: str) -> None:
    launcher(f"python accelerate launch --cpu {option} train.py", **ACCELERATE)
    said = missing_processes(1)
    assert said is not None and said.startswith("accelerate launch was asked for 3 processes and has started one")
    assert said.splitlines()[-1] == "  torchrun --nproc_per_node 3 -m dunwu train 'my recipe.yaml'"


def test_the_advised_command_works_where_the_environment_is_not_on_the_path(
    launcher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher(WORLD_SIZE="2")
    monkeypatch.setattr(processes.shutil, "which", lambda name: f"/usr/bin/{name}")
    said = str(missing_processes(1)).splitlines()[-1]
    assert said.startswith("  /venv/bin/python -m torch.distributed.run --nproc_per_node 2 -m dunwu")


def test_a_number_of_processes_from_a_file_is_not_guessed(launcher: Any) -> None:
    launcher("python accelerate launch --config_file two.yaml train.py", **ACCELERATE)
    assert "asked for several processes" in str(missing_processes(1))


def test_processes_that_do_not_know_of_each_other_are_named(launcher: Any) -> None:
    launcher(WORLD_SIZE="4")
    assert "4 processes were started, and this run has 1 of them: each trains alone" in str(missing_processes(1))


def test_a_launcher_that_did_as_it_was_told_is_left_alone(launcher: Any) -> None:
    launcher()
    assert missing_processes(1) is None
    launcher(MASTER_ADDR="10.0.0.1")  # a cluster's own
    assert missing_processes(1) is None
    launcher("accelerate launch train.py", ACCELERATE_MIXED_PRECISION="no")
    assert missing_processes(1) is None
    launcher("accelerate launch --num_processes 1 train.py", **ACCELERATE)
    assert missing_processes(1) is None
    launcher("accelerate launch --multi_gpu --num_processes 2 train.py", WORLD_SIZE="2", **ACCELERATE)
    assert missing_processes(2) is None


SCRIPT = """
from dunwu import GRPOConfig, GRPOTrainer
from dunwu.embedded import embedded_model_path

def shorter(completions, **columns):
    return [-float(len(text)) for text in completions]

config = GRPOConfig(output_dir="out", max_steps=1, prompts_per_step=4, num_generations=2, max_completion_length=4,
    save_strategy="no", logging_strategy="no", disable_tqdm=True)
GRPOTrainer(embedded_model_path(), shorter, config, [{"prompt": f"{n} 3 4 = {n + 7}"} for n in range(8)]).train()
"""


def launched(folder: Path, *command: str, **environment: str) -> str:
    (folder / "train.py").write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


SHARED = "2 processes on cpu: each samples and trains on 2 of a step's 4 prompts"


@pytest.mark.slow
def test_real_launchers_are_described_and_the_command_that_is_advised_works(tmp_path: Path) -> None:
    accelerate = ("accelerate.commands.launch", "--num_processes", "2")
    alone = launched(tmp_path, *accelerate, "--cpu", "train.py")
    assert alone.count("accelerate launch was asked for 2 processes and has started one") == 1
    assert "2 processes on" not in alone
    (command,) = [line for line in alone.splitlines() if "--nproc_per_node" in line]
    advised = command[command.index("--nproc_per_node") :].split()
    assert advised == ["--nproc_per_node", "2", "train.py"]
    port = {"MASTER_PORT": "0"}
    for command in (("torch.distributed.run", "--standalone", *advised), (*accelerate, "--multi_gpu", "train.py")):
        said = launched(tmp_path, *command, ACCELERATE_USE_CPU="true", **port)
        assert said.count(SHARED) == 1 and "was asked for" not in said and "trains alone" not in said
