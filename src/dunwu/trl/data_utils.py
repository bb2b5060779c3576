"""The functions of `trl.data_utils` for prompts and messages: what a row is, and what a template makes of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from dunwu.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "apply_chat_template",
    "extract_prompt",
    "is_conversational",
    "is_conversational_from_value",
    "maybe_apply_chat_template",
    "maybe_convert_to_chatml",
    "maybe_extract_prompt",
    "maybe_unpair_preference_dataset",
    "unpair_preference_dataset",
]

Data = TypeVar("Data", "Dataset", "DatasetDict")

_TEXTS = ("prompt", "chosen", "rejected", "completion", "messages")
_KINDS = (
    {"messages"},
    {"prompt"},
    {"prompt", "completion"},
    {"prompt", "chosen", "rejected"},
    {"chosen", "rejected"},
    {"prompt", "completion", "label"},
)
"""Columns that make up one kind of row."""


def is_conversational(example: Mapping[str, Any]) -> bool:
    """Whether a row is made of messages.

    Example: `is_conversational({"prompt": [{"role": "user", "content": "2+2?"}]})` is `True`.
    """
    found = next((example[name] for name in _TEXTS if name in example), None)
    return isinstance(found, list) and bool(found) and isinstance(found[0], dict) and "role" in found[0]


def is_conversational_from_value(example: Mapping[str, Any]) -> bool:
    """Whether a row has `conversations` of `from` and `value`, an older way to write messages."""
    found = example.get("conversations")
    return isinstance(found, list) and bool(found) and isinstance(found[0], dict) and {"from", "value"} <= {*found[0]}


def maybe_convert_to_chatml(example: Mapping[str, Any]) -> dict[str, Any]:
    """The row with messages of `role` and `content`, where it had `from` and `value`."""
    names = {"from": "role", "value": "content"}

    def renamed(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [{names.get(k, k): v for k, v in m.items()} if isinstance(m, dict) else m for m in value]

    found = {name: renamed(value) if name in (*_TEXTS, "conversations") else value for name, value in example.items()}
    if "conversations" in found:
        found["messages"] = found.pop("conversations")
    return found


def maybe_apply_chat_template(
    example: Mapping[str, Any],
    processing_class: PreTrainedTokenizerBase,
    tools: list[Any] | None = None,
    **template_kwargs: Any,
) -> Mapping[str, Any]:
    """`apply_chat_template` for a row of messages; any other row as it is."""
    if not is_conversational(example):
        return example
    return apply_chat_template(example, processing_class, tools, **template_kwargs)


def apply_chat_template(
    example: Mapping[str, Any],
    processing_class: PreTrainedTokenizerBase,
    tools: list[Any] | None = None,
    **template_kwargs: Any,
) -> dict[str, Any]:
    """The texts that the template makes of a row of messages.

    `messages` become `text`. A `prompt` ends with what begins an answer, or where its last message is the model's
    own, goes on; the other columns are what follows it. `chat_template_kwargs` of the row go to the template too.

    Raises:
        DataError: for columns that make up no kind of row, or a prompt that ends with a message of another role.
    """
    kind = {name for name in (*_TEXTS, "label") if name in example}
    if kind not in _KINDS:
        raise DataError(f"a row with {sorted(kind)} is of no known kind: give `prompt`, or `prompt` and `completion`")
    template: Callable[..., Any] = processing_class.apply_chat_template
    render: Callable[..., str] = functools.partial(
        template,
        tools=tools or None,  # some templates write an empty list of tools
        tokenize=False,
        **example.get("chat_template_kwargs", {}),
        **template_kwargs,
    )
    if "messages" in example:
        return {"text": render(example["messages"])}
    found = _rendered_pair(example, render) if "prompt" in example else _rendered_alone(example, render)
    return {**found, "label": example["label"]} if "label" in example else found


def _rendered_alone(example: Mapping[str, Any], render: Callable[..., str]) -> dict[str, Any]:
    return {name: render(example[name]) for name in ("chosen", "rejected")}


def _rendered_pair(example: Mapping[str, Any], render: Callable[..., str]) -> dict[str, Any]:
    role = example["prompt"][-1]["role"]
    if role not in ("user", "tool", "assistant"):
        raise DataError(f"a prompt ends with a message of user, tool or assistant; its last is of {role!r}")
    goes_on = role == "assistant"
    prompt = render(example["prompt"], add_generation_prompt=not goes_on, continue_final_message=goes_on)
    answers = [name for name in ("chosen", "rejected", "completion") if name in example]
    whole = {name: render(example["prompt"] + example[name]) for name in answers}
    # What a template adds to begin an answer may differ from how a whole conversation reads: what all share counts.
    for text in whole.values():
        prompt = prompt[: _shared(prompt, text)]
    return {"prompt": prompt, **{name: text[len(prompt) :] for name, text in whole.items()}}


def _shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    return next(
        (i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )


def extract_prompt(example: Mapping[str, Any]) -> dict[str, Any]:
    """The turns, or characters, that `chosen` and `rejected` begin with both become the `prompt`.

    A space before the first difference stays with the answers. Where one is the beginning of the other, the last
    shared turn does.
    """
    chosen, rejected = example["chosen"], example["rejected"]
    shorter = min(len(chosen), len(rejected))
    at = next((i for i in range(shorter) if chosen[i] != rejected[i]), None)
    if at is None:
        at = max(shorter - 1, 0)
    elif at and chosen[at - 1] == " ":
        at -= 1
    return {"prompt": chosen[:at], "chosen": chosen[at:], "rejected": rejected[at:]}


def maybe_extract_prompt(example: Mapping[str, Any]) -> Mapping[str, Any]:
    """`extract_prompt` for a row with `chosen` and `rejected` and no `prompt` of their kind; any other as it is."""
    if not {"chosen", "rejected"} <= example.keys():
        return example
    same_kind = "prompt" in example and is_conversational({"chosen": example["chosen"]}) == is_conversational(
        {"prompt": example["prompt"]}
    )
    return example if same_kind else extract_prompt(example)


def unpair_preference_dataset(dataset: Data, **map_kwargs: Any) -> Data:
    """Rows of `chosen` and `rejected` become twice as many of `completion` and `label`, first the chosen ones."""
    return dataset.map(_unpaired, batched=True, remove_columns=_columns(dataset), **map_kwargs)


def maybe_unpair_preference_dataset(dataset: Data, num_proc: int | None = None, desc: str | None = None) -> Data:
    """`unpair_preference_dataset` for a dataset of pairs; any other as it is."""
    if {"chosen", "rejected"} <= set(_columns(dataset)):
        return unpair_preference_dataset(dataset, num_proc=num_proc, desc=desc)
    return dataset


def _unpaired(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    size = len(batch["chosen"])
    twice = {name: values + values for name, values in batch.items() if name not in ("chosen", "rejected")}
    return {**twice, "completion": batch["chosen"] + batch["rejected"], "label": [True] * size + [False] * size}


def _columns(dataset: Any) -> Sequence[str]:
    """Of a dataset, of the first split of several, or of a stream's first row."""
    first = next(iter(dataset.values())) if isinstance(dataset, dict) else dataset
    found: Sequence[str] = first.column_names or list(next(iter(first)))
    return found
