"""The embedded model's tokenizer: byte-level BPE in which each piece of a Countdown trace is one token.

Any text (in NFC, as Qwen2's class normalises it) is decoded unchanged; 0 to 99, the signs, the ends of a trial and
the four tags are single tokens, the rest is bytes. The tags are ordinary added tokens, so decoding keeps them; roles,
end and padding are special.

The pieces are *added* tokens, not merges: transformers loads any tokenizer beside a Qwen2 model as Qwen2's own class,
which keeps vocabulary and added tokens and replaces the splitting rule; what is matched before splitting is tokenised
the same under either class.
"""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

__all__ = ["END", "PAD", "TAGS", "make_tokenizer"]

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
# Qwen2's tokenizer class adds its own padding token where it is missing: with its name, nothing is added.
END, PAD = "<|end|>", "<|endoftext|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""As short as can be: `<|user|>3 14 17 = 51<|end|><|assistant|>`."""

PIECES = (*(str(n) for n in range(100)), *"+-*/=()", ", ", " yes\n", " no\n")
"""What a prompt or a trial is made of."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, the same on every call."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    bytes_only = trainers.BpeTrainer(
        vocab_size=256 + 2 + len(ROLES),  # no merges
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[PAD, END, *ROLES],
    )
    core.train_from_iterator([], bytes_only)
    core.add_tokens([AddedToken(piece, normalized=False) for piece in (*PIECES, *TAGS)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
