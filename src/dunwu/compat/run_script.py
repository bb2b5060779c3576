"""Runs a script written for TRL as it is: checked first, then executed as `__main__` with its own arguments.

It is no sandbox: the script does what it does. `dunwu run` and `python -m dunwu.run` call it.
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

from dunwu._utils.logging import get_logger
from dunwu._utils.suggest import did_you_mean
from dunwu.trl.supported_names import HERE

__all__ = ["run_script"]


def run_script(args: argparse.Namespace) -> int:
    """Run the script; returns the exit code.

    Raises:
        ValueError: for a script that is not there, or uses what Dunwu lacks; before anything is loaded.
    """
    from dunwu.trl.versioned_defaults import era_of

    path = Path(args.script)
    _look_at(path)
    chosen = {"DUNWU_TRL": args.trl, "DUNWU_BATCH_UNIT": args.batch_unit, "DUNWU_SOURCE": args.source}
    os.environ.update({name: value for name, value in chosen.items() if value})
    if args.resume:
        os.environ["DUNWU_RESUME"] = "1"
    era_of({})  # a version that never was is refused now, not when the script comes to its options
    from dunwu.compat.install import install

    install()
    return _as_main(path, args.arguments)


def _look_at(path: Path) -> None:
    from dunwu._utils.secrets import warn_of_secrets_in
    from dunwu.trl.script_check import missing_names, source_of

    source = source_of(path)
    missing = missing_names(source, path.name)
    if missing:
        raise ValueError("this script needs what is not here:\n  " + "\n  ".join(missing))
    if _is_first():
        for sentence in warn_of_secrets_in(source, path.name):
            get_logger().warning(sentence)


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
        hint = did_you_mean(mistyped[2], known)
        return f"{mistyped[1]} has no argument {mistyped[2]!r}{hint if 'did you mean' in hint else ''}"
    return str(error) if isinstance(error, ValueError | ImportError) and _is_ours(error.__traceback__) else None


def _is_ours(trace: TracebackType | None) -> bool:
    """Whether an error was raised by Dunwu's own check of what the script gave it."""
    last = traceback.extract_tb(trace)[-1].filename
    return Path(last).is_relative_to(Path(__file__).parent.parent)


def _where(error: BaseException, path: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f"{path.name}, line {lines[-1]}: " if lines else ""
