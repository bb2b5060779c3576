"""What is loaded is what the folder says; what could not be trained or saved is refused before the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dunwu.errors import ConfigError, ModelError
from dunwu.hub.sources import looks_like_missing_path
from dunwu.model import loading
from dunwu.model.loading import (
    checkpoint_bytes,
    load_model,
    load_tokenizer,
    prepare_policy,
    require_peft,
    tokenizer_of,
)


def saved(tiny: Any, folder: Path, family: str = "qwen2", **config: Any) -> Path:
    tiny.model(family, **config).save_pretrained(folder)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")


# -- weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_is_loaded_as_it_was_saved_by_a_path_or_its_name(tiny, tmp_path, tied):
    """A tied head is not in the file, and nothing is missing."""
    folder = saved(tiny, tmp_path / "model", tie_word_embeddings=tied)
    expected = tiny.weights(tiny.model(tie_word_embeddings=tied))
    for name in (folder, str(folder)):
        assert all(torch.equal(value, expected[key]) for key, value in load_model(name).state_dict().items())
    assert prepare_policy(folder, {}).config.model_type == "qwen2"


def test_missing_layers_are_refused_by_name(tiny, tmp_path):
    """transformers draws them at random and prints a table; a run would train noise."""
    folder = saved(tiny, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if ".layers.1.mlp." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"3 of \d+ are missing and would be random \(model\.layers\.1\.mlp\.down_proj\.weight, "
    ):
        load_model(folder)


def test_a_config_of_another_architecture_is_refused(tiny, tmp_path):
    folder = saved(tiny, tmp_path / "model")
    tiny.model("gpt2").config.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"model_type 'gpt2'.*others there fit nowhere \(such as .*config\.json"):
        load_model(folder)


def test_a_file_is_not_taken_for_a_hub(tiny, tmp_path):
    """It used to be reported as a login page at huggingface.co."""
    file = saved(tiny, tmp_path / "model") / "model.safetensors"
    for load in (load_model, load_tokenizer):
        with pytest.raises(ModelError, match=r"model\.safetensors' is a file; give the folder"):
            load(file)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("./nothing", True),
        ("/nowhere/at/all", True),
        ("~/no_such_folder_here", True),
        ("runs/mine/checkpoint-3", True),
        ("", True),
        ("gpt2", False),
        ("Qwen/Qwen2.5-0.5B-Instruct", False),
        (".", False),
    ],
)
def test_a_missing_path_is_distinguished_from_a_hub_name(name, missing):
    assert looks_like_missing_path(name) is missing


def test_a_missing_folder_is_named(tmp_path):
    for load in (load_model, load_tokenizer):
        with pytest.raises(ValueError, match=r"there is no folder '.*/nothing'"):
            load(tmp_path / "nothing")


def test_a_model_without_a_tokenizer_is_distinguished_from_a_missing_folder(tiny, tmp_path):
    folder = saved(tiny, tmp_path / "model")
    with pytest.raises(ModelError, match="no tokenizer was found beside the model"):
        tokenizer_of(load_model(folder))
    with pytest.raises(ModelError, match="has no name or path, so its tokenizer cannot be found"):
        tokenizer_of(tiny.model())


# -- what would fail after the last step ---------------------------------------------------------------------------


def test_a_model_with_sampling_options_and_no_do_sample_can_be_saved_and_keeps_them(tiny, tmp_path):
    """Many published models have such a generation_config.json. A trainer sets their end token, and transformers
    then refuses to save any of it, weights included."""
    folder = saved(tiny, tmp_path / "model")
    edit_json(folder / "generation_config.json", temperature=0.6, top_p=0.9)
    model = load_model(folder)
    model.generation_config.eos_token_id = [1, 4]
    model.save_pretrained(tmp_path / "trained")
    written = json.loads((tmp_path / "trained" / "generation_config.json").read_text())
    assert written["do_sample"] and (written["temperature"], written["top_p"]) == (0.6, 0.9)
    assert written["eos_token_id"] == [1, 4] and (tmp_path / "trained" / "model.safetensors").exists()


def test_a_model_object_is_fixed_too_and_what_cannot_be_fixed_is_refused_at_the_start(tiny, tmp_path):
    model = tiny.model()
    model.generation_config.top_p = 0.5
    prepare_policy(model, {}).save_pretrained(tmp_path / "trained")
    model.generation_config.length_penalty = 2.0
    with pytest.raises(
        ModelError, match=r"could not be saved after training: `length_penalty`.*GenerationConfig\(\)"
    ):
        prepare_policy(model, {})


def test_a_model_that_is_wholly_frozen_is_refused(tiny, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    get_peft_model(tiny.model(), LoraConfig(task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    for frozen in (tiny.model().requires_grad_(False), PeftModel.from_pretrained(tiny.model(), tmp_path)):
        with pytest.raises(ModelError, match=r"none of this model's [\d,]+ weights is trainable.*is_trainable=True"):
            prepare_policy(frozen, {})
    base = tiny.model().requires_grad_(False)
    assert prepare_policy(base, {}, LoraConfig(task_type="CAUSAL_LM")) is not base, (
        "below an adapter it may be frozen"
    )


def test_an_adapter_without_peft_names_what_to_install(tiny, monkeypatch):
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"lora needs the package peft: .*pip install .*\[peft\]'"):
        require_peft("lora")
    with pytest.raises(ConfigError, match="an adapter needs the package peft"):
        prepare_policy(tiny.model(), {}, object())


# -- room on the disk ----------------------------------------------------------------------------------------------


def test_a_checkpoint_of_an_adapter_is_as_large_as_the_adapter(tiny, tmp_path):
    """Rank 2 on two 32 × 32 projections of 2 layers: 2 · 2 · 2 · (32 + 32) numbers of 4 bytes. A whole 7B base was
    asked for instead: 30 GB for a file of 0.2 GB."""
    from peft import LoraConfig, get_peft_model

    model = tiny.model(num_key_value_heads=4)
    whole = sum(p.numel() for p in model.parameters()) * 4
    assert checkpoint_bytes(model) == whole
    assert checkpoint_bytes(model, with_optimizer=True) == 3 * whole
    numbers = 2 * 2 * 2 * (32 + 32)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    assert checkpoint_bytes(adapted) == 4 * numbers
    assert checkpoint_bytes(adapted, with_optimizer=True) == 12 * numbers
    adapted.save_pretrained(tmp_path)
    on_disk = sum(value.numel() * 4 for value in load_file(tmp_path / "adapter_model.safetensors").values())
    assert on_disk == 4 * numbers


def test_modules_that_are_saved_with_an_adapter_take_room_too(tiny):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    adapted = get_peft_model(tiny.model(), config)
    assert checkpoint_bytes(adapted) == 4 * (2 * 2 * (32 + 32) + 32 * tiny.vocabulary)
