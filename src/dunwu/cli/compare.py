"""`dunwu compare RUN RUN ...`: in which settings runs differ, what they came to, and whether that is beyond noise."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from dunwu._utils.language import translated
from dunwu.errors import ConfigError
from dunwu.reports.comparison import Comparison, compare_runs

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run's folder, or a folder of runs, such as a sweep's"
    )
    parser.add_argument("--out", metavar="FILE.md", help="also write a page, and the picture of the curves beside it")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.epilog = "Runs that differ by train.seed alone count as seeds of one setting."


def run(args: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Print the table, or JSON; write the page where one is asked for."""
    out = _page(args.out)
    comparison = compare_runs(args.runs)
    print(comparison.json() if args.json else comparison.table())
    if out is not None:
        picture = _write(comparison, out)
        if not args.json:
            print(translated(f"\nwritten: {out} and {picture}" if picture is not None else f"\nwritten: {out}"))
    return 0


def _page(given: str | None) -> Path | None:
    if given is None:
        return None
    path = Path(given)
    if path.suffix.lower() not in (".md", ".markdown"):
        raise ConfigError(f"--out {given} must name a Markdown file, such as {path.with_suffix('.md')}")
    return path


def _write(comparison: Comparison, page: Path) -> Path | None:
    """The page, with the picture in it where there are curves."""
    page.parent.mkdir(parents=True, exist_ok=True)
    text, picture = comparison.markdown(), None
    if any(one.steps for setting in comparison.settings for one in setting.runs):
        picture = comparison.draw(page.with_suffix(".png"))
        text += f"\n![The curves of the runs over each other](<{picture.name}>)\n"
    page.write_text(text, encoding="utf-8", errors="backslashreplace")
    return picture
