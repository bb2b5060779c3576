"""`dunwu report RUN`: write a run's report card into its folder, and print it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from dunwu._utils.language import translated
from dunwu.reports.report_card import write_report
from dunwu.reports.run_folder import open_run

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("run", metavar="RUN", help="a run's folder")


def run(args: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Print the report card, and say where it is."""
    path = write_report(open_run(args.run))
    encoding = sys.stdout.encoding or "utf-8"
    print(path.read_text(encoding="utf-8").encode(encoding, "backslashreplace").decode(encoding))
    print(translated(f"written: {path}"))
    return 0
