"""Rows become prompts: the chat template, the ids, and the rule for a prompt that is too long.

The one place where text turns into the tokens that a model is asked with, for training, evaluation and chat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from dunwu._utils.terminal_text import printable
from dunwu.core.records import Message, Prompt, Row
from dunwu.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "PromptOrder",
    "PromptSettings",
    "PromptsReport",
    "build_prompts",
    "check_tokenizer",
    "describe_prompt",
    "next_turn_ids",
    "rows_of",
]

OverlongPrompts: TypeAlias = Literal["drop", "cut"]
"""What to do with a prompt that is too long: leave it out, or cut its beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSettings:
    """How rows become prompts.

    Example: `PromptSettings(max_length=256, overlong="drop", context_left=224)`
    """

    max_length: int | None = None
    """Longest prompt in tokens; None: no limit but the model's."""
    overlong: OverlongPrompts = "drop"
    """Leave a longer prompt out, or cut its beginning off."""
    context_left: int | None = None
    """Tokens the model's context leaves for a prompt once the completion has its own; None: no limit."""
    template_kwargs: dict[str, Any] | None = None
    """Extra arguments of the chat template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptsReport:
    """What happened to the rows.

    Example: `PromptsReport(total=100, dropped=2, cut=0, longest=311)`
    """

    total: int
    """Rows given."""
    dropped: int
    """Rows left out because their prompt was too long."""
    cut: int
    """Prompts that lost their beginning."""
    longest: int
    """Tokens of the longest prompt, before any cut."""

    def sentence(self, limit: int | None) -> str | None:
        """What a user must know, or None where nothing happened."""
        if self.dropped:
            return (
                f"{self.dropped} of {self.total} prompts are longer than {limit} tokens (the longest has "
                f"{self.longest}) and were dropped; raise max_prompt_length, or set overlong_prompts='cut'."
            )
        if self.cut:
            return (
                f"{self.cut} of {self.total} prompts are longer than {limit} tokens and lost their beginning, "
                "which may contain the system prompt; raise max_prompt_length to keep it."
            )
        return None


class PromptOrder:
    """Which prompts each step takes: every prompt exactly once an epoch, a new permutation each epoch.

    An epoch has `size // per_step` steps (at least one); what does not divide is spread evenly over them, so some
    steps take more prompts than others. Each step's prompts come `repeats` times one after the other: the μ passes
    over the same rollouts.

    Args:
        size: number of prompts.
        per_step: prompts a step.
        repeats: μ, updates from the same rollouts.
        seed: of the permutations; None keeps the dataset's order.
        epoch: asked at the start of each pass, so that a resumed run goes on in the permutation it was in.
    """

    def __init__(
        self, *, size: int, per_step: int, repeats: int, seed: int | None, epoch: Callable[[], int] = lambda: 0
    ) -> None:
        self.size, self.repeats, self.seed, self.epoch = size, repeats, seed, epoch
        self.steps = max(1, size // per_step)

    def __len__(self) -> int:
        return self.steps * self.repeats

    @property
    def prompts_a_step(self) -> tuple[int, int]:
        """Fewest and most prompts of a step."""
        return self.size // self.steps, -(-self.size // self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.arange(self.size)
        if self.seed is not None:
            # Seed and epoch are mixed by a hash-like odd constant: neighbouring seeds share no permutation.
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch()) % 2**63)
            order = torch.randperm(self.size, generator=generator)
        ends = [self.size * step // self.steps for step in range(self.steps + 1)]
        for start, end in pairwise(ends):
            for _ in range(self.repeats):
                yield order[start:end].tolist()


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, *, needs_template: bool) -> None:
    """Refuse a tokenizer that cannot serve, before anything is loaded or sampled.

    Raises:
        ModelError: without an end token, or without a chat template where prompts are messages.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no end token, so no completion could ever end; set tokenizer.eos_token")
    if needs_template and not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            "the prompts are chat messages, and the tokenizer has no chat template; use an -Instruct model, "
            "set tokenizer.chat_template, or give prompts as text"
        )


def build_prompts(
    rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase, settings: PromptSettings | None = None
) -> tuple[list[Prompt], PromptsReport]:
    """Prompts of all rows, with what happened to those that are too long. `Prompt.row_index` is the row's index.

    Raises:
        DataError: for no rows, a missing or malformed `prompt` column, a prompt longer than the model's context,
            or when no prompt is left.
        ModelError: for a tokenizer without an end token, or without a chat template where one is needed.
    """
    settings = settings or PromptSettings()
    listed = [_as_row(row, index) for index, row in enumerate(rows)]
    originals = [_original(row, index) for index, row in enumerate(listed)]
    if not originals:
        raise DataError("the dataset is empty: there is no prompt to train or evaluate on")
    check_tokenizer(tokenizer, needs_template=any(not isinstance(prompt, str) for prompt in originals))
    texts = [_as_text(prompt, i, tokenizer, settings.template_kwargs or {}) for i, prompt in enumerate(originals)]
    ids = _encode(texts, [isinstance(prompt, str) for prompt in originals], tokenizer)
    prompts = [
        Prompt(row_index=index, row=row, original=prompt, text=text, ids=tuple(tokens))
        for index, (row, prompt, text, tokens) in enumerate(zip(listed, originals, texts, ids, strict=True))
    ]
    return _fit(prompts, tokenizer, settings)


def rows_of(dataset: Any) -> Iterable[Row]:
    """The rows of what a user may give as a dataset: a list of mappings, a `datasets.Dataset`, a pandas table.

    Raises:
        DataError: for a `DatasetDict` (several splits) or any other mapping, with what to give instead.
    """
    if isinstance(dataset, Mapping):
        splits = ", ".join(repr(name) for name in dataset)
        raise DataError(
            f"the dataset is a {type(dataset).__name__} of several parts ({splits}), not rows; give one of them: "
            f"dataset[{next(iter(dataset), 'train')!r}]"
        )
    if isinstance(dataset, str):
        raise DataError(f"the dataset is the text {dataset!r:.60}, not rows; load it: datasets.load_dataset(…)")
    if hasattr(dataset, "to_dict") and hasattr(dataset, "columns"):  # a pandas table iterates over its columns
        table: Iterable[Row] = dataset.to_dict("records")
        return table
    rows: Iterable[Row] = dataset
    return rows


def describe_prompt(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, *, most: int = 48) -> str:
    """The prompt as the model sees it, its ids beside the text they stand for (the first `most`)."""
    pieces = [f"{i}:{tokenizer.decode([i])!r}" for i in prompt.ids[:most]]
    rest = f" … and {len(prompt.ids) - most} more" if len(prompt.ids) > most else ""
    return f"{printable(prompt.text)}\n  ids ({len(prompt.ids)}): {' '.join(pieces)}{rest}"


def next_turn_ids(
    tokenizer: PreTrainedTokenizerBase,
    message: Message,
    *,
    last_id: int,
    template_kwargs: dict[str, Any] | None = None,
) -> list[int]:
    """Tokens that follow a turn of the model: its closing, the next message, the opening of the model's next turn.

    They are what the chat template writes after an assistant's message; nothing before them is tokenised again.

    Args:
        tokenizer: with a chat template.
        message: the message that follows, such as a tool's result.
        last_id: the last token of the model's turn; a closing token that the model has sampled is not repeated.
        template_kwargs: extra arguments of the template.

    Raises:
        DataError: for a message that the template cannot write.
    """
    mark = "§assistant§"
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}, message]
    if not _is_message(message):
        raise DataError(f"an environment must reply {{'role': …, 'content': …}} or None, got {message!r:.120}")
    try:
        text = str(
            tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True, **(template_kwargs or {}))
        )
    except Exception as error:  # templates raise whatever they like
        raise DataError(
            f"the chat template cannot write the environment's message {message!r:.80}: {error}"
        ) from error
    _, found, after = text.rpartition(mark)
    if not found:
        raise DataError(
            "the chat template leaves an assistant's message out once another follows, so turns cannot be appended "
            "to it; use a template that keeps all messages"
        )
    ids = list(tokenizer(after, add_special_tokens=False)["input_ids"])
    return ids[1:] if ids and ids[0] == last_id else ids


def _as_row(row: object, index: int) -> dict[str, Any]:
    if isinstance(row, Mapping):
        return dict(row)
    raise DataError(
        f"row {index} of the dataset is {row!r:.60} ({type(row).__name__}), not a mapping of columns; write each row "
        "as {'prompt': …}"
    )


def _original(row: Row, index: int) -> str | list[Message]:
    if "prompt" not in row:
        raise DataError(
            f"row {index} has no 'prompt' column; it has {sorted(row)}. Rename a column, "
            "or use a task that builds prompts"
        )
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Iterable) and (messages := list(prompt)) and all(_is_message(m) for m in messages):
        return [{"role": m["role"], "content": _content(m["content"], index)} for m in messages]
    raise DataError(
        f"the prompt of row {index} must be text or a list of messages with 'role' and 'content', got {prompt!r:.120}"
    )


def _is_message(message: object) -> bool:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return False
    content = message.get("content")
    return isinstance(content, str) or (isinstance(content, list) and all(isinstance(part, dict) for part in content))


def _content(content: str | list[dict[str, Any]], index: int) -> str:
    """A message's text; `[{"type": "text", "text": …}, …]` is joined."""
    if isinstance(content, str):
        return content
    for part in content:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise DataError(
                f"a message of row {index} has a part of type {part.get('type')!r}; prompts are text: keep the parts "
                "{'type': 'text', 'text': …} alone"
            )
    return "".join(part["text"] for part in content)


def _as_text(
    prompt: str | list[Message], index: int, tokenizer: PreTrainedTokenizerBase, template_kwargs: dict[str, Any]
) -> str:
    if isinstance(prompt, str):
        return prompt
    prefilled = prompt[-1]["role"] == "assistant"
    try:
        text = tokenizer.apply_chat_template(
            prompt,
            tokenize=False,
            add_generation_prompt=not prefilled,
            continue_final_message=prefilled,
            **template_kwargs,
        )
    except Exception as error:  # templates raise whatever they like, some for a system message
        roles = [message["role"] for message in prompt]
        raise DataError(
            f"the chat template cannot write the messages of row {index} (roles {roles}): {error}; change their "
            "roles, or give the tokenizer another chat_template"
        ) from error
    return str(text)


def _encode(texts: list[str], plain: list[bool], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Ids of each text. A template writes its own begin token, and a text may start with it: it is never doubled."""
    bos = tokenizer.bos_token
    with_special = [
        is_plain and not (bos and text.startswith(bos)) for text, is_plain in zip(texts, plain, strict=True)
    ]
    ids: list[list[int]] = [[] for _ in texts]
    for special in (True, False):
        chosen = [i for i, wanted in enumerate(with_special) if wanted is special]
        if chosen:
            encoded = tokenizer([texts[i] for i in chosen], add_special_tokens=special)["input_ids"]
            for i, tokens in zip(chosen, encoded, strict=True):
                # A tokenizer that closes every text with its end token would end the prompt before the answer.
                ids[i] = (
                    tokens[:-1] if special and len(tokens) > 1 and tokens[-1] == tokenizer.eos_token_id else tokens
                )
    return ids


def _fit(
    prompts: list[Prompt], tokenizer: PreTrainedTokenizerBase, settings: PromptSettings
) -> tuple[list[Prompt], PromptsReport]:
    limit = settings.max_length
    longest = max(prompts, key=lambda prompt: len(prompt.ids))
    empty = next((prompt for prompt in prompts if not prompt.ids), None)
    if empty is not None:
        raise DataError(f"the prompt of row {empty.row_index} is empty; drop the row or give it text")
    if settings.context_left is not None and (limit is None or limit > settings.context_left):
        if len(longest.ids) > settings.context_left and limit is None:
            raise DataError(
                f"the prompt of row {longest.row_index} has {len(longest.ids)} tokens, and the model's context "
                f"leaves {settings.context_left} beside the completion; set max_prompt_length to drop or cut such "
                "prompts, or lower max_completion_length"
            )
        limit = settings.context_left
    too_long = [prompt for prompt in prompts if limit is not None and len(prompt.ids) > limit]
    drop = settings.overlong == "drop"
    if limit is not None and drop:
        fitting = [prompt for prompt in prompts if len(prompt.ids) <= limit]
    else:
        fitting = [_cut(prompt, tokenizer, limit) for prompt in prompts]
    report = PromptsReport(
        total=len(prompts),
        dropped=len(too_long) if drop else 0,
        cut=0 if drop else len(too_long),
        longest=len(longest.ids),
    )
    if not fitting:
        raise DataError(
            f"no prompt is left: all {len(prompts)} are longer than {limit} tokens; raise max_prompt_length"
        )
    return fitting, report


def _cut(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> Prompt:
    if limit is None or len(prompt.ids) <= limit:
        return prompt
    ids = prompt.ids[-limit:]
    return replace(prompt, ids=ids, text=str(tokenizer.decode(list(ids))))
