"""The command line: each command is a module here.

A module has `add_arguments` and `run`, and is imported only when its command is called, so that `dunwu --help` needs
neither torch nor transformers. Everything a command does can be done from Python.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from dunwu._utils.language import language, translated
from dunwu._utils.quiet import quiet_dependencies
from dunwu.cli.help_texts import in_language

__all__ = ["main"]

COMMANDS = {
    "quickstart": "train the embedded model on Countdown, on a CPU, in a few minutes",
    "train": "train what a recipe describes; resume a run; several seeds, or a sweep",
    "eval": "measure a model's accuracy on a task, greedy and sampled, with intervals",
    "compare": "lay runs beside each other: settings, figures, and whether a difference is beyond noise",
    "report": "write a run's report card: what it was, what it learned, what to try next",
    "plot": "draw a run's picture from what is in its folder",
    "rollouts": "read what a run's model said: filter, sort, or see one prompt's completions together",
    "chat": "talk to a model, and see what the chat template makes of a message",
    "options": "list every option of a recipe with its default",
    "run": "run a script written for TRL 0.14 to 1.16, unmodified",
    "export": "a trained model for use elsewhere: merged for transformers and vLLM, or GGUF for llama.cpp",
    "fetch": "download a model or dataset into a folder and verify it",
    "rewards": "score a text with every reward of a recipe, before training",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. A user's mistake is one sentence and exit code 2, never a traceback."""
    quiet_dependencies()
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments[0] if arguments and arguments[0] in COMMANDS else None
    if arguments and command is None and not arguments[0].startswith("-"):
        return _unknown_command(arguments[0])
    parser, sub, module = _parser(command)
    if module is not None and sub is not None and {"-h", "--help"} & set(arguments):
        sub.epilog = "\n\n".join([sub.epilog or "", *_listed_options(module)])
    args, rest = parser.parse_known_args(arguments)
    if module is None or sub is None:
        parser.print_help()
        return 2
    try:
        language()  # one that is not there is said before anything is loaded
        code = int(module.run(args, _overrides(rest, sub, module)))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads, such as `| head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError) as error:  # ImportError: an optional package that is not installed
        print(f"dunwu {args.command}: {translated(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"\ndunwu {args.command}: {translated(str(stopped)) or translated('stopped')}", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """Prints one sentence for a mistake, as every other error is, instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        from dunwu._utils.secrets import redact

        where = translated(f"(`{self.prog} --help` shows what it takes)")
        self.exit(2, f"{self.prog}: {translated(redact(message))} {where}\n")


def _parser(command: str | None) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser | None, ModuleType | None]:
    """The parser of everything, that of the command, and the command's module."""
    import dunwu

    parser = _Parser(prog="dunwu", description="Teach language models to reason with GRPO.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"dunwu {dunwu.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    chosen: argparse.ArgumentParser | None = None
    module: ModuleType | None = None
    for name, summary in COMMANDS.items():
        sub = subparsers.add_parser(
            name,
            help=summary,
            description=summary,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == command:
            chosen, module = sub, importlib.import_module(f"dunwu.cli.{name}")
            module.add_arguments(sub)
            in_language(sub)
    in_language(parser)
    return parser, chosen, module


def _listed_options(module: ModuleType) -> list[str]:
    """Every option of the recipe, for the help of a command that takes them; loaded where help is asked for."""
    groups: Sequence[str] = getattr(module, "LISTS_OPTIONS", ())
    if not groups:
        return []
    from dunwu.recipes.option_docs import GROUPS, option_lines

    return ["\n".join([f"{name}: {GROUPS[name][0]}", *option_lines(name)]) for name in groups]


def _unknown_command(name: str) -> int:
    from dunwu._utils.secrets import redact
    from dunwu._utils.suggest import did_you_mean

    sentence = translated(f"there is no command {redact(name)!r}{did_you_mean(name, COMMANDS)}")
    print(f"dunwu: {sentence}", file=sys.stderr)
    return 2


def _overrides(rest: Sequence[str], parser: argparse.ArgumentParser, module: object) -> dict[str, str]:
    """`--section.option value` and `--section.option=value`, for the commands that take a recipe."""
    found: dict[str, str] = {}
    remaining = iter(rest)
    for argument in remaining:
        name, given, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not _is_override(name, module):
            parser.error(_unknown_argument(argument, parser, module))
        if not given:
            following = next(remaining, None)
            if following is None:
                parser.error(f"{argument} has no value")
            value = following
        found[name] = value
    return found


def _is_override(name: str, module: object) -> bool:
    """Whether a command takes `--name` for an option of its recipe: one in a section, or a section itself."""
    if not getattr(module, "TAKES_OVERRIDES", False):
        return False
    import dataclasses

    from dunwu.recipes.recipe import Recipe

    return "." in name or name in {field.name for field in dataclasses.fields(Recipe)}


def _unknown_argument(argument: str, parser: argparse.ArgumentParser, module: object) -> str:
    from dunwu._utils.secrets import redact
    from dunwu._utils.suggest import did_you_mean

    takes = getattr(module, "TAKES_OVERRIDES", False)
    shown = redact(argument.partition("=")[0])  # what follows may be a key
    if not argument.startswith("-"):
        example = "; an option of the recipe reads --train.learning_rate 1e-5" if takes else ""
        return f"unexpected {shown!r}{example}"
    known = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    meant = _option_meant(shown.removeprefix("--")) if takes else ""
    return f"there is no argument {shown!r}{meant or did_you_mean(shown, known)}"


def _option_meant(name: str) -> str:
    """For an option of the recipe that was given without its section: what it should read."""
    from dunwu._utils.suggest import did_you_mean
    from dunwu.recipes.option_docs import group_options

    for group in ("train", "task.countdown", "task.gsm8k", "task.own", "evaluate"):
        hint = did_you_mean(name, [option.name for option in group_options(group)])
        if "did you mean" in hint:
            return hint.replace("mean '", f"mean '--{group.partition('.')[0]}.")
    return ""
