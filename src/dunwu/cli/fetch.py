"""`dunwu fetch NAME --to DIR`: a model or dataset into a folder, checked."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dunwu._utils.commands import dunwu_command

if TYPE_CHECKING:
    from dunwu.hub import FetchReport

from dunwu._utils.language import translated

__all__ = ["add_arguments", "run"]

_TASKS = {"gsm8k": "gsm8k", "countdown": "countdown_3b", "tldr": "tldr"}
"""Parts of a dataset's name, and the recipe that such data is for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    from dunwu.hub import SOURCES

    parser.add_argument("name", metavar="NAME", help="a model or dataset, such as Qwen/Qwen2.5-0.5B-Instruct")
    parser.add_argument("--to", required=True, metavar="DIR", help="the folder to download to")
    parser.add_argument(
        "--source",
        default="auto",
        choices=[source for source in SOURCES if source != "local"],
        help="auto: the Hugging Face hub (or the mirror in HF_ENDPOINT), else ModelScope (default: %(default)s)",
    )
    parser.add_argument("--revision", metavar="R", help="a branch, tag or commit (default: the newest)")
    parser.add_argument("--kind", choices=("model", "dataset"), help="where both exist under this name")
    parser.epilog = (
        "Stopped half-way? The same command goes on where it stopped. Keys: HF_TOKEN, MODELSCOPE_API_TOKEN."
    )


def run(args: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Download, check, and print what to do with it."""
    from dunwu.hub import fetch

    report = fetch(args.name, args.to, kind=args.kind, source=args.source, revision=args.revision)
    print(translated(_told(report)))
    return 0


def _told(report: FetchReport) -> str:
    where = {"hf": "the Hugging Face hub", "modelscope": "ModelScope"}[report.source]
    there = f", {report.reused} of them there already" if report.reused else ""
    lines = [
        f"{report.kind} {report.name} from {where}, {report.commit[:12]}: {report.files} files{there}, "
        f"{_amount(report.bytes)}, every hash right, {report.seconds:.0f} s → {report.folder}"
    ]
    if report.skipped:
        named = ", ".join(report.skipped[:3]) + (" …" if len(report.skipped) > 3 else "")
        lines.append(f"left out, because model.safetensors has the same weights: {named}")
    lines.append(f"next: {_next(report)}")
    return "\n".join(lines)


def _next(report: FetchReport) -> str:
    if report.kind == "model":
        train = dunwu_command("train", "gsm8k", "--model", report.folder)
        return f"{train}   (or: {dunwu_command('chat', report.folder)})"
    recipe = next((recipe for part, recipe in _TASKS.items() if part in report.name.lower()), None)
    if recipe is None:
        return f"task: {{name: own, source: {report.folder}}} in a recipe"
    return dunwu_command("train", recipe, "--task.source", report.folder)


def _amount(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"
