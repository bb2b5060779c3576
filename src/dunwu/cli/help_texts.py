"""`--help` in the language that is asked for."""

from __future__ import annotations

import argparse

from dunwu._utils.language import translated

__all__ = ["ARGPARSE_SAYS", "in_language"]

ARGPARSE_SAYS = (
    "positional arguments",
    "show this help message and exit",
    "show program's version number and exit",
    "the following arguments are required: {}",
    "argument {}: expected one argument",
    "argument {}: expected at least one argument",
    "argument {}: invalid {} value: {!r}",
    "argument {}: invalid choice: {!r} (choose from {})",
    "argument {}: ignored explicit argument {!r}",
    "argument {}: not allowed with argument {}",
)
"""Python's own sentences that a user of the commands meets: listed here, they have a twin in the catalogue."""


def in_language(parser: argparse.ArgumentParser) -> None:
    """Translate what a parser shows, in place; call it once all arguments are there."""
    parser.description = translated(parser.description or "") or None
    parser.epilog = translated(parser.epilog or "") or None
    for group in parser._action_groups:
        group.title = translated("options") if group.title == "options" else translated(group.title or "")
    for action in parser._actions:
        action.help = _help(action)
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                choice.help = _help(choice)


def _help(action: argparse.Action) -> str | None:
    return translated(action.help) if action.help and action.help != argparse.SUPPRESS else action.help
