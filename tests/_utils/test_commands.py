"""Every command that Dunwu prints works where it is printed."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dunwu._utils import commands
from dunwu._utils.commands import dunwu_command, install_command


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a virtual environment's scripts in it, which is the current one; nothing is on the path."""
    scripts = tmp_path / "venv" / "bin"
    scripts.mkdir(parents=True)
    for name in ("python", "dunwu"):
        (scripts / name).write_text("#!/bin/sh\n", encoding="utf-8")
        (scripts / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(scripts / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return scripts


def test_a_command_names_the_script_of_an_environment_that_is_not_on_the_path(environment: Path) -> None:
    assert dunwu_command("chat", "runs/a b") == "venv/bin/dunwu chat 'runs/a b'"


def test_a_command_is_short_where_the_environment_is_active(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(environment))
    assert dunwu_command("chat", "runs/x") == "dunwu chat runs/x"
    assert install_command(package="wandb") == "python -m pip install wandb"


def test_another_dunwu_on_the_path_is_not_taken_for_this_one(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "dunwu").write_text("#!/bin/sh\n", encoding="utf-8")
    (other / "dunwu").chmod(0o755)
    monkeypatch.setenv("PATH", str(other))
    assert dunwu_command("--version") == "venv/bin/dunwu --version"


def test_without_a_script_the_module_is_run(environment: Path) -> None:
    (environment / "dunwu").unlink()
    assert dunwu_command("chat", "x") == "venv/bin/python -m dunwu chat x"


def test_an_extra_is_installed_from_the_checkout_where_there_is_one(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_checkout", lambda: None)
    assert install_command("peft") == "venv/bin/python -m pip install 'dunwu[peft]'"
    checkout = tmp_path / "src" / "dunwu"
    monkeypatch.setattr(commands, "_checkout", lambda: checkout)
    assert install_command("peft") == "venv/bin/python -m pip install -e 'src/dunwu[peft]'"
    checkout.mkdir(parents=True)
    (checkout / "constraints.txt").write_text("", encoding="utf-8")
    assert install_command("peft") == (
        "venv/bin/python -m pip install -c src/dunwu/constraints.txt -e 'src/dunwu[peft]'"
    )


def test_the_command_that_is_printed_here_runs_here() -> None:
    done = subprocess.run(shlex.split(dunwu_command("--help")), capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "quickstart" in done.stdout
    assert "[peft]" in install_command("peft") and Path(shlex.split(install_command("peft"))[0]).name == "python"
