"""`dunwu run SCRIPT [its arguments]`: a script written for TRL, unmodified, on Dunwu."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from dunwu._utils.language import translated
from dunwu.cli.help_texts import in_language

__all__ = ["add_arguments", "main", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes before the script; everything after the script is the script's."""
    parser.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint in the output folder, if any"
    )
    parser.add_argument(
        "--trl", metavar="VERSION", help="use that TRL's defaults for what the script leaves out, e.g. 0.14"
    )
    parser.add_argument(
        "--batch-unit",
        choices=("auto", "prompts", "completions"),
        help="what per_device_train_batch_size counts; auto: see docs/trl_arguments.md",
    )
    parser.add_argument(
        "--source", choices=("auto", "hf", "modelscope", "local"), help="where models and data come from"
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="no console, metrics.jsonl, rollouts.jsonl and curves.png; only what the script itself asks for",
    )
    parser.add_argument("script", metavar="SCRIPT", help="a Python script written for TRL 0.14 to 1.16")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="…", help="the script's own arguments")


def run(args: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Run the script."""
    from dunwu.compat.run_script import run_script  # from this import on, `trl` means Dunwu

    return run_script(args)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m dunwu.run`."""
    parser = argparse.ArgumentParser(
        prog="dunwu.run", description="Run a script written for TRL 0.14 to 1.16, unmodified.", allow_abbrev=False
    )
    add_arguments(parser)
    in_language(parser)
    try:
        return run(parser.parse_args(argv), {})
    except (ValueError, OSError) as error:
        print(f"dunwu run: {translated(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"\ndunwu run: {translated(str(stopped)) or translated('stopped')}", file=sys.stderr)
        return 130
