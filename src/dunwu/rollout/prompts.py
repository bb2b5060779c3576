"""Rows become prompts: template, prefill, ids, and the rule for one that is too long.

What it is: the one place where text turns into the tokens a model is asked with, for training, evaluation and chat.
What it is not: a dataset (that is a Task) or an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, cast

import torch

from dunwu._utils.logging import get_logger
from dunwu.config import GRPOConfig
from dunwu.core.records import Message, Prompt, Row

__all__ = ["PromptOrder", "PromptSettings", "PromptsReport", "build_prompts", "check_tokenizer", "describe_prompt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSettings:
    """How rows become prompts.

    Example: `PromptSettings(max_length=256, too_long="drop", room=224)`
    """

    max_length: int | None = None
    """Longest prompt in tokens; None: no limit but the model's."""
    too_long: Literal["drop", "cut"] = "drop"
    """Leave a longer prompt out, or cut its beginning off."""
    room: int | None = None
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
                "which may hold the system prompt; raise max_prompt_length to keep it."
            )
        return None


class PromptOrder:
    """Which prompts each step takes: every prompt exactly once an epoch, a new permutation each epoch.

    An epoch has `size // per_step` steps (at least one); what does not divide is spread over them, so some steps take
    one prompt more. Each step's prompts come `repeats` times in a row: the μ passes over the same rollouts.

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

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.arange(self.size)
        if self.seed is not None:
            # Seed and epoch are mixed by a hash-like odd constant: neighbouring seeds share no permutation.
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch()) % 2**63)
            order = torch.randperm(self.size, generator=generator)
        for chunk in order.tensor_split(self.steps):
            for _ in range(self.repeats):
                yield chunk.tolist()


def check_tokenizer(tokenizer: Any, *, needs_template: bool) -> None:
    """Refuse a tokenizer that cannot serve, before anything is loaded or sampled.

    Raises:
        ValueError: without an end token, or without a chat template where prompts are messages.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end token, so no completion could ever end; set tokenizer.eos_token")
    if needs_template and not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "the prompts are chat messages, and the tokenizer has no chat template; use an -Instruct model, "
            "set tokenizer.chat_template, or give prompts as text"
        )


def build_prompts(
    rows: Sequence[Row], tokenizer: Any, settings: PromptSettings | None = None
) -> tuple[list[Prompt], PromptsReport]:
    """Prompts of all rows that have a place, with what happened to the others. `Prompt.row_index` is the row's index.

    Raises:
        ValueError: for no rows, a missing or malformed `prompt` column, a prompt longer than the model's context,
            or when no prompt is left.
    """
    settings = settings or PromptSettings()
    rows = [dict(row) for row in rows]
    given = [_given(row, index) for index, row in enumerate(rows)]
    if not given:
        raise ValueError("the dataset is empty: there is no prompt to train or evaluate on")
    check_tokenizer(tokenizer, needs_template=any(not isinstance(prompt, str) for prompt in given))
    texts = [_as_text(prompt, tokenizer, settings.template_kwargs or {}) for prompt in given]
    ids = _encode(texts, [isinstance(prompt, str) for prompt in given], tokenizer)
    prompts = [
        Prompt(row_index=key, row=row, original=prompt, text=text, ids=tuple(tokens))
        for key, (row, prompt, text, tokens) in enumerate(zip(rows, given, texts, ids, strict=True))
    ]
    return _fit(prompts, tokenizer, settings)


def describe_prompt(prompt: Prompt, tokenizer: Any, *, most: int = 48) -> str:
    """The prompt as the model sees it, its ids beside the text they stand for (the first `most`)."""
    pieces = [f"{i}:{tokenizer.decode([i])!r}" for i in prompt.ids[:most]]
    rest = f" … and {len(prompt.ids) - most} more" if len(prompt.ids) > most else ""
    return f"{prompt.text}\n  ids ({len(prompt.ids)}): {' '.join(pieces)}{rest}"


def _given(row: Row, index: int) -> str | list[Message]:
    if "prompt" not in row:
        raise ValueError(
            f"row {index} has no 'prompt' column; it has {sorted(row)}. Rename a column, "
            "or use a task that builds prompts"
        )
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Iterable) and (messages := list(prompt)) and all(_is_message(m) for m in messages):
        return [{"role": m["role"], "content": m["content"]} for m in messages]
    raise ValueError(
        f"the prompt of row {index} must be text or a list of messages with 'role' and 'content', got {prompt!r:.120}"
    )


def _is_message(message: object) -> bool:
    return (
        isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
    )


def _as_text(prompt: str | list[Message], tokenizer: Any, template_kwargs: dict[str, Any]) -> str:
    if isinstance(prompt, str):
        return prompt
    prefilled = prompt[-1]["role"] == "assistant"
    text: str = tokenizer.apply_chat_template(
        prompt,
        tokenize=False,
        add_generation_prompt=not prefilled,
        continue_final_message=prefilled,
        **template_kwargs,
    )
    return text


def _encode(texts: list[str], plain: list[bool], tokenizer: Any) -> list[list[int]]:
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


def _fit(prompts: list[Prompt], tokenizer: Any, settings: PromptSettings) -> tuple[list[Prompt], PromptsReport]:
    limit = settings.max_length
    longest = max(prompts, key=lambda prompt: len(prompt.ids))
    empty = next((prompt for prompt in prompts if not prompt.ids), None)
    if empty is not None:
        raise ValueError(f"the prompt of row {empty.row_index} is empty; drop the row or give it text")
    if settings.room is not None and (limit is None or limit > settings.room):
        if len(longest.ids) > settings.room and limit is None:
            raise ValueError(
                f"the prompt of row {longest.row_index} has {len(longest.ids)} tokens, and the model's context "
                f"leaves {settings.room} beside the completion; set max_prompt_length to drop or cut such prompts, "
                "or lower max_completion_length"
            )
        limit = settings.room
    too_long = [prompt for prompt in prompts if limit is not None and len(prompt.ids) > limit]
    drop = settings.too_long == "drop"
    if limit is not None and drop:
        kept = [prompt for prompt in prompts if len(prompt.ids) <= limit]
    else:
        kept = [_cut(prompt, tokenizer, limit) for prompt in prompts]
    report = PromptsReport(
        total=len(prompts),
        dropped=len(too_long) if drop else 0,
        cut=0 if drop else len(too_long),
        longest=len(longest.ids),
    )
    if not kept:
        raise ValueError(
            f"no prompt is left: all {len(prompts)} are longer than {limit} tokens; raise max_prompt_length"
        )
    return kept, report


def _cut(prompt: Prompt, tokenizer: Any, limit: int | None) -> Prompt:
    if limit is None or len(prompt.ids) <= limit:
        return prompt
    ids = prompt.ids[-limit:]
    return replace(prompt, ids=ids, text=tokenizer.decode(ids))


def check_token_ids(prompts: Sequence[Prompt], model: Any) -> None:
    """Refuse ids that the model has no embedding for.

    Raises:
        ValueError: where the tokenizer is larger than the model; with the id and what to do.
    """
    known = model.get_input_embeddings().weight.shape[0]
    for prompt in prompts:
        highest = max(prompt.ids)
        if highest >= known:
            raise ValueError(
                f"the tokenizer made token {highest} of row {prompt.row_index}, and the model's vocabulary ends "
                f"at {known}; use the model's own tokenizer, or call model.resize_token_embeddings(len(tokenizer))"
            )


def max_prompt_tokens(model: Any, max_completion_length: int) -> int | None:
    """Tokens the model's context leaves for a prompt; None where the model names no limit.

    Raises:
        ValueError: when the completion alone fills the context.
    """
    context = getattr(model.config, "max_position_embeddings", None)
    if context is None:
        return None
    if max_completion_length >= context:
        raise ValueError(
            f"max_completion_length={max_completion_length} leaves no room for a prompt in this model's context of "
            f"{context} tokens; lower it"
        )
    return int(context) - max_completion_length


def build_run_prompts(
    rows: Iterable[Row], policy: Any, tokenizer: Any, args: GRPOConfig, *, most: int | None = None
) -> list[Prompt]:
    """Prompts of a dataset by a run's rules; what was dropped or cut is said.

    `most`: rows that are read at most; None: all of them.

    Raises:
        ValueError: for rows that cannot become prompts.
    """
    settings = PromptSettings(
        max_length=args.max_prompt_length,
        too_long=cast(Any, args.overlong_prompts),
        room=max_prompt_tokens(policy, args.max_completion_length),
        template_kwargs=cast("dict[str, Any] | None", args.chat_template_kwargs),
    )
    prompts, report = build_prompts(list(islice(rows, most)), tokenizer, settings)
    sentence = report.sentence(args.max_prompt_length if args.max_prompt_length is not None else settings.room)
    if sentence:
        get_logger().warning(sentence)
    check_token_ids(prompts, policy)
    return prompts


def build_training_prompts(rows: Iterable[Row] | None, policy: Any, tokenizer: Any, args: GRPOConfig) -> list[Prompt]:
    """Prompts to train on; of a stream, as many rows as the run's steps take. No dataset: none.

    Raises:
        ValueError: as `build_run_prompts`; for a stream and no number of steps, for it may never end.
    """
    if rows is None:
        return []
    if hasattr(rows, "__len__"):
        return build_run_prompts(rows, policy, tokenizer, args)
    if args.max_steps <= 0:
        raise ValueError(
            "the dataset is a stream, which has no length and so no epoch: set max_steps, or give a list or a "
            "datasets.Dataset (list(stream.take(n)) makes one)"
        )
    assert args.prompts_per_step is not None, "settled by GRPOConfig"
    most = -(-args.max_steps // args.num_iterations) * args.prompts_per_step
    get_logger().info(
        f"the dataset is a stream: reading its first {most:,} rows, as many as {args.max_steps:,} steps take"
    )
    return build_run_prompts(rows, policy, tokenizer, args, most=most)
