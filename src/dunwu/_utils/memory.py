"""How much memory a device has left, asked before anything large is allocated."""

from __future__ import annotations

import psutil
import torch

__all__ = ["free_memory"]


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on a device now; on a GPU, what torch has reserved and not used included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return int(psutil.virtual_memory().available)
