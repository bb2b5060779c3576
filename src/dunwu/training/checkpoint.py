"""What a checkpoint holds beyond weights and optimizer, and how a folder comes to be whole or not at all.

What it is: rollouts not yet used, written and read back; room on the disk, asked before; the batch of a step that
went wrong, kept for a look.
What it is not: the weights, the optimizer, the random states: transformers writes those.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dunwu._utils.logging import get_logger
from dunwu.core.records import Completion, Group, MicroBatch, PendingRollouts, Prompt, Rollout
from dunwu.errors import NonFiniteError

__all__ = [
    "dump_nonfinite_step",
    "last_complete_checkpoint",
    "load_pending",
    "nonfinite_step_error",
    "remove_if_write_fails",
    "save_pending",
]

_FILE = "pending.pt"


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest `checkpoint-N` that was written to its end, None where there is none.

    `trainer_state.json` is the last file that transformers writes: where it cannot be read, the writing was cut off.
    """
    found = [(int(p.name.rpartition("-")[2]), p) for p in folder.glob("checkpoint-*") if p.name[11:].isdigit()]
    for _, path in sorted(found, reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            return path
        except (OSError, ValueError):
            get_logger().warning(f"{path} was not written to its end; looking for an earlier one")
    return None


def save_pending(folder: str | Path, rank: int, pending: PendingRollouts | None, extra: Mapping[str, Any]) -> None:
    """Write what one rank has pending, and `extra`: tensors, numbers, text, lists and dicts of them."""
    state: dict[str, Any] = {"extra": dict(extra)}
    if pending is not None and pending.updates_left:
        state["pending"] = {
            "groups": [_group_state(group) for group in pending.groups],
            "batches": [dataclasses.asdict(batch) for batch in pending.batches],
            "denominator": pending.denominator,
            "updates_left": pending.updates_left,
            "metrics": pending.metrics,
        }
    Path(folder).mkdir(parents=True, exist_ok=True)  # another rank makes it too, perhaps later
    torch.save(state, _file(folder, rank))


def load_pending(
    folder: str | Path, rank: int, prompts: Sequence[Prompt]
) -> tuple[PendingRollouts | None, dict[str, Any]]:
    """What `save_pending` wrote: pending rollouts (None where there were none), and the extra (empty without a file).

    Raises:
        ValueError: when the dataset no longer holds a prompt that is pending.
    """
    path = _file(folder, rank)
    if not path.exists():
        return None, {}
    state = torch.load(path, weights_only=True)
    saved = state.get("pending")
    if saved is None:
        return None, state["extra"]
    by_key = {prompt.row_index: prompt for prompt in prompts}
    pending = PendingRollouts(
        groups=[_group(group, by_key) for group in saved["groups"]],
        batches=[MicroBatch(**batch) for batch in saved["batches"]],
        denominator=saved["denominator"],
        updates_left=saved["updates_left"],
        metrics=saved["metrics"],
    )
    return pending, state["extra"]


@contextlib.contextmanager
def remove_if_write_fails(folder: Path, needed_bytes: int) -> Iterator[None]:
    """Write a folder whole or leave nothing of it behind.

    Raises:
        ValueError: when the disk has less room than is needed, before anything is written; or when a write fails.
    """
    existing = next(parent for parent in [folder, *folder.resolve().parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise ValueError(
            f"no room for {folder}: it needs about {_size(needed_bytes)}, and the disk has {_size(free)} free; "
            "delete old checkpoints, lower save_total_limit, or set output_dir to another disk"
        )
    before = folder.exists()
    try:
        yield
    except Exception as error:
        if not before:
            shutil.rmtree(folder, ignore_errors=True)
        if _is_write_error(error):
            raise ValueError(
                f"writing {folder} failed ({error}); nothing half-written was left. Free some disk space or set "
                "output_dir elsewhere; the last whole checkpoint is still there"
            ) from error
        raise


def nonfinite_step_error(
    folder: Path, step: int, pending: PendingRollouts, loss: float, norm: float
) -> NonFiniteError:
    """The error of a step that is not taken; its rollouts and batches are kept in `folder`."""
    where = dump_nonfinite_step(folder, step, pending)
    return NonFiniteError(
        f"step {step} was not taken: its loss is {loss:g} and its gradient norm {norm:g}. The weights are those of "
        f"step {step - 1}; the rollouts and batches are in {where}. Lower learning_rate, or look there for a "
        "log-probability that is not a number"
    )


def dump_nonfinite_step(folder: Path, step: int, pending: PendingRollouts) -> Path:
    """Write rollouts and batches of a refused step to `folder/nonfinite-step-N/`; returns that folder."""
    target = folder / f"nonfinite-step-{step}"
    target.mkdir(parents=True, exist_ok=True)
    with (target / "rollouts.jsonl").open("w", encoding="utf-8") as out:
        for group in pending.groups:
            for rollout in group.rollouts:
                line = {
                    "prompt": group.prompt.text,
                    "completion": rollout.completion.text,
                    "reward": rollout.reward,
                    "advantage": rollout.advantage,
                    "scores": dict(rollout.scores),
                    "logps": rollout.completion.sampler_logps,
                }
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
    torch.save([dataclasses.asdict(batch) for batch in pending.batches], target / "batches.pt")
    return target


def _file(folder: str | Path, rank: int) -> Path:
    return Path(folder) / (_FILE if rank == 0 else f"pending_{rank}.pt")


def _group_state(group: Group) -> dict[str, Any]:
    # The prompt is found again by its key: its row may hold anything, and the dataset has it anyway.
    return {"key": group.prompt.row_index, "rollouts": [dataclasses.asdict(rollout) for rollout in group.rollouts]}


def _group(state: Mapping[str, Any], prompts: Mapping[int, Prompt]) -> Group:
    if state["key"] not in prompts:
        raise ValueError(
            f"the checkpoint has rollouts of row {state['key']} pending, and the dataset no longer has that row; "
            "resume with the dataset the run was started with"
        )
    rollouts = [Rollout(**{**r, "completion": Completion(**r["completion"])}) for r in state["rollouts"]]
    return Group(prompt=prompts[state["key"]], rollouts=tuple(rollouts))


def _is_write_error(error: Exception) -> bool:
    # safetensors and torch wrap a full disk in their own errors; only the text still says what it was.
    signs = ("No space left", "file write failed", "inline_container", "iostream error")
    return isinstance(error, OSError) or any(sign in str(error) for sign in signs)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
