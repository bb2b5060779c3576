"""A reward model as a reward function: a sequence classifier with one label.

Transformers is imported when a `RewardModel` is made, not before.

    reward = RewardModel("path/or/name/of/a/reward-model")
    reward(prompts=["2+2?"], completions=["4"])   # [1.73]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch

from dunwu.core.records import Message
from dunwu.errors import ModelError
from dunwu.hub import locate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["RewardModel"]

Text: TypeAlias = str | Sequence[Message]
"""A prompt or completion: text, or messages."""


class RewardModel:
    """`AutoModelForSequenceClassification` with one label, called like any reward function.

    Text is prompt + completion with the tokenizer's own special tokens; messages go through its chat template. Rows
    are padded on the right: causal models then see the same positions as without padding. A configuration without
    `pad_token_id` gets one, for transformers finds the last token of a padded row by it.

    Args:
        model: the model, or a name or folder to load it from.
        tokenizer: *its own* tokenizer (default: loaded from the model's name); text is tokenized anew, for the
            policy's ids mean nothing to it.
        batch_size: rows of one forward pass.
        max_length: tokens read at most, the last ones, where the score is; default: all.
        device: where to put the model; default: where it is. A model that is spread over devices stays where it is.

    Raises:
        ModelError: for a model with several labels, without a padding token, or without a tokenizer.
    """

    def __init__(
        self,
        model: PreTrainedModel | str,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        batch_size: int = 8,
        max_length: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.model = _checked(_from_name(model) if isinstance(model, str) else model)
        self.tokenizer = tokenizer or _tokenizer_of(self.model)
        self.batch_size, self.max_length = batch_size, max_length
        self.pad_id = self._pad_id()
        if device is not None and getattr(self.model, "hf_device_map", None) is None:
            self.model.to(device)  # type: ignore[arg-type]
        self.__name__ = str(self.model.config.name_or_path).rstrip("/").rsplit("/", 1)[-1] or "reward_model"

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: object) -> list[float]:
        """One score a row, in the model's own units."""
        rows = [self._ids(p, c) for p, c in zip(prompts, completions, strict=True)]
        return [score for batch in self._batches(rows) for score in self._scores(batch)]

    def _ids(self, prompt: Text, completion: Text) -> list[int]:
        if isinstance(prompt, str) and isinstance(completion, str):
            ids = self.tokenizer(prompt + completion)["input_ids"]
        else:
            text = self.tokenizer.apply_chat_template([*prompt, *completion], tokenize=False)
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]  # the template has written them
        return list(ids) if self.max_length is None else list(ids)[-self.max_length :]

    def _batches(self, rows: list[list[int]]) -> Iterator[list[list[int]]]:
        for start in range(0, len(rows), self.batch_size):
            yield rows[start : start + self.batch_size]

    @torch.inference_mode()
    def _scores(self, rows: list[list[int]]) -> list[float]:
        width = max(len(row) for row in rows)
        ids_BT = torch.tensor([row + [self.pad_id] * (width - len(row)) for row in rows], device=self.model.device)
        attention_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=ids_BT.device)
        logits_B1 = self.model(input_ids=ids_BT, attention_mask=attention_BT).logits
        return [float(score) for score in logits_B1[:, 0].float().tolist()]

    def _pad_id(self) -> int:
        config = self.model.config
        known = (config.pad_token_id, self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        pad = next((token for token in known if isinstance(token, int)), None)
        if pad is None:
            raise ModelError(
                f"reward model {config.name_or_path!r} has no padding token: neither a pad_token_id nor an "
                "eos_token_id; set model.config.pad_token_id to a token that no text contains"
            )
        config.pad_token_id = pad
        return pad


def _from_name(name: str) -> PreTrainedModel:
    from transformers import AutoModelForSequenceClassification

    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(locate(name))
    return model


def _checked(model: PreTrainedModel) -> PreTrainedModel:
    if model.config.num_labels != 1:
        raise ModelError(
            f"a reward model must have one label; {model.config.name_or_path!r} has {model.config.num_labels}. "
            "Choose a model trained to score (a language model or a classifier would get or keep the wrong head)"
        )
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _tokenizer_of(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    name = model.config.name_or_path
    if not name:
        raise ModelError("RewardModel got a model without a name and no tokenizer; pass tokenizer=…, the model's own")
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(locate(name))
    return tokenizer
