"""What the benchmarks share: place, machine and commit, results files, fresh processes, small inputs.

Nothing but the standard library is imported at the top: sides run in environments without Dunwu.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from dunwu import Prompt, Recipe, Task

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

QUIET = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
"""Options of a trainer, ours or TRL's, that is timed: no checkpoints, no trackers, no progress bar."""


def commit() -> str:
    """The short hash of the working tree's commit; empty outside of git."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def machine() -> str:
    """Commit, processor, cores and Python, as a results file names them."""
    cores, python = os.cpu_count(), platform.python_version()
    return f"commit {commit()}, {platform.machine()}, {cores} cores, Python {python}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [_row(header), "|" + "---|" * len(header), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_results(name: str, lines: Iterable[str], figures: object = None) -> None:
    """Write `results/NAME.md`, and `results/NAME.json` where figures are given."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if figures is not None:
        (RESULTS / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def in_own_process(
    script: str, *arguments: object, python: str | Path = sys.executable, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a script in a fresh process; what it printed last, which must be JSON.

    Args:
        script: the script's path.
        arguments: of its command line.
        python: the interpreter.
        environment: variables beside this process's own.
    """
    command = [str(python), script, *map(str, arguments)]
    own = os.environ | (environment or {})
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def bare_prompt(index: int, ids: Sequence[int]) -> Prompt:
    """A prompt of which only the tokens matter."""
    from dunwu import Prompt

    return Prompt(row_index=index, row={}, original="", text="", ids=tuple(ids))


def left_padded(rows: Sequence[Sequence[int]], pad: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Ids and attention mask, (rows, longest), as `generate` wants them."""
    import torch

    width = max(map(len, rows))
    ids = [[pad] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def embedded_tokenizer() -> PreTrainedTokenizerBase:
    """The embedded model's tokenizer."""
    from dunwu import embedded_model_path, load_tokenizer

    return load_tokenizer(embedded_model_path())


def quickstart() -> tuple[Recipe, Task]:
    """The quickstart's recipe, and the task with its rewards."""
    from dunwu import load_recipe
    from dunwu.recipes.wiring import make_task

    recipe = load_recipe("quickstart")
    return recipe, make_task(recipe)
