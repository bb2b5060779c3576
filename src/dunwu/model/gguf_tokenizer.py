"""A byte-level BPE tokenizer as GGUF describes it to llama.cpp.

llama.cpp has the rules by which a text is split before merging built in, by name; a tokenizer whose rule has no name
there is refused, since it would read texts otherwise than the model was trained to.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dunwu.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["GGUFTokenizer", "gguf_tokenizer"]

_NORMAL, _CONTROL, _OWN, _UNUSED = 1, 3, 4, 5
"""llama.cpp's kinds of tokens; `_OWN` are those that were added and are ordinary text."""

_ENDINGS = r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_RULES = {
    (_CONTRACTIONS + _ENDINGS % "", False): "qwen2",
    (_CONTRACTIONS + _ENDINGS % "{1,3}", True): "llama-bpe",
    ("", False): "gpt-2",
}
"""Expression that splits a text (empty: GPT-2's own), and whether words of the vocabulary are taken whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFTokenizer:
    """What GGUF holds of a tokenizer.

    Example: `GGUFTokenizer(rule="qwen2", tokens=("a", "b", "ab"), kinds=(1, 1, 1), merges=("a b",)).rule` is
    `"qwen2"`.
    """

    rule: str
    """llama.cpp's name for the rule that splits a text."""
    tokens: tuple[str, ...]
    """By id: pieces in byte-level letters, added tokens as they are."""
    kinds: tuple[int, ...]
    """By id."""
    merges: tuple[str, ...]
    """Pairs with a space between them, the first ones first."""
    begin: int | None = None
    """Id of the token before every text, if there is one."""
    end: int | None = None
    """Id of the token that ends an answer."""
    padding: int | None = None
    """Id of the padding token."""
    template: str = ""
    """The chat template."""


def gguf_tokenizer(tokenizer: PreTrainedTokenizerBase, size: int) -> GGUFTokenizer:
    """The tokenizer for a model with `size` rows of embeddings.

    Raises:
        ModelError: for a tokenizer that llama.cpp has no name for.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(_refused("it has no tokenizer.json"))
    content = json.loads(backend.to_str())
    model, added = content["model"], {one["id"]: one for one in content["added_tokens"]}
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise ModelError(_refused("it is no byte-level BPE"))
    by_id = {index: piece for piece, index in model["vocab"].items()}
    tokens, kinds = [], []
    for index in range(max(size, 1 + max([*by_id, *added]))):
        token, kind = by_id.get(index, f"[PAD{index}]"), _NORMAL if index in by_id else _UNUSED
        if index in added:
            token, kind = added[index]["content"], _CONTROL if added[index]["special"] else _OWN
        tokens.append(token)
        kinds.append(kind)
    begin = tokenizer.bos_token_id
    adds_begin = begin is not None and tokenizer("a")["input_ids"][0] == begin
    return GGUFTokenizer(
        rule=_rule(content),
        tokens=tuple(tokens),
        kinds=tuple(kinds),
        merges=_merges(model, tokens),
        begin=begin if adds_begin else None,
        end=tokenizer.eos_token_id,
        padding=tokenizer.pad_token_id,
        template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else "",
    )


def _rule(content: dict[str, Any]) -> str:
    steps = content.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers") or [steps]
    expressions = [step["pattern"].get("Regex", "?") for step in steps if step.get("type") == "Split"]
    byte_level = [step for step in steps if step.get("type") == "ByteLevel"]
    known = None
    if len(byte_level) == 1 and len(steps) == len(expressions) + 1 and len(expressions) < 2:
        if not expressions and not byte_level[0].get("use_regex", True):
            expressions = ["?"]
        known = _RULES.get(("".join(expressions), bool(content["model"].get("ignore_merges"))))
    if known is None:
        raise ModelError(_refused("it splits texts by a rule that llama.cpp is not known to have"))
    return known


def _merges(model: dict[str, Any], tokens: list[str]) -> tuple[str, ...]:
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    # llama.cpp wants at least one: two whole tokens never meet where single bytes are merged.
    return tuple(" ".join(pair) for pair in pairs) or (f"{tokens[0]} {tokens[0]}",)


def _refused(why: str) -> str:
    return (
        f"this tokenizer cannot be written to GGUF here: {why}. llama.cpp's own converter may know it: "
        "--converter PATH/convert_hf_to_gguf.py"
    )
