"""A folder that is not there is answered with the one that was meant; a hub's advice is for hubs' names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dunwu.hub.sources import missing_name, missing_path

REASON = "'x' is not in the cache; try a mirror"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("runs/quickstart", "data/gsm8k", "Qwen/Qwen3-0.6B"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("here")
def test_a_name_that_is_meant_for_a_folder_gets_no_advice_about_hubs() -> None:
    assert missing_name("data/gsm8", REASON) == "there is no folder 'data/gsm8'; did you mean 'data/gsm8k'?"
    assert missing_name("runs/nine", REASON) == "there is no folder 'runs/nine'; check the path"
    nothing = "there is no folder 'models/qwen', nor a folder 'models'; check the path"
    assert missing_name("models/qwen", REASON) == nothing
    data = "there is no file or folder './rows.jsonl'; check the path"
    assert missing_path("./rows.jsonl", what="no file or folder") == data


@pytest.mark.usefixtures("here")
def test_a_name_that_may_be_both_gets_both() -> None:
    said = missing_name("Qwen/Qwen3-0.6", REASON)
    assert said.startswith("there is no folder 'Qwen/Qwen3-0.6'; did you mean 'Qwen/Qwen3-0.6B'?")
    assert said.endswith(f"If a name on the hub was meant: {REASON}")
    assert missing_name("openai/gsm8k", REASON) == REASON


@pytest.mark.slow
def test_commands_answer_a_mistyped_folder_with_the_one_that_is_there(home: Any, dead: str) -> None:
    for folder in ("runs/quickstart", "data/gsm8k"):
        (home.folder / folder).mkdir(parents=True)
    for model in (home.server.url, dead):
        chat = home.run("-m", "dunwu", "chat", "runs/quickstrat", "--message", "hi", ok=False, HF_ENDPOINT=model)
        assert chat.returncode == 2 and chat.stdout == ""
        assert chat.stderr == "dunwu chat: there is no folder 'runs/quickstrat'; did you mean 'runs/quickstart'?\n"
    words = ("-m", "dunwu", "eval", "embedded", "--task", "gsm8k", "--task.source", "data/gsm8")
    data = home.run(*words, ok=False)
    assert data.returncode == 2
    assert data.stderr == "dunwu eval: there is no folder 'data/gsm8'; did you mean 'data/gsm8k'?\n"
