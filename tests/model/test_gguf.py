"""GGUF files hold the model: transformers' own reader of the format, written by others, computes the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from dunwu.embedded import embedded_model_path
from dunwu.model.gguf import convert_by_llama_cpp, write_gguf
from dunwu.model.gguf_tokenizer import gguf_tokenizer

pytest.importorskip("gguf")

IDS = torch.tensor([[5, 9, 17, 30, 41, 8, 11]])
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
QWEN2_RULE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(rule: str | None = None, *, merges: Any = (("a", "b"),), **model: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with one merge; GPT-2's rule of splitting, or the one given."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate([*letters, *("".join(pair) for pair in merges)])}
    core = Tokenizer(models.BPE(vocabulary, list(merges), **model))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule is None)
    if rule is not None:
        from tokenizers import Regex

        split = pre_tokenizers.Split(Regex(rule), "isolated")
        core.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    else:
        core.pre_tokenizer = byte_level
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<pad>")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(input_ids=IDS).logits
    return result


def read_back(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama", "mistral"])
def test_each_family_computes_the_same_when_it_is_read_back(family: str, tiny: Any, tmp_path: Path) -> None:
    # transformers' reader does not read the size of a head: these are the ones that it takes for granted.
    own = {"mistral": {"sliding_window": None, "head_dim": 8}, "qwen3": {"head_dim": 128}}.get(family, {})
    model = tiny.model(family, vocab_size=260, **own)
    write_gguf(model, byte_level(), tmp_path / "model.gguf", name="mine")
    torch.testing.assert_close(logits(read_back(tmp_path)), logits(model), rtol=0, atol=1e-5)


def test_bfloat16_weights_are_kept_to_the_bit_and_norms_in_float32(tmp_path: Path) -> None:
    import gguf

    model = AutoModelForCausalLM.from_pretrained(embedded_model_path(), dtype=torch.bfloat16)
    write_gguf(model, AutoTokenizer.from_pretrained(embedded_model_path()), tmp_path / "model.gguf", name="mine")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    assert {str(t.tensor_type.name) for t in reader.tensors if len(t.shape) == 1} == {"F32"}
    assert {str(t.tensor_type.name) for t in reader.tensors if len(t.shape) == 2} == {"BF16"}
    read = read_back(tmp_path).state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(read[name], weight.float()), name


def test_llama_3s_rotary_factors_are_those_of_transformers(tiny: Any, tmp_path: Path) -> None:
    import gguf

    model = tiny.model("llama", vocab_size=260, head_dim=16, rope_parameters=LLAMA3)
    write_gguf(model, byte_level(), tmp_path / "model.gguf", name="mine")
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    plain = 1.0 / 10000.0 ** (torch.arange(0, 16, 2).float() / 16)
    divided = plain / torch.tensor(tensors["rope_freqs.weight"])
    torch.testing.assert_close(divided, model.model.rotary_emb.inv_freq.float(), rtol=1e-5, atol=0)
    assert not torch.allclose(divided, plain)


@pytest.mark.parametrize(
    ("family", "config", "reason"),
    [
        ("gpt2", {}, "its architecture 'gpt2' is none of llama, mistral, qwen2, qwen3"),
        ("mistral", {}, "it attends to the last 4 tokens only"),
        ("qwen2", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "'linear'"),
    ],
)
def test_what_this_cannot_write_names_llama_cpps_own_converter(
    family: str, config: dict[str, Any], reason: str, tiny: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"{reason}.*--converter PATH/convert_hf_to_gguf.py"):
        write_gguf(tiny.model(family, vocab_size=260, **config), byte_level(), tmp_path / "model.gguf", name="mine")


def test_the_embedded_tokenizer_is_bytes_and_pieces_that_are_taken_whole() -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_path())
    words = gguf_tokenizer(tokenizer, 360)
    assert words.rule == "qwen2" and len(words.tokens) == 360
    assert (words.tokens[1], words.kinds[1]) == ("<|end|>", 3), "roles and end are control tokens"
    number = tokenizer.convert_tokens_to_ids("17")
    assert (words.tokens[number], words.kinds[number]) == ("17", 4)
    piece = tokenizer.convert_tokens_to_ids(" yes\n")
    assert words.tokens[piece] == " yes\n", "added pieces are plain text, not byte-level letters"
    assert words.kinds[tokenizer.convert_tokens_to_ids("a")] == 1
    assert (words.tokens[359], words.kinds[359]) == ("[PAD359]", 5), "rows of the embedding without a token"
    assert (words.end, words.padding, words.begin) == (1, 0, None) and "<|{{ message['role'] }}|>" in words.template


def test_rules_of_splitting_are_known_by_their_expression_or_refused() -> None:
    assert gguf_tokenizer(byte_level(), 260).rule == "gpt-2"
    assert gguf_tokenizer(byte_level(QWEN2_RULE), 260).rule == "qwen2"
    llama3 = QWEN2_RULE.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")
    assert gguf_tokenizer(byte_level(llama3, ignore_merges=True), 260).rule == "llama-bpe"
    assert gguf_tokenizer(byte_level(), 260).merges == ("a b",)
    for other in (byte_level(llama3), byte_level(r"\w+")):
        with pytest.raises(ValueError, match=r"it splits texts by a rule that llama.cpp is not known to have"):
            gguf_tokenizer(other, 260)


def test_a_tokenizer_that_is_no_byte_level_bpe_is_refused(tiny: Any) -> None:
    with pytest.raises(ValueError, match="it is no byte-level BPE"):
        gguf_tokenizer(tiny.tokenizer(), 80)


def test_llama_cpps_converter_is_called_and_its_last_word_is_the_error(tmp_path: Path) -> None:
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text(
        "import json, sys\njson.dump(sys.argv[1:], open(sys.argv[sys.argv.index('--outfile') + 1], 'w'))\n",
        encoding="utf-8",
    )
    convert_by_llama_cpp(str(script), tmp_path, tmp_path / "out.gguf", dtype=torch.bfloat16)
    given = json.loads((tmp_path / "out.gguf").read_text(encoding="utf-8"))
    assert given == [str(tmp_path), "--outfile", str(tmp_path / "out.gguf"), "--outtype", "bf16"]
    script.write_text("import sys\nsys.exit('Model FooForCausalLM is not supported')\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"convert_hf_to_gguf\.py wrote no file: Model FooForCausalLM is not supported"
    ):
        convert_by_llama_cpp(str(script), tmp_path, tmp_path / "other.gguf", dtype=torch.float32)
    with pytest.raises(ValueError, match=r"there is no file 'nowhere.py'"):
        convert_by_llama_cpp("nowhere.py", tmp_path, tmp_path / "other.gguf", dtype=torch.float32)
