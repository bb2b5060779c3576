"""What a run logs before its first step: how much a step samples, who shares it, what trains, the first prompt."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dunwu._utils.commands import install_command
from dunwu._utils.logging import get_logger
from dunwu._utils.terminal_text import printable, shorten, wrap
from dunwu.config import GRPOConfig
from dunwu.core.algorithm import AlgorithmConfig
from dunwu.core.records import Prompt
from dunwu.model.loading import trainable_parameters
from dunwu.rollout.prompts import PromptOrder, describe_prompt
from dunwu.training.processes import missing_processes, shared_work

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["first_prompt", "launch_summary", "log_launch_summary"]

_WIDTH = 76
_MOST_LINES = 5
_LAST_TOKENS = 4


def launch_summary(
    args: GRPOConfig, algorithm: AlgorithmConfig, *, model: PreTrainedModel, order: PromptOrder, max_steps: int
) -> list[str]:
    """The sentences a run starts with."""
    return [
        _step_size(args, order, max_steps),
        *shared_work(args, order),
        _weights(args, model),
        _what_to_watch(args, algorithm),
        *_learning_rate_warning(args, model),
    ]


def log_launch_summary(
    args: GRPOConfig,
    algorithm: AlgorithmConfig,
    *,
    model: PreTrainedModel,
    prompts: Sequence[Prompt],
    order: PromptOrder,
    max_steps: int,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Log the summary and the first prompt; for `--verbose` all of it, token by token."""
    log = get_logger()
    for sentence in launch_summary(args, algorithm, model=model, order=order, max_steps=max_steps):
        log.info(sentence)
    missing = missing_processes(args.world_size)
    if missing is not None:
        log.warning(missing)
    spare = model.config.vocab_size - len(tokenizer)
    if spare > 0:
        log.debug(
            f"the model's vocabulary has {spare:,} entries that its tokenizer does not know; they are sampled as any "
            "other, and decode to nothing"
        )
    if log.isEnabledFor(logging.DEBUG):
        log.debug("the first prompt, as the model sees it:\n" + describe_prompt(prompts[0], tokenizer))
    else:
        log.info(first_prompt(prompts[0], tokenizer))


def first_prompt(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str:
    """The prompt as the model reads it in a few lines: its beginning, its end, and the ids it ends in."""
    lines = [
        shorten(row, _WIDTH)
        for line in printable(prompt.text).expandtabs().splitlines()
        for row in wrap(line, _WIDTH, indent="").split("\n")
    ]
    if len(lines) > _MOST_LINES:
        left_out = len(lines) - _MOST_LINES + 1
        lines = [*lines[:2], f"… ({left_out} lines)", *lines[2 + left_out :]]
    text = "\n".join(f"  {line}" for line in lines)
    last = " ".join(f"{i}:{tokenizer.decode([i])!r}" for i in prompt.ids[-_LAST_TOKENS:])
    return f"the first prompt, as the model reads it ({len(prompt.ids)} tokens):\n{text}\n  its last ids: {last}"


def _step_size(args: GRPOConfig, order: PromptOrder, max_steps: int) -> str:
    fewest, most = order.prompts_a_step
    total = f"{fewest * args.num_generations:,}"
    if fewest != most:
        total += f" or {most} × {args.num_generations} = {most * args.num_generations:,}"
    updates = f", {args.num_iterations} updates from each" if args.num_iterations > 1 else ""
    return (
        f"{fewest} prompts × {args.num_generations} completions = {total} a step{updates}; {len(order):,} steps "
        f"an epoch of {order.size:,} prompts, {max_steps:,} in this run{_batch_unit_note(args, order.size)}"
    )


def _batch_unit_note(args: GRPOConfig, prompts: int) -> str:
    """Batch sizes counted prompts once and completions later; the user sees which was understood."""
    reading = args.other_reading()
    if reading is None:
        return ""
    read, other, other_prompts = reading
    if other_prompts is None:
        would = f"as {other} it would hold no whole group of {args.num_generations}"
    else:
        steps = max(1, prompts // other_prompts) * args.num_iterations
        total = other_prompts * args.num_generations
        would = (
            f"as {other} it would be {other_prompts} × {args.num_generations} = {total:,}, {steps:,} steps an epoch"
        )
    return f" (batch size read as {read}; {would}; batch_unit or prompts_per_step decide)"


def _weights(args: GRPOConfig, model: PreTrainedModel) -> str:
    trains, total = trainable_parameters(model)
    dtype = next(p.dtype for p in model.parameters() if p.requires_grad)
    forward = " (forward in bfloat16)" if args.bf16 else " (forward in float16)" if args.fp16 else ""
    name = str(dtype).removeprefix("torch.")
    warning = ""
    if name == "bfloat16" and args.learning_rate < 2e-5 and not _keeps_small_steps(args):
        warning = (
            ". Steps this small leave most bfloat16 weights where they were, rounded back: load the model in "
            "float32 (the default) and let autocast compute in bfloat16; or, where memory is short, set "
            f"optim=stable_adamw ({install_command('bf16')}), which carries what rounding loses"
        )
    return f"{trains:,} of {total:,} parameters train, in {name}{forward} on {args.device}{warning}"


def _keeps_small_steps(args: GRPOConfig) -> bool:
    """Whether the optimizer carries what rounding loses (Kahan), or rounds up as often as down."""
    optimizer = str(getattr(args.optim, "value", args.optim))
    return optimizer == "stable_adamw" or "bf16_stochastic_round=true" in str(args.optim_args).lower()


def _what_to_watch(args: GRPOConfig, algorithm: AlgorithmConfig) -> str:
    if args.num_iterations > 1:
        return (
            "the loss compares the policy with itself before its updates: it hovers around 0. Watch reward and length"
        )
    if algorithm.loss_aggregation == "seq_mean" and algorithm.policy_loss == "clip" and not algorithm.beta:
        return (
            "the loss will read 0 at every step, by construction, while the model learns: watch reward, completion "
            "length and grad_norm"
        )
    return "the loss does not show progress, by construction: watch reward, length and grad_norm"


def _learning_rate_warning(args: GRPOConfig, model: PreTrainedModel) -> list[str]:
    if hasattr(model, "disable_adapter") and args.learning_rate < 5e-6:
        return [
            f"learning_rate={args.learning_rate:g} is one for all weights; an adapter usually needs 1e-5 to 1e-4 "
            "and otherwise seems not to learn"
        ]
    return []
