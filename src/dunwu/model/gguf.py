"""A model as a GGUF file for llama.cpp: Llama, Mistral, Qwen2 and Qwen3, written with the package `gguf`.

For every other family, and for quantised files, llama.cpp has programs of its own.
"""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dunwu._utils.commands import install_command
from dunwu.errors import ConfigError, ModelError
from dunwu.model.architectures import unsupported_reason
from dunwu.model.gguf_tokenizer import GGUFTokenizer, gguf_tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Array = NDArray[np.generic]

__all__ = ["convert_by_llama_cpp", "require_gguf", "write_gguf"]

_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""`model_type` to llama.cpp's name."""
_OTHERWISE = "llama.cpp's own converter may do it: --converter PATH/convert_hf_to_gguf.py"


def require_gguf() -> None:
    """Check that the package `gguf` is installed.

    Raises:
        ConfigError: with what to install.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError(f"writing GGUF needs the package gguf: {install_command('export')}")


def write_gguf(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path, *, name: str) -> None:
    """Write weights, shape and tokenizer into one file, in the model's dtype; norms and biases in float32.

    Raises:
        ConfigError: where `gguf` is not installed.
        ModelError: for a family, or a tokenizer, that this does not know how to write.
    """
    require_gguf()
    import gguf

    _refuse_unknown(model)
    words = gguf_tokenizer(tokenizer, model.config.vocab_size)
    writer = gguf.GGUFWriter(file, _ARCHITECTURES[model.config.model_type])
    try:
        writer.add_name(name)
        _add_shape(writer, model.config, model.dtype)
        _add_tokenizer(writer, words, vocabulary=model.config.vocab_size)
        _add_weights(writer, model)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def convert_by_llama_cpp(converter: str, folder: Path, file: Path, *, dtype: torch.dtype) -> None:
    """Have llama.cpp's `convert_hf_to_gguf.py` write the file, with this Python.

    Raises:
        ConfigError: where there is no such script.
        ModelError: with its last line, where it fails.
    """
    script = Path(converter).expanduser()
    if not script.is_file():
        raise ConfigError(f"there is no file {converter!r}; give the path of llama.cpp's convert_hf_to_gguf.py")
    kind = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]
    command = [sys.executable, str(script), str(folder), "--outfile", str(file), "--outtype", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not file.is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise ModelError(f"{script.name} wrote no file: {said[-1] if said else f'exit code {done.returncode}'}")


def _refuse_unknown(model: PreTrainedModel) -> None:
    config = model.config
    reason = unsupported_reason(model)
    kind = _rope(config).get("rope_type", "default")
    if reason is None and kind not in ("default", "llama3"):
        reason = f"its rotary positions are of the type {kind!r}"
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if reason is None and window is not None and window < config.max_position_embeddings:
        reason = f"it attends to the last {window} tokens only, which llama.cpp does not do for this family"
    if reason is not None:
        raise ModelError(f"this model cannot be written to GGUF here: {reason}. {_OTHERWISE}")


def _add_shape(writer: Any, config: Any, dtype: torch.dtype) -> None:
    import gguf

    head = _head_size(config)
    kinds = {
        torch.float32: gguf.LlamaFileType.ALL_F32,
        torch.float16: gguf.LlamaFileType.MOSTLY_F16,
        torch.bfloat16: gguf.LlamaFileType.MOSTLY_BF16,
    }
    writer.add_file_type(kinds[dtype])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(_rope(config)["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_tokenizer(writer: Any, words: GGUFTokenizer, *, vocabulary: int) -> None:
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words.rule)
    writer.add_token_list(words.tokens[:vocabulary])
    writer.add_token_types(words.kinds[:vocabulary])
    writer.add_token_merges(words.merges)
    writer.add_add_bos_token(words.begin is not None)
    if words.begin is not None:
        writer.add_bos_token_id(words.begin)
    if words.end is not None:
        writer.add_eos_token_id(words.end)
    if words.padding is not None:
        writer.add_pad_token_id(words.padding)
    if words.template:
        writer.add_chat_template(words.template)


def _add_weights(writer: Any, model: PreTrainedModel) -> None:
    import gguf

    config = model.config
    architecture = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[_ARCHITECTURES[config.model_type]]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    kind = {torch.float16: gguf.GGMLQuantizationType.F16, torch.bfloat16: gguf.GGMLQuantizationType.BF16}.get(
        model.dtype, gguf.GGMLQuantizationType.F32
    )
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise ModelError(f"llama.cpp has no name for the weight {name!r} of this model. {_OTHERWISE}")
        raw = kind if weight.dim() > 1 else gguf.GGMLQuantizationType.F32
        array = _reordered(name, weight.detach().float().cpu(), config).contiguous().numpy()
        writer.add_tensor(theirs, gguf.quants.quantize(array, raw), raw_dtype=raw)
    if _rope(config).get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_factors(config))


def _reordered(name: str, weight: Tensor, config: Any) -> Tensor:
    """Rows of Llama's queries and keys in llama.cpp's order: it turns neighbouring pairs, transformers the halves."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None or _ARCHITECTURES[config.model_type] != "llama":
        return weight
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _llama3_factors(config: Any) -> Array:
    """By what llama.cpp divides each frequency, in transformers' kind `llama3`."""
    rope, head = _rope(config), _head_size(config)
    frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, head, 2, dtype=torch.float32) / head)
    wavelengths = 2 * math.pi / frequencies
    original, factor = rope["original_max_position_embeddings"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = ((original / wavelengths - low) / (high - low)).clamp(0, 1)
    factors: Array = (1 / ((1 - smooth) / factor + smooth)).numpy()
    return factors


def _rope(config: Any) -> dict[str, Any]:
    return dict(getattr(config, "rope_parameters", None) or {"rope_theta": 10000.0})


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
