"""`dunwu run SCRIPT [its arguments]`: a script written for TRL, unmodified, on Dunwu."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from dunwu.run import add_arguments, run_script

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Run it."""
    return run_script(args)
