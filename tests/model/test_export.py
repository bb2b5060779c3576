"""A trained model for other programs: one folder, no adapter, the numbers unchanged."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dunwu.model.export import adapter_base, new_output, save_whole_model, tokenizer_beside, whole_model

IDS = torch.tensor([[5, 9, 17, 30, 41, 8]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(input_ids=IDS).logits
    return result


@pytest.fixture
def base(tiny: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def adapted(base: Path, folder: Path, **options: Any) -> torch.Tensor:
    """An adapter with random weights, saved; what base and adapter compute together."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", "r": 4, **options})
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Model has `tie_word_embeddings=True`"
        )  # of one of two tied weights
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.data.add_(0.2 * torch.randn_like(weight)) if "lora" in name else weight.data.mul_(1.5)
    model.save_pretrained(folder)
    return logits(model)


def test_a_merged_adapter_computes_in_plain_transformers_what_base_and_adapter_did(
    base: Path, tmp_path: Path
) -> None:
    together = adapted(base, tmp_path / "adapter")
    assert adapter_base(tmp_path / "adapter") == str(base) and adapter_base(base) is None
    model = whole_model(str(tmp_path / "adapter"), base=str(base))
    save_whole_model(model, tokenizer_beside(str(tmp_path / "adapter"), str(base)), tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not hasattr(loaded, "peft_config") and not (tmp_path / "merged" / "adapter_config.json").exists()
    torch.testing.assert_close(logits(loaded), together, rtol=0, atol=1e-5)
    assert (logits(AutoModelForCausalLM.from_pretrained(base)) - together).abs().max() > 0.1
    template = AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    assert template == AutoTokenizer.from_pretrained(base).chat_template


def test_tied_weights_that_an_adapter_has_made_two_are_saved_as_two(tiny: Any, tmp_path: Path) -> None:
    tiny.model(tie_word_embeddings=True).save_pretrained(tmp_path / "base")
    together = adapted(tmp_path / "base", tmp_path / "adapter", modules_to_save=["lm_head"])
    model = whole_model(str(tmp_path / "adapter"), base=str(tmp_path / "base"))
    save_whole_model(model, tiny.tokenizer(), tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(loaded), together, rtol=0, atol=1e-5)


def test_the_dtype_is_the_saved_one_or_the_one_asked_for(tiny: Any, tmp_path: Path) -> None:
    tiny.model().to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert whole_model(str(tmp_path / "half")).dtype == torch.bfloat16
    assert whole_model(str(tmp_path / "half"), dtype="float32").dtype == torch.float32
    adapted(tmp_path / "half", tmp_path / "adapter")
    merged = whole_model(str(tmp_path / "adapter"), base=str(tmp_path / "half"))
    save_whole_model(merged, tiny.tokenizer(), tmp_path / "merged")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").dtype == torch.bfloat16


def test_an_adapter_without_weights_to_merge_is_refused(base: Path, tmp_path: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "virtual")
    with pytest.raises(ValueError, match="of the kind PROMPT_TUNING, which has no weights to merge"):
        whole_model(str(tmp_path / "virtual"), base=str(base))


def test_an_adapter_of_another_base_is_refused_in_a_sentence(tiny: Any, base: Path, tmp_path: Path) -> None:
    adapted(base, tmp_path / "adapter")
    tiny.model(hidden_size=16).save_pretrained(tmp_path / "small")
    with pytest.raises(ValueError, match=r"the adapter in '.*adapter' does not fit its base: .*size mismatch"):
        whole_model(str(tmp_path / "adapter"), base=str(tmp_path / "small"))


def test_nothing_is_overwritten_and_nothing_half_written_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with (
        pytest.raises(ValueError, match="is there already and is not overwritten; give another --out"),
        new_output(tmp_path / "there"),
    ):
        raise AssertionError("not reached")
    with pytest.raises(RuntimeError), new_output(tmp_path / "new" / "one") as part:
        part.mkdir()
        raise RuntimeError("the disk is full")
    assert list((tmp_path / "new").iterdir()) == []
    with new_output(tmp_path / "new" / "one") as part:
        part.write_text("whole", encoding="utf-8")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["one"]
