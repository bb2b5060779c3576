"""Where the tutorials' scripts are run: an empty folder, an empty home, and a hub on this machine with stand-ins.

What it is: a server of `standins` for the session, and a `Workplace` for each test, whose `run` starts a process as a
user would, with nothing of this machine's caches, keys or settings.
What it is not: a mock: models, data, clients, trackers and launchers are real.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import standins
import torch

from hub_server import HubServer

AS_PRINTED = Path(__file__).parent / "as_printed"


class Workplace:
    """A folder with a tutorial's files, and processes in it."""

    def __init__(self, folder: Path, hub: HubServer) -> None:
        self.folder, self.home = folder / "work", folder / "home"
        self.folder.mkdir()
        self.home.mkdir()
        kept = {
            name: os.environ[name]
            for name in ("LANG", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH")
            if name in os.environ
        }
        self.environment = {
            **kept,
            **hub.environment(self.home),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.home),
            "OMP_NUM_THREADS": "1",
            "HTTPS_PROXY": "http://127.0.0.1:9",  # nobody listens there: what would leave this machine fails at once
        }
        del self.environment["HF_HUB_OFFLINE"]

    def has(self, *names: str) -> None:
        """Copy files of the tutorials here."""
        for name in names:
            shutil.copy(AS_PRINTED / name, self.folder)

    def run(self, *command: str, fails: bool = False, **environment: str) -> str:
        """What the process prints; it must end well, or with an error where one is expected."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            timeout=400,
            check=False,
        )
        assert (done.returncode != 0) is fails, done.stdout[-6000:]
        return done.stdout

    def dunwu(self, *words: str, **environment: str) -> str:
        """`python -m dunwu.run …`, as a launcher calls it."""
        return self.run(sys.executable, "-m", "dunwu.run", *words, **environment)

    def state(self, checkpoint: str) -> Any:
        """The `trainer_state.json` of a checkpoint or folder."""
        return json.loads((self.folder / checkpoint / "trainer_state.json").read_text(encoding="utf-8"))

    def steps(self, checkpoint: str) -> list[dict[str, float]]:
        """What was logged for each step."""
        return [entry for entry in self.state(checkpoint)["log_history"] if "loss" in entry]

    def holding(self, text: str) -> list[Path]:
        """Files here and in the home whose bytes hold this text."""
        files = (file for place in (self.folder, self.home) for file in place.rglob("*") if file.is_file())
        return [file for file in files if text.encode() in file.read_bytes()]


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """The stand-ins, served under the tutorials' names."""
    torch.set_num_threads(1)
    with HubServer(standins.build(tmp_path_factory.mktemp("stand-ins"))) as server:
        yield server


@pytest.fixture
def workplace(tmp_path: Path, hub: HubServer) -> Workplace:
    """A user's folder, empty."""
    return Workplace(tmp_path, hub)


@pytest.fixture
def workplace_on(tmp_path: Path) -> Callable[[HubServer], Workplace]:
    """A user's folder, empty, with another hub."""
    return lambda hub: Workplace(tmp_path, hub)


@pytest.fixture(scope="session")
def has_old_names() -> Callable[..., None]:
    """Checks one step's figures: TRL 0.14's names beside today's, with the same values."""

    def check(step: dict[str, float], *rewards: str) -> None:
        assert step["completion_length"] == step["completions/mean_length"] > 0
        for name in rewards:
            assert step[f"rewards/{name}"] == step[f"rewards/{name}/mean"]
        assert {"reward", "reward_std", "loss", "grad_norm", "learning_rate"} <= step.keys()

    return check
