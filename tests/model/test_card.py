"""The model card says what is true of the run, and its snippets load the model."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from dunwu.embedded import embedded_model_path
from dunwu.model.card import CardResult, ModelCard, base_name, card_text, full_model_card, write_card

CARD = ModelCard(
    name="mine",
    base="Qwen/Qwen3-0.6B",
    loss="dapo",
    settings={"KL coefficient β": "0.008", "steps": 330},
    rewards={"equation_solves": 1.0, "think_answer_format": 0.3},
    task="countdown",
    datasets=("openai/gsm8k",),
    results=(CardResult(label="correct, greedy", before="32.0 % [28.1, 36.2]", after="72.4 % [68.3, 76.1]"),),
    results_of="500 held-out prompts.",
    recipe="recipe.yaml",
    versions={"dunwu": "0.1.0"},
)


def front_matter(text: str) -> dict[str, Any]:
    content = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(content, dict)
    return content


def snippet(text: str) -> str:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]


def test_a_card_tells_base_method_rewards_figures_and_how_to_do_it_again() -> None:
    text = card_text(CARD)
    assert front_matter(text) == {
        "base_model": "Qwen/Qwen3-0.6B",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["grpo", "dunwu"],
        "datasets": ["openai/gsm8k"],
    }
    for said in (
        "trained with GRPO (`loss_type: dapo`) on the task `countdown`",
        "| KL coefficient β | 0.008 |",
        "| `think_answer_format` | 0.3 |",
        "| correct, greedy | 32.0 % [28.1, 36.2] | 72.4 % [68.3, 76.1] |",
        "dunwu train recipe.yaml",
        "arXiv:2402.03300",
    ):
        assert said in text
    for untrue in ("scratch", "unknown", "More Information"):
        assert untrue not in text


def test_what_is_not_known_is_left_out() -> None:
    text = card_text(ModelCard(name="mine"))
    assert "## Before and after" not in text and "## Train it again" not in text and "## Rewards" not in text
    assert "This model was trained with GRPO" in text


def test_a_folder_of_this_machine_is_no_base_model_of_the_hub() -> None:
    text = card_text(replace(CARD, base="/home/someone/secret project/qwen"))
    assert "base_model" not in front_matter(text) and "someone" not in text and "secret" not in text
    assert "a fine-tuned version of qwen" in text
    assert base_name(embedded_model_path()) == "the model embedded in Dunwu"


@pytest.mark.parametrize("template", [True, False])
def test_the_snippet_loads_the_model_and_asks_it(template: bool, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "3 14 17 = 51"
    card = replace(CARD, hub_name=embedded_model_path(), prompt=prompt, has_template=template, max_new_tokens=16)
    exec(snippet(card_text(card)), {})
    assert len(capsys.readouterr().out) > 4


def test_an_adapters_snippet_loads_base_and_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(embedded_model_path())
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(embedded_model_path()).save_pretrained(tmp_path)
    card = replace(CARD, base=embedded_model_path(), adapter="LORA", hub_name=str(tmp_path), prompt="3 14 17 = 51")
    text = card_text(card)
    assert front_matter(text)["library_name"] == "peft" and "an adapter (LORA) of the model embedded" in text
    exec(snippet(text), {})
    assert "<think>" in capsys.readouterr().out


def test_the_card_of_a_merged_adapter_speaks_of_a_whole_model() -> None:
    merged = full_model_card(card_text(replace(CARD, adapter="LORA")))
    assert merged is not None
    assert "[Qwen/Qwen3-0.6B](https://huggingface.co/Qwen/Qwen3-0.6B) with an adapter (LORA) merged in" in merged
    assert snippet(merged) == snippet(card_text(CARD))
    assert front_matter(merged)["library_name"] == "transformers"
    assert full_model_card("# A card by hand\n") is None


def test_a_card_that_somebody_wrote_stays(tmp_path: Path) -> None:
    own = tmp_path / "README.md"
    own.write_text("# My model\n", encoding="utf-8")
    assert not write_card(tmp_path, card_text(CARD)) and own.read_text(encoding="utf-8") == "# My model\n"
    own.write_text("# Model Card for Model ID\n[More Information Needed]\n", encoding="utf-8")
    assert write_card(tmp_path, card_text(CARD)), "the draft that PEFT leaves is nobody's"
    assert write_card(tmp_path, card_text(replace(CARD, name="other"))), "ours is replaced"
    assert "# other" in own.read_text(encoding="utf-8")
