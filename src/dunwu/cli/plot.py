"""`dunwu plot RUN`: draw a run's picture from what is in its folder."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("run", metavar="RUN", help="a run's folder, finished or not")
    parser.add_argument("--out", metavar="FILE.png", help="where to draw it (default: curves.png in the folder)")


def run(args: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Draw, and print where."""
    from dunwu.reports.picture import draw_folder
    from dunwu.reports.run_folder import open_run

    print(draw_folder(open_run(args.run), Path(args.out) if args.out else None))
    return 0
