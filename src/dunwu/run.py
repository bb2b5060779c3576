"""`dunwu run SCRIPT`, and `python -m dunwu.run SCRIPT` for launchers: an old script of TRL's, unmodified, on Dunwu.

What it is: a look at the script, `trl` made to mean Dunwu, then the script as `__main__` with its own arguments.
What it is not: a sandbox; the script does what it does.

    accelerate launch --num_processes 2 -m dunwu.run train.py --config train.yaml
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from dunwu.trl.names import HERE
from dunwu.voice import voice
from dunwu.words import nearest

__all__ = ["add_arguments", "main", "run_script"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes before the script; all that follows the script is the script's."""
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    parser.add_argument("--trl", metavar="VERSION", help="defaults of that TRL for what the script leaves out")
    parser.add_argument(
        "--batch-unit",
        choices=("auto", "prompts", "completions"),
        help="what per_device_train_batch_size counts; auto: see docs/old_arguments.md",
    )
    parser.add_argument("--source", choices=("auto", "hf", "modelscope", "local"), help="where names come from")
    parser.add_argument("script", metavar="SCRIPT", help="a Python script written for TRL 0.14 to 1.16")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="…", help="the script's own arguments")


def run_script(args: argparse.Namespace) -> int:
    """Run the script; returns the exit code.

    Raises:
        ValueError: for a script that is not there, or uses what Dunwu lacks; before anything is loaded.
    """
    from dunwu.trl.eras import era_of

    path = Path(args.script)
    _look_at(path)
    chosen = {"DUNWU_TRL": args.trl, "DUNWU_BATCH_UNIT": args.batch_unit, "DUNWU_SOURCE": args.source}
    os.environ.update({name: value for name, value in chosen.items() if value})
    if args.resume:
        os.environ["DUNWU_RESUME"] = "1"
    era_of({})  # a version that never was is refused now, not when the script comes to its options
    from dunwu.trl.alias import install

    install()
    return _as_main(path, args.arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m dunwu.run`."""
    parser = argparse.ArgumentParser(prog="dunwu.run", description=__doc__.splitlines()[0], allow_abbrev=False)
    add_arguments(parser)
    try:
        return run_script(parser.parse_args(argv))
    except ValueError as error:
        print(f"dunwu run: {error}", file=sys.stderr)
        return 2


def _look_at(path: Path) -> None:
    from dunwu.trackers import warn_of_keys_in
    from dunwu.trl.beforehand import missing_names, source_of

    source = source_of(path)
    missing = missing_names(source, path.name)
    if missing:
        raise ValueError("this script needs what is not here:\n  " + "\n  ".join(missing))
    if _is_first():
        for sentence in warn_of_keys_in(source, path.name):
            voice().warning(sentence)


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _as_main(path: Path, arguments: Sequence[str]) -> int:
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.resolve().parent))
    try:
        runpy.run_path(str(path), run_name="__main__")
    except Exception as error:  # the script's own mistakes look as Python shows them; ours are one sentence
        sentence = _in_a_sentence(error)
        if sentence is None:
            sys.excepthook(type(error), error, error.__traceback__)
            return 1
        print(f"dunwu run: {_where(error, path)}{sentence}", file=sys.stderr)
        return 2
    return 0


def _in_a_sentence(error: Exception) -> str | None:
    """What a user's mistake in our arguments is told as; None for anything else."""
    mistyped = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if isinstance(error, TypeError) and mistyped and mistyped[1] in HERE:
        import dunwu.trl

        known = inspect.signature(getattr(dunwu.trl, mistyped[1])).parameters
        hint = nearest(mistyped[2], known)
        return f"{mistyped[1]} has no argument {mistyped[2]!r}{hint if 'did you mean' in hint else ''}"
    return str(error) if isinstance(error, ValueError | ImportError) and _is_ours(error.__traceback__) else None


def _is_ours(trace: TracebackType | None) -> bool:
    """Whether an error was raised by Dunwu's own check of what the script gave it."""
    last = traceback.extract_tb(trace)[-1].filename
    return Path(last).is_relative_to(Path(__file__).parent)


def _where(error: BaseException, path: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f"{path.name}, line {lines[-1]}: " if lines else ""


if __name__ == "__main__":
    sys.exit(main())
