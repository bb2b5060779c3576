"""What a checkpoint contains beyond weights, optimizer and random states, and how a folder comes to be complete.

transformers writes the weights, the optimizer, the schedule and the random states.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from dunwu._utils.distributed import ParallelContext
from dunwu._utils.logging import get_logger
from dunwu.core.metrics import rollout_row
from dunwu.core.records import Completion, Group, MicroBatch, PendingRollouts, Prompt, Rollout
from dunwu.errors import CheckpointError, NonFiniteError

__all__ = [
    "SavedRun",
    "dump_nonfinite_step",
    "last_complete_checkpoint",
    "load_run",
    "nonfinite_step_error",
    "remove_if_write_fails",
    "save_run",
    "steps_done",
    "weights_fingerprint",
]

_FORMAT = 2
_OLD_FIELDS = {"logps": "sampler_logps", "finish": "finish_reason"}
"""Names of the format before: field of a completion, then and now."""


State: TypeAlias = dict[str, Any]
"""What `torch.save` writes: tensors, numbers, text, and lists and dicts of them."""


@dataclass(kw_only=True)
class SavedRun:
    """What `save_run` writes for one rank, and `load_run` reads.

    Example: `SavedRun(pending=PendingRollouts(groups=[g1, g2], batches=[m1], denominator=10.0, updates_left=1),
    run_id="0f3c9a5e", weights="7be1d204", extra={"tokens_per_micro_batch": 4096})`
    """

    pending: PendingRollouts | None
    """Rollouts with updates left."""
    run_id: str = ""
    """Which run wrote it; the same in all of a checkpoint's files."""
    weights: str = ""
    """`weights_fingerprint` of the policy at that moment; empty in files of before."""
    extra: State = field(default_factory=dict)
    """Tensors, numbers, text, lists and dicts of them."""


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
            get_logger().warning(f"{path} is incomplete; looking for an earlier checkpoint")
    return None


def steps_done(checkpoint: Path) -> int:
    """Optimizer steps finished at a checkpoint; 0 where that cannot be read."""
    try:
        return int(json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["global_step"])
    except (OSError, ValueError, KeyError):
        return 0


def save_run(folder: str | Path, saved: SavedRun, parallel: ParallelContext) -> None:
    """Write what one rank keeps beside transformers' files."""
    state: State = {
        "format": _FORMAT,
        "ranks": parallel.size,
        "run_id": saved.run_id,
        "weights": saved.weights,
        "extra": saved.extra,
    }
    pending = saved.pending
    if pending is not None and pending.updates_left:
        state["pending"] = {
            "groups": [_group_state(group) for group in pending.groups],
            "batches": [dataclasses.asdict(batch) for batch in pending.batches],
            "denominator": pending.denominator,
            "updates_left": pending.updates_left,
            "metrics": pending.metrics,
            "policy_version": pending.policy_version,
        }
    Path(folder).mkdir(parents=True, exist_ok=True)  # another rank makes it too, perhaps later
    torch.save(state, _file(folder, parallel.rank))


def load_run(
    folder: str | Path, parallel: ParallelContext, prompts: Sequence[Prompt], *, temperature: float, weights: str
) -> SavedRun:
    """What `save_run` wrote for this rank; nothing pending where there is no such file.

    A checkpoint of another number of processes is dealt out anew: every pending rollout is trained on once.

    Args:
        folder: the checkpoint.
        parallel: this rank.
        prompts: the training prompts, in which pending ones are found again.
        temperature: of the run, for files that lack it.
        weights: `weights_fingerprint` of the policy as it was loaded.

    Raises:
        CheckpointError: when the pending rollouts are another run's or were sampled by other weights, or the dataset
            no longer has a prompt that is pending.
    """
    first = _read(_file(folder, 0))
    if first is None:
        return SavedRun(pending=None)
    states = [first, *(_read(_file(folder, rank)) for rank in range(1, first.get("ranks", parallel.size)))]
    own = states[parallel.rank] if len(states) == parallel.size else first
    _check_one_run(folder, states, own, weights)
    by_index = {prompt.row_index: prompt for prompt in prompts}
    found = [_pending(state["pending"], by_index, temperature) for state in states if state and "pending" in state]
    pending = None
    if found:
        same = len(states) == parallel.size and len(found) == len(states)
        pending = found[parallel.rank] if same else _dealt_out(found, parallel)
    return SavedRun(
        pending=pending,
        run_id=str(first.get("run_id", "")),
        weights=str(first.get("weights", "")),
        # What is the same on all ranks, such as a moved reference, is in the first file only.
        extra={**first["extra"], **{k: v for k, v in (own or first)["extra"].items() if v is not None}},
    )


@torch.no_grad()
def weights_fingerprint(model: nn.Module) -> str:
    """A hash of some 64 numbers of every trainable parameter: other weights have another one."""
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = parameter.to_local() if isinstance(parameter, DTensor) else parameter  # a rank's shard
            flat = own.detach().flatten()
            some = flat[:: max(1, flat.numel() // 64)].float().cpu()
            digest.update(name.removeprefix("module.").encode() + some.numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def remove_if_write_fails(folder: Path, needed_bytes: int) -> Iterator[None]:
    """Write a folder to its end or leave nothing of it behind.

    Raises:
        CheckpointError: when the disk has less free space than is needed, before anything is written; or when a write
            fails.
    """
    existing = next(parent for parent in [folder, *folder.resolve().parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise CheckpointError(
            f"not enough disk space for {folder}: it needs about {_size(needed_bytes)}, and the disk has "
            f"{_size(free)} free; delete old checkpoints, lower save_total_limit, or set output_dir to another disk"
        )
    before = folder.exists()
    try:
        yield
    except BaseException as error:  # Ctrl-C too
        if not before:
            shutil.rmtree(folder, ignore_errors=True)
        if _is_write_error(error):
            raise CheckpointError(
                f"writing {folder} failed ({error}); nothing half-written was left. Free some disk space or set "
                "output_dir elsewhere; the last complete checkpoint is still there"
            ) from error
        raise


def nonfinite_step_error(
    folder: Path, step: int, pending: PendingRollouts, loss: float, norm: float
) -> NonFiniteError:
    """The error of a step that is not taken; its rollouts and micro-batches are saved in `folder`."""
    where = dump_nonfinite_step(folder, step, pending)
    return NonFiniteError(
        f"step {step} was not taken: its loss is {loss:g} and its gradient norm {norm:g}. The weights are those of "
        f"step {step - 1}; the rollouts and batches are in {where}. Lower learning_rate, or look there for a "
        "log-probability that is not a number"
    )


def dump_nonfinite_step(folder: Path, step: int, pending: PendingRollouts) -> Path:
    """Write rollouts and micro-batches of a refused step to `folder/nonfinite-step-N/`; returns that folder."""
    target = folder / f"nonfinite-step-{step}"
    target.mkdir(parents=True, exist_ok=True)
    with (target / "rollouts.jsonl").open("w", encoding="utf-8") as out:
        for group in pending.groups:
            for sample, rollout in enumerate(group.rollouts):
                row = rollout_row(step, group, sample) | {"sampler_logps": rollout.completion.sampler_logps}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
    torch.save([dataclasses.asdict(batch) for batch in pending.batches], target / "batches.pt")
    return target


def _file(folder: str | Path, rank: int) -> Path:
    return Path(folder) / ("pending.pt" if rank == 0 else f"pending_{rank}.pt")


def _read(path: Path) -> State | None:
    # To the CPU: another rank's device, or none at all, may be here.
    state: State | None = torch.load(path, weights_only=True, map_location="cpu") if path.exists() else None
    return state


def _check_one_run(folder: str | Path, states: Sequence[State | None], own: State | None, weights: str) -> None:
    if any(state is None for state in states):
        raise CheckpointError(
            f"{folder} was written by {len(states)} processes, and the file of one of them is missing; resume from "
            "an earlier checkpoint"
        )
    if len({state.get("run_id", "") for state in states if state}) > 1:
        raise CheckpointError(f"{folder} mixes the files of two runs; resume from an earlier checkpoint")
    if own and own.get("pending") and own.get("weights", "") not in ("", weights):
        raise CheckpointError(
            f"the pending rollouts in {folder} were sampled with other weights than the ones beside them: a kill has "
            "mixed two runs in this folder. Resume from an earlier checkpoint, or delete its pending*.pt to sample "
            "the step anew"
        )


def _group_state(group: Group) -> State:
    # The prompt is found again by its row: the row may contain anything, and the dataset has it anyway.
    return {"row": group.prompt.row_index, "rollouts": [dataclasses.asdict(rollout) for rollout in group.rollouts]}


def _pending(saved: State, prompts: Mapping[int, Prompt], temperature: float) -> PendingRollouts:
    return PendingRollouts(
        groups=[_group(group, prompts) for group in saved["groups"]],
        batches=[MicroBatch(**{"temperature": temperature, **batch}) for batch in saved["batches"]],
        denominator=saved["denominator"],
        updates_left=saved["updates_left"],
        metrics=saved["metrics"],
        policy_version=saved.get("policy_version", 0),
    )


def _group(state: State, prompts: Mapping[int, Prompt]) -> Group:
    row = state["row"] if "row" in state else state["key"]
    if row not in prompts:
        raise CheckpointError(
            f"the checkpoint has rollouts of row {row} pending, and the dataset no longer has that row; "
            "resume with the dataset the run was started with"
        )
    return Group(prompt=prompts[row], rollouts=tuple(_rollout(rollout) for rollout in state["rollouts"]))


def _rollout(state: State) -> Rollout:
    completion = {_OLD_FIELDS.get(name, name): value for name, value in state["completion"].items()}
    return Rollout(**{**state, "completion": Completion(**completion)})


def _dealt_out(found: Sequence[PendingRollouts], parallel: ParallelContext) -> PendingRollouts:
    """The pending rollouts of a checkpoint of another number of processes: this rank's micro-batches."""
    get_logger().info(
        f"the checkpoint is of {len(found)} processes, and there are {parallel.size} now: its pending rollouts are "
        "redistributed"
    )
    batches = [batch for part in found for batch in part.batches]
    own = list(parallel.share(batches))
    if not own:  # every rank has a forward and a backward to take part in: one row, without weight
        row = batches[0].select_rows([0])
        own = [dataclasses.replace(row, weights_BC=torch.zeros_like(row.weights_BC))]
    groups = [group for part in found for group in part.groups]
    return dataclasses.replace(found[0], groups=list(parallel.share(groups)), batches=own)


def _is_write_error(error: BaseException) -> bool:
    # safetensors and torch wrap a full disk in their own errors; only the text still tells what it was.
    signs = (
        "No space left",
        "file write failed",
        "inline_container",
        "iostream error",
        "Disk quota",
        "File too large",
    )
    return isinstance(error, OSError) or (isinstance(error, Exception) and any(sign in str(error) for sign in signs))


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
