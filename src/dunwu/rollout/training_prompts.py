"""The prompts of a run: its dataset by its options, checked against its model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from dunwu._utils.logging import get_logger
from dunwu.config import GRPOConfig
from dunwu.config.options import as_dict
from dunwu.core.records import Prompt, Row
from dunwu.errors import ConfigError, DataError
from dunwu.rollout.prompts import PromptSettings, build_prompts, rows_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "build_run_prompts",
    "build_training_prompts",
    "check_token_ids",
    "max_prompt_tokens",
    "prompts_for_model",
]


def build_training_prompts(
    dataset: Iterable[Row] | None, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, args: GRPOConfig
) -> list[Prompt]:
    """Prompts to train on; of a stream, as many rows as the run's steps take. No dataset: none.

    Raises:
        DataError: as `build_run_prompts`, and for fewer prompts than processes.
        ConfigError: for a stream and no number of steps, for it may never end.
    """
    if dataset is None:
        return []
    rows = rows_of(dataset)
    most = None if hasattr(rows, "__len__") else _rows_of_a_stream(args)
    prompts = build_run_prompts(rows, policy, tokenizer, args, most=most)
    if len(prompts) < args.world_size:
        raise DataError(
            f"{len(prompts)} prompts are fewer than {args.world_size} processes, and each takes its own; start fewer"
        )
    return prompts


def build_run_prompts(
    rows: Iterable[Row],
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: GRPOConfig,
    *,
    most: int | None = None,
) -> list[Prompt]:
    """Prompts of a dataset by a run's options; prompts that were dropped or cut are logged.

    Args:
        rows: the dataset.
        policy: the model that will read them.
        tokenizer: its tokenizer.
        args: the run's options.
        most: rows that are read at most; None: all of them.

    Raises:
        DataError: for rows that cannot become prompts.
    """
    settings = PromptSettings(
        max_length=args.max_prompt_length,
        overlong=args.overlong_prompts,
        context_left=max_prompt_tokens(policy, args.max_completion_length),
        template_kwargs=as_dict(args.chat_template_kwargs),
    )
    prompts, report = build_prompts(islice(rows_of(rows), most), tokenizer, settings)
    sentence = report.sentence(
        args.max_prompt_length if args.max_prompt_length is not None else settings.context_left
    )
    if sentence:
        get_logger().warning(sentence)
    check_token_ids(prompts, policy)
    return prompts


def prompts_for_model(
    rows: Iterable[Row],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_completion_length: int,
    template_kwargs: dict[str, Any] | None = None,
) -> list[Prompt]:
    """Prompts of rows for evaluation and chat: all of them, in order, none dropped or cut.

    Args:
        rows: rows with a column `prompt`.
        model: the model that will read them.
        tokenizer: its tokenizer.
        max_completion_length: token limit of a completion, which needs its place in the model's context too.
        template_kwargs: extra arguments of the chat template.

    Raises:
        DataError: for a row that cannot become a prompt, whose prompt leaves no tokens for the completion, or that
            has an id which the model does not know.
    """
    prompts, _ = build_prompts(rows, tokenizer, PromptSettings(template_kwargs=template_kwargs))
    context = getattr(model.config, "max_position_embeddings", None)
    longest = max(prompts, key=lambda prompt: len(prompt.ids))
    if context is not None and len(longest.ids) + max_completion_length > context:
        raise DataError(
            f"the prompt of row {longest.row_index} has {len(longest.ids)} tokens and its completion may have "
            f"{max_completion_length} more, but the model's context is {context}: lower the token limit of "
            "completions (--max-new-tokens, or max_completion_length in a recipe), or shorten the prompt"
        )
    check_token_ids(prompts, model)
    return prompts


def check_token_ids(prompts: Sequence[Prompt], model: PreTrainedModel) -> None:
    """Refuse ids that the model has no embedding for.

    Raises:
        DataError: where the tokenizer is larger than the model; with the id and what to do.
    """
    embedding: Any = model.get_input_embeddings()
    known = embedding.weight.shape[0]
    for prompt in prompts:
        highest = max(prompt.ids)
        if highest >= known:
            raise DataError(
                f"the tokenizer made token {highest} of row {prompt.row_index}, and the model's vocabulary ends "
                f"at {known}; use the model's own tokenizer, or call model.resize_token_embeddings(len(tokenizer))"
            )


def max_prompt_tokens(model: PreTrainedModel, max_completion_length: int) -> int | None:
    """Tokens the model's context leaves for a prompt; None where the model names no limit.

    Raises:
        ConfigError: when the completion alone fills the context.
    """
    context = getattr(model.config, "max_position_embeddings", None)
    if context is None:
        return None
    if max_completion_length >= context:
        raise ConfigError(
            f"max_completion_length={max_completion_length} leaves no room for a prompt in this model's context of "
            f"{context} tokens; lower it"
        )
    return int(context) - max_completion_length


def _rows_of_a_stream(args: GRPOConfig) -> int:
    if args.max_steps <= 0:
        raise ConfigError(
            "the dataset is a stream, which has no length and so no epoch: set max_steps, or give a list or a "
            "datasets.Dataset (list(stream.take(n)) makes one)"
        )
    assert args.prompts_per_step is not None, "GRPOConfig resolves it"
    most = -(-args.max_steps // args.num_iterations) * args.prompts_per_step
    get_logger().info(
        f"the dataset is a stream: reading its first {most:,} rows, as many as {args.max_steps:,} steps take"
    )
    return most
