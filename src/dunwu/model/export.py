"""A trained model as a folder for other programs: adapters merged, in one dtype, tokenizer and card beside it."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from dunwu.errors import ConfigError, ModelError
from dunwu.model.card import full_model_card, write_card
from dunwu.model.loading import TOKENIZER_FILES, load_model, load_tokenizer, require_peft, without_progress_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["DTYPES", "adapter_base", "new_output", "save_whole_model", "tokenizer_beside", "whole_model"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def adapter_base(folder: str | Path) -> str | None:
    """The base that an adapter's folder names; None where it holds no adapter."""
    file = Path(folder).expanduser() / "adapter_config.json"
    if not file.is_file():
        return None
    try:
        return str(json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path") or "")
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read ({error}); give a folder with a whole adapter") from error


def whole_model(
    source: str, *, base: str | None = None, dtype: str | None = None, options: Mapping[str, Any] | None = None
) -> PreTrainedModel:
    """A model without adapters.

    Args:
        source: a folder, or a hub's name.
        base: what the adapter in `source` is merged into; None where it holds a whole model.
        dtype: one of `DTYPES`; None keeps the one in which the model, or the base, was saved.
        options: further arguments of `from_pretrained`.

    Raises:
        ModelError: where it cannot be loaded, or the adapter is of a kind that cannot be merged.
        ConfigError: for an adapter where `peft` is not installed.
    """
    given = dict(options or {})
    if base is None:
        return load_model(source, dtype=dtype or "auto", **given)
    require_peft("merging an adapter")
    # Added up in float32: in bfloat16 most of an adapter's small numbers would round away.
    model = load_model(base, dtype=torch.float32, **given)
    saved = _dtype_of(base, given) if dtype is None else DTYPES[dtype]
    merged = _merged(model, source)
    torch.nn.Module.to(merged, saved)
    merged.config.dtype = saved
    return merged


def tokenizer_beside(source: str, base: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's folder, else its base's."""
    has_own = base is None or any((Path(source) / file).exists() for file in TOKENIZER_FILES)
    return load_tokenizer(source if has_own else cast(str, base))


def save_whole_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, card_of: str | Path | None = None
) -> None:
    """Write a folder that `from_pretrained` loads.

    Args:
        model: from `whole_model`.
        tokenizer: its tokenizer; the chat template goes with it.
        folder: from `new_output`.
        card_of: a folder whose model card, if it has one of ours, is that of this model too.
    """
    with without_progress_bars():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    card = Path(card_of) / "README.md" if card_of is not None else None
    if card is not None and card.is_file():
        text = full_model_card(card.read_text(encoding="utf-8", errors="replace"))
        if text is not None:
            write_card(folder, text)


@contextmanager
def new_output(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which becomes `path` at the end; after an error nothing is left.

    Raises:
        ConfigError: where there is something already.
    """
    if path.exists():
        raise ConfigError(f"{path} is there already and is not overwritten; give another --out, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    _remove(part)  # of an export that was killed
    try:
        yield part
        part.replace(path)
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _merged(model: PreTrainedModel, adapter: str) -> PreTrainedModel:
    from peft import PeftModel

    with warnings.catch_warnings():
        # Of adapters on one of two tied weights: that is seen to here.
        for message in ("Model has `tie_word_embeddings=True`", "Input and output embeddings are no longer tied"):
            warnings.filterwarnings("ignore", message=message)
        try:
            adapted = PeftModel.from_pretrained(model, adapter)
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"the adapter in {adapter!r} does not fit its base: {reason}") from error
        if not hasattr(adapted.base_model, "merge_and_unload"):
            kinds = {str(getattr(one.peft_type, "value", one.peft_type)) for one in adapted.peft_config.values()}
            raise ModelError(
                f"the adapter in {adapter!r} is of the kind {', '.join(kinds)}, which has no weights to merge into "
                "the base; use it with peft, beside the base"
            )
        merged = cast("PreTrainedModel", adapted.merge_and_unload())
    _untie_where_different(merged)
    return merged


def _untie_where_different(model: PreTrainedModel) -> None:
    """An adapter on one of two tied weights makes them two: saved as one, the other would be lost."""
    read, write = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if read is None or write is None or not getattr(model.config, "tie_word_embeddings", False):
        return
    if not torch.equal(cast(Any, read).weight, cast(Any, write).weight):
        model.config.tie_word_embeddings = False


def _dtype_of(name: str, options: Mapping[str, Any]) -> torch.dtype:
    from transformers import AutoConfig

    return getattr(AutoConfig.from_pretrained(name, **options), "dtype", None) or torch.float32
