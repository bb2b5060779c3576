"""`dunwu options [GROUP]`: every option of a recipe, with its default and what it does."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from dunwu._utils.language import translated

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("group", nargs="?", metavar="GROUP", help="train, task.countdown, evaluate, lora, …")


def run(args: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """List the groups, or one group's options."""
    from dunwu._utils.commands import dunwu_command
    from dunwu.recipes.option_docs import GROUPS, option_lines

    if args.group is not None:
        print("\n".join(option_lines(args.group)))
        return 0
    print(translated("An option is given as --GROUP.OPTION VALUE, or stands in a recipe under its group.\n"))
    for name, (about, _) in GROUPS.items():
        print(f"  {name:10} {translated(about)}")
    print(translated(f"\n{dunwu_command('options', 'train')} lists one group."))
    return 0
