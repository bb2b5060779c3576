"""Runs a script written for TRL as it is: checked first, then executed as `__main__` with its own arguments.

`dunwu run` and `python -m dunwu.run` call it. It is not a sandbox: the script does what it does.
"""

from __future__ import annotations

import inspect
import os
import re
import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

import dunwu.trl
from dunwu._utils.commands import dunwu_command
from dunwu._utils.language import translated
from dunwu._utils.logging import get_logger
from dunwu._utils.quiet import quiet_dependencies
from dunwu._utils.secrets import warn_of_secrets_in
from dunwu._utils.suggest import did_you_mean
from dunwu.compat.install import install
from dunwu.errors import ConfigError
from dunwu.training.interruption import RunInterrupted
from dunwu.trl.options import BatchUnit, set_options
from dunwu.trl.script_check import missing_names, pinned_version, read_script
from dunwu.trl.supported_names import SUPPORTED

__all__ = ["RunArguments", "run_script"]


class RunArguments(Protocol):
    """The command line of `dunwu run`."""

    script: str
    """Path of the script."""
    arguments: Sequence[str]
    """The script's own arguments."""
    trl: str | None
    """The TRL whose defaults are used; None: inferred."""
    batch_unit: BatchUnit | None
    """What the batch size counts; None: inferred."""
    source: str | None
    """Where models and data come from; None: what `DUNWU_SOURCE` says."""
    resume: bool
    """Continue from the last checkpoint."""
    plain: bool
    """Leave out console, metrics, rollouts and picture."""


def run_script(args: RunArguments) -> int:
    """Run the script; returns the exit code.

    Raises:
        ConfigError: for a script that is missing, or certain to use what Dunwu lacks; before anything is loaded.
    """
    quiet_dependencies()
    path = Path(args.script)
    source = _checked(path)
    set_options(
        trl_version=args.trl,
        batch_unit=args.batch_unit or "auto",
        resume=args.resume,
        pinned_version=pinned_version(source, path),
        observed=not args.plain,
    )
    if args.source:
        os.environ["DUNWU_SOURCE"] = args.source  # the hub's own setting, for all that is loaded from here on
    install()
    return _run_as_main(path, args.arguments)


def _checked(path: Path) -> str:
    """The script's text."""
    source = read_script(path)
    missing = missing_names(source, path.name)
    if missing:
        raise ConfigError("this script needs what Dunwu does not have:\n  " + "\n  ".join(missing))
    for sentence in warn_of_secrets_in(source, path.name):
        get_logger().warning(sentence)
    return source


def _run_as_main(path: Path, arguments: Sequence[str]) -> int:
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.resolve().parent))
    try:
        runpy.run_path(str(path), run_name="__main__")
    except Exception as error:  # the script's own errors keep Python's traceback; ours become one sentence
        sentence = _sentence_of(error)
        if sentence is None:
            sys.excepthook(type(error), error, error.__traceback__)
            return 1
        print(f"dunwu run: {translated(_place_of(error, path) + sentence)}", file=sys.stderr)
        return 2
    except RunInterrupted as stopped:
        again = dunwu_command("run", "--resume", path, *arguments)
        raise KeyboardInterrupt(f"{stopped}; this goes on:\n  {again}") from None
    return 0


def _sentence_of(error: Exception) -> str | None:
    """What a user's mistake in our arguments is reported as; None for anything else."""
    mistyped = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if isinstance(error, TypeError) and mistyped and mistyped[1] in SUPPORTED:
        known = inspect.signature(getattr(dunwu.trl, mistyped[1])).parameters
        hint = did_you_mean(mistyped[2], known)
        return f"{mistyped[1]} has no argument {mistyped[2]!r}{hint if 'did you mean' in hint else ''}"
    is_mistake = isinstance(error, ValueError | ImportError) or (
        isinstance(error, AttributeError) and str(error).startswith("trl.")
    )
    return str(error) if is_mistake and _is_raised_by_dunwu(error.__traceback__) else None


def _is_raised_by_dunwu(trace: TracebackType | None) -> bool:
    last = traceback.extract_tb(trace)[-1].filename
    return Path(last).is_relative_to(Path(__file__).parent.parent)


def _place_of(error: BaseException, path: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f"{path.name}, line {lines[-1]}: " if lines else ""
