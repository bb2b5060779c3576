"""Whether a hub can be reached, asked once and answered in seconds.

What it is: a connection to the hub's host (or to the proxy on the way to it), and the switch to offline where there
is none, so that no client goes through retries that take minutes.
What it is not: a judgement of what the hub answers; a hub that answers with errors can be reached.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache

from dunwu._utils import reachability
from dunwu.hub.sources import MIRROR, has_modelscope, hf_endpoint

__all__ = ["go_offline", "is_offline", "offline_if_unreachable", "reachable"]

_TRUE = {"1", "ON", "YES", "TRUE"}
_said: list[str] = []


def offline_if_unreachable() -> str | None:
    """Switch to offline in this process if the Hugging Face hub cannot be reached.

    The answer is remembered. The switch reaches child processes by the environment, and huggingface_hub, transformers
    and datasets whether they are imported already or later.

    Returns:
        A sentence for the user; None where the hub can be reached, or where HF_HUB_OFFLINE was set by the user.
    """
    if _said:
        return _said[0]
    if is_offline():
        _go_offline()  # one client may have read the environment before it said so
        return None
    if reachable(hf_endpoint()):
        return None
    return go_offline("cannot be reached from here")


def go_offline(why: str) -> str:
    """Switch every client to offline; returns the sentence for the user, which `offline_if_unreachable` keeps."""
    _go_offline()
    other = "--source modelscope" if has_modelscope() else "pip install 'dunwu[modelscope]' and --source modelscope"
    _said.append(
        f"{hf_endpoint()} {why}, so this process is offline: only what is in the cache is used. "
        f"A mirror: HF_ENDPOINT={MIRROR}; ModelScope: {other}"
    )
    return _said[-1]


def is_offline() -> bool:
    """Whether the clients of this process are told to stay offline."""
    constants = sys.modules.get("huggingface_hub.constants")
    told = any(os.environ.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return told or bool(getattr(constants, "HF_HUB_OFFLINE", False))


@lru_cache(maxsize=16)
def reachable(url: str) -> bool:
    """Whether something answers at `url`; the answer is remembered for this process."""
    return reachability.reachable(url)


def _go_offline() -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ[name] = "1"
    switches = {
        "huggingface_hub.constants": ("HF_HUB_OFFLINE",),
        "datasets.config": ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"),
        "transformers.utils.hub": ("_is_offline_mode",),  # before version 5
    }
    for module, names in switches.items():
        for name in names:
            if hasattr(sys.modules.get(module), name):
                setattr(sys.modules[module], name, True)
