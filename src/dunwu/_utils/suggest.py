"""The end of an error message for a mistyped name: the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean"]

_MEANT = {
    "lr": ("learning_rate",),
    "rank": ("r",),
    "alpha": ("lora_alpha",),
    "dropout": ("lora_dropout", "disable_dropout"),
    "epochs": ("num_train_epochs",),
    "steps": ("max_steps",),
    "batch_size": ("prompts_per_step",),
    "group_size": ("num_generations",),
    "num_completions": ("num_generations",),
    "max_length": ("max_completion_length",),
    "max_tokens": ("max_completion_length",),
    "max_new_tokens": ("max_completion_length",),
    "kl_coef": ("beta",),
    "clip": ("epsilon",),
    "scheduler": ("lr_scheduler_type",),
    "warmup": ("warmup_steps",),
    "output": ("output_dir",),
    "dataset": ("task", "source"),
    "n": ("rows", "num_generations"),
}
"""What people call an option, and what it is called here."""

_MOST = 20
"""So many known names are listed where none is near; more would hide the error."""


def did_you_mean(name: str, known: Iterable[str], *, where: str = "") -> str:
    """`; did you mean 'x'?` with the nearest known name; where none is near, all known names if they are few.

    Args:
        name: what was given.
        known: what could have been given.
        where: what lists them, where they are too many: `dunwu options train`.
    """
    names = sorted(known)
    usual = [meant for meant in _MEANT.get(name.lower(), ()) if meant in names]
    close = usual or difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    if where and len(names) > _MOST:
        return f"; {where} lists all {len(names)}"
    return f"; known: {', '.join(names)}"
