"""Repositories for the hub's tests, a server for them, and processes that know no other hub."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hub_server import HubServer

CONFIGS = """---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
- config_name: socratic
  data_files:
  - split: train
    path: socratic/train-*
---
# Grade-school sums
"""
SINGLE = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"


@pytest.fixture(scope="session")
def folders(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """A small model, a model with one large file, and two datasets, as the hubs would hold them."""
    base = tmp_path_factory.mktemp("repositories")
    model = base / "model"
    tiny.model().save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    (model / "pytorch_model.bin").write_bytes(b"the same weights in an old form")
    (model / "README.md").write_text("# A model\n", encoding="utf-8")
    large = base / "large"
    large.mkdir()
    (large / "config.json").write_text("{}", encoding="utf-8")
    (large / "model.safetensors").write_bytes(random.Random(0).randbytes(40 << 20))
    return {
        ("model", "Qwen/Qwen2.5-0.5B-Instruct"): model,
        ("model", "org/large"): large,
        ("model", "org/twin"): large,
        ("dataset", "org/twin"): _sums(base / "gsm8k"),
        ("dataset", "openai/gsm8k"): base / "gsm8k",
        ("dataset", "zouxuhong/Countdown-Tasks-3to4"): _numbers(base / "countdown"),
    }


@dataclass
class Home:
    """Processes with caches of their own, which know one server."""

    server: HubServer
    folder: Path

    def run(self, *command: str, ok: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """A Python process: `run("code")`, or `run("-m", "dunwu", …)`."""
        words = ["-c", *command] if len(command) == 1 else list(command)
        done = subprocess.run(
            [sys.executable, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            cwd=self.folder,
            env=self.environment(**environment),
        )
        assert not ok or done.returncode == 0, done.stderr + done.stdout
        return done

    def environment(self, **more: str) -> dict[str, str]:
        """This process's, without any word about hubs, keys and proxies, and with this server."""
        prefixes = ("HF_", "HUGGING", "TRANSFORMERS_", "MODELSCOPE_", "DUNWU_")
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(prefixes) and not name.lower().endswith("_proxy")
        }
        return {**kept, "OMP_NUM_THREADS": "1", **self.server.environment(self.folder), **more}


@pytest.fixture
def home(folders: dict[tuple[str, str], Path], tmp_path: Path) -> Iterator[Home]:
    """A server with these repositories, and an empty home that knows it."""
    with HubServer(folders) as server:
        yield Home(server, tmp_path)


@pytest.fixture
def dead() -> str:
    """The address of a hub that is not there: nobody listens, so a connection is refused."""
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{line.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[Callable[[], str]]:
    """Makes an address where a connection is neither taken nor refused, as behind many a firewall."""
    lines: list[socket.socket] = []

    def make() -> str:
        listening = socket.socket()
        lines.append(listening)
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        for _ in range(4):  # the queue is full after these, and no further connection is answered
            waiting = socket.socket()
            lines.append(waiting)
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        return f"http://127.0.0.1:{port}"

    yield make
    for line in lines:
        line.close()


def _sums(folder: Path) -> Path:
    rows = [{"question": f"What is {i}+1?", "answer": f"It is {i + 1}.\n#### {i + 1}"} for i in range(60)]
    for config, split in (("main", "train"), ("main", "test"), ("socratic", "train")):
        _parquet(rows[:20] if split == "test" else rows, folder / config / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(CONFIGS, encoding="utf-8")
    return folder


def _numbers(folder: Path) -> Path:
    rows = [{"target": 10 + i, "nums": [1, 2, 7 + i]} for i in range(30)]
    _parquet(rows, folder / "data" / "train-00000-of-00001.parquet")
    (folder / "README.md").write_text(SINGLE, encoding="utf-8")
    return folder


def _parquet(rows: list[dict[str, Any]], path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
