"""The command line: `dunwu quickstart · train · eval · chat · run · fetch · rewards`.

Each command is a module with `add_arguments` and `run`, imported only when it is called, so that `dunwu --help` needs
neither torch nor transformers. Everything a command does can be done from Python.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

__all__ = ["main"]

COMMANDS = {
    "quickstart": "train the embedded model on Countdown, on a CPU, in a few minutes",
    "train": "train what a recipe describes",
    "eval": "measure a model's accuracy on a task, greedy and sampled, with error bars",
    "chat": "talk to a model, and see what the chat template makes of a message",
    "run": "run a script written for TRL 0.14 to 1.16, unmodified",
    "fetch": "download a model or dataset into a folder and verify it",
    "rewards": "score a text with every reward of a recipe, before training",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. A user's mistake is one sentence and exit code 2, never a traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments[0] if arguments and arguments[0] in COMMANDS else None
    parser = _parser(command)
    args, rest = parser.parse_known_args(arguments)
    if args.command is None:
        parser.print_help()
        return 2
    module = importlib.import_module(f"dunwu.cli.{args.command}")
    try:
        return int(module.run(args, _overrides(rest, parser, module)))
    except (ValueError, OSError, ImportError) as error:  # ImportError: an optional package that is not installed
        print(f"dunwu {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ndunwu {args.command}: stopped", file=sys.stderr)
        return 130


def _parser(command: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dunwu", description="Teach language models to reason with GRPO.", allow_abbrev=False
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        sub = subparsers.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        if name == command:
            importlib.import_module(f"dunwu.cli.{name}").add_arguments(sub)
    return parser


def _overrides(rest: Sequence[str], parser: argparse.ArgumentParser, module: object) -> dict[str, str]:
    """`--section.option value` and `--section.option=value`, for the commands that take a recipe."""
    from dunwu._utils.secrets import redact

    if rest and not getattr(module, "TAKES_OVERRIDES", False):
        parser.error(f"unknown argument {redact(rest[0].partition('=')[0])!r}")  # what follows may be a key
    found: dict[str, str] = {}
    remaining = iter(rest)
    for argument in remaining:
        if not argument.startswith("--"):
            parser.error(f"unexpected {redact(argument)!r}; an override reads --train.learning_rate 1e-5")
        name, given, value = argument[2:].partition("=")
        if not given:
            following = next(remaining, None)
            if following is None:
                parser.error(f"{redact(argument)} has no value")
            value = following
        found[name] = value
    return found
