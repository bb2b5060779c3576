"""How many processes share a run, and whether these are as many as its launcher was asked for."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from dunwu.config import GRPOConfig
from dunwu.rollout.prompts import PromptOrder

__all__ = ["missing_processes", "shared_work"]

_NUMBER_OPTIONS = ("--num_processes", "--num-processes")


def shared_work(args: GRPOConfig, order: PromptOrder) -> list[str]:
    """A sentence on what each of several processes does; nothing for one."""
    size = args.world_size
    if size == 1:
        return []
    shares = sorted({len(range(rank, n, size)) for n in order.prompts_a_step for rank in range(size)})
    prompts = " or ".join(str(n) for n in dict.fromkeys(order.prompts_a_step))
    each = " or ".join(str(share) for share in shares)
    return [
        f"{size} processes on {args.device.type}: each samples and trains on {each} of a step's {prompts} prompts, "
        "and their gradients are added up; the first one logs and saves"
    ]


def missing_processes(size: int) -> str | None:
    """What to say where the launcher was asked for more processes than share this run; None where it was not.

    `accelerate launch --num_processes 2` starts one process unless it is told `--multi_gpu` or finds several GPUs,
    and reports success.

    Args:
        size: processes that share this run.
    """
    started = int(os.environ.get("WORLD_SIZE", "0"))
    if started > size:
        return (
            f"{started} processes were started, and this run has {size} of them: each trains alone, into the same "
            f"folder. Start them by\n  {_torchrun(started)}"
        )
    if started or not _is_simple_launch():
        return None
    asked = _asked_of_accelerate(_parents_command())
    if asked == 1:
        return None
    number = str(asked) if asked else "several"
    return (
        f"accelerate launch was asked for {number} processes and has started one (it starts more on several GPUs, or "
        f"with --multi_gpu). This run goes on alone; for {number}, start it by\n  {_torchrun(asked or 2)}"
    )


def _torchrun(processes: int) -> str:
    """The command that starts this very program in so many processes."""
    beside = Path(sys.executable).with_name("torchrun")
    is_on_path = shutil.which("torchrun") == str(beside)
    program = "torchrun" if is_on_path else f"{shlex.quote(sys.executable)} -m torch.distributed.run"
    return f"{program} --nproc_per_node {processes} {shlex.join(sys.orig_argv[1:])}"


def _is_simple_launch() -> bool:
    """Whether accelerate started this process by itself: it then names an address only if more were asked for."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ


def _parents_command() -> list[str]:
    import psutil

    try:
        parent = psutil.Process().parent()
        return list(parent.cmdline()) if parent is not None else []
    except psutil.Error:
        return []


def _asked_of_accelerate(command: Sequence[str]) -> int | None:
    """The number of processes in a command line; None where it names none."""
    words = [word for whole in command for word in whole.split("=", 1)]
    for option, value in pairwise(words):
        if option in _NUMBER_OPTIONS and value.isdecimal():
            return int(value)
    return None
