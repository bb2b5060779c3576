"""`dunwu export`: what a run trained, for other programs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from dunwu.cli import main
from dunwu.embedded import embedded_model_path

SMALL = (
    "--train.max_steps 2 --train.save_steps 1 --train.save_strategy steps --train.num_generations 4 "
    "--train.prompts_per_step 2 --train.max_completion_length 8 --lora.r 2 --evaluate.rows 2"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the quickstart that trained an adapter."""
    folder = tmp_path_factory.mktemp("runs") / "adapter"
    assert main(["train", "quickstart", *SMALL.split(), "--train.output_dir", str(folder)]) == 0
    return folder


@pytest.fixture
def run_folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs" / "adapter"))


def test_an_adapters_run_becomes_a_model_that_transformers_loads_alone(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run_folder), "--to", "merged"]) == 0
    out = run_folder.with_name("adapter-merged")
    said = capsys.readouterr().out
    assert f"{out}: qwen2 in float32" in said and f"chat {out}" in said
    assert not (out / "adapter_config.json").exists() and (out / "chat_template.jinja").is_file()
    base = AutoModelForCausalLM.from_pretrained(embedded_model_path())
    assert list(AutoModelForCausalLM.from_pretrained(out).state_dict()) == list(base.state_dict())
    assert "with an adapter (LORA) merged in" in (out / "README.md").read_text(encoding="utf-8")
    assert main(["chat", str(out), "--message", "3 14 17 = 51", "--max-new-tokens", "4"]) == 0


def test_a_base_that_was_elsewhere_is_found_by_the_recipe(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_folder / "adapter_config.json"
    moved = json.loads(file.read_text(encoding="utf-8")) | {"base_model_name_or_path": "/another/machine/model"}
    file.write_text(json.dumps(moved), encoding="utf-8")
    assert main(["export", str(run_folder), "--to", "merged", "--dtype", "bfloat16"]) == 0
    assert AutoModelForCausalLM.from_pretrained(run_folder.with_name("adapter-merged")).dtype == torch.bfloat16
    (run_folder / "recipe.yaml").write_text("model: /another/machine/model\n", encoding="utf-8")
    assert main(["export", str(run_folder), "--to", "merged", "--out", str(run_folder / "other")]) == 2
    assert "the base of the adapter in" in capsys.readouterr().err


def test_a_run_without_a_model_gives_its_last_checkpoint(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (run_folder / name).unlink()
    assert main(["export", str(run_folder), "--to", "merged"]) == 0
    said = capsys.readouterr().out
    assert "checkpoint-2" in said and run_folder.with_name("adapter-checkpoint-2-merged").is_dir()


def test_a_gguf_file_is_written_beside_the_run(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gguf = pytest.importorskip("gguf")
    assert main(["export", str(run_folder), "--to", "gguf", "--dtype", "float16"]) == 0
    out = run_folder.with_name("adapter.gguf")
    assert f"{out}: qwen2 in float16" in capsys.readouterr().out
    assert "tokenizer.chat_template" in gguf.GGUFReader(out).fields


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "merged", "--out", "{run}"], "is there already and is not overwritten; give another --out"),
        (["--to", "merged", "--converter", "x.py"], "--converter is for --to gguf"),
        (["--to", "gguf", "--converter", "x.py"], "there is no file 'x.py'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    words: list[str], said: str, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run_folder), *(word.format(run=run_folder) for word in words)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert [path.name for path in run_folder.parent.iterdir()] == ["adapter"], "nothing half-written is left"


def test_a_mistyped_run_names_the_one_that_is_there(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run_folder.with_name("adaptr")), "--to", "merged"]) == 2
    assert f"did you mean {str(run_folder)!r}?" in capsys.readouterr().err


def test_without_the_package_gguf_the_extra_is_named(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["export", str(run_folder), "--to", "gguf"]) == 2
    assert "writing GGUF needs the package gguf: " in (error := capsys.readouterr().err) and "[export]" in error
