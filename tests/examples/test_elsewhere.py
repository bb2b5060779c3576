"""docs/elsewhere.md: its export commands run, and its transformers snippet loads what they write.

The snippets for vLLM and llama.cpp were run by hand.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from dunwu.cli import main
from dunwu.embedded import embedded_model_path

PAGE = (Path(__file__).parents[2] / "docs" / "elsewhere.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_is_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gguf")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(embedded_model_path(), "runs/quickstart")
    for line in blocks("bash")[0].splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "dunwu" and main(words[1:]) == 0
    assert Path("runs/quickstart-merged/config.json").is_file() and Path("runs/quickstart.gguf").is_file()
    (snippet,) = [code for code in blocks("python") if "transformers" in code]
    capsys.readouterr()
    exec(snippet, {})
    shape = r"<think>[\d+\-*/=, yesno\n]*</think>\n<answer>[\d+\-*/()]*</answer><\|end\|>\n"
    shown = blocks("text")[0]
    assert re.fullmatch(shape, shown), "what the page shows has the shape of an answer"
    assert re.fullmatch(shape, capsys.readouterr().out), "and so has what the embedded model, untrained, says"
