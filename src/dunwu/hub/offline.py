"""Offline mode: whether a hub can be reached, asked once, and the switch for every client where it cannot.

Without the switch a client goes through retries that take minutes. A hub that answers with errors can be reached.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache

from dunwu._utils import reachability
from dunwu._utils.commands import install_command
from dunwu._utils.reachability import ServerState
from dunwu.hub.sources import MIRROR, check_endpoint, has_modelscope, hf_endpoint

__all__ = ["go_offline", "hub_state", "is_offline", "offline_if_unreachable", "reachable"]

_TRUE = {"1", "ON", "YES", "TRUE"}
_SECONDS = 3.0
"""For a hub's connection, and for its answer; offline is noticed in half as long again."""
_notice: list[str] = []


def offline_if_unreachable() -> str | None:
    """Switch to offline in this process if the Hugging Face hub cannot be reached.

    The answer is remembered. The switch reaches child processes by the environment, and huggingface_hub, transformers
    and datasets whether they are imported already or later.

    Returns:
        A sentence for the user; None where the hub can be reached, or where HF_HUB_OFFLINE was set by the user.

    Raises:
        HubError: where HF_ENDPOINT is no web address.
    """
    if _notice:
        return _notice[0]
    if is_offline():
        _switch_clients_off()  # one of them may have read the environment before it was set
        return None
    check_endpoint()
    return None if reachable(hf_endpoint()) else go_offline("cannot be reached from here")


def go_offline(why: str) -> str:
    """Switch every client to offline; returns the sentence for the user, which `offline_if_unreachable` repeats."""
    _switch_clients_off()
    other = "--source modelscope" if has_modelscope() else f"{install_command('modelscope')} and --source modelscope"
    _notice.append(
        f"{hf_endpoint()} {why}, so this process is offline: only what is in the cache is used. "
        f"A mirror: HF_ENDPOINT={MIRROR}; ModelScope: {other}"
    )
    return _notice[-1]


def is_offline() -> bool:
    """Whether the clients of this process stay offline."""
    constants = sys.modules.get("huggingface_hub.constants")
    asked = any(os.environ.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return asked or bool(getattr(constants, "HF_HUB_OFFLINE", False))


@lru_cache(maxsize=16)
def hub_state(url: str) -> ServerState:
    """What the server at `url` does with a request; the answer is remembered for this process."""
    return reachability.server_state(url, seconds=_SECONDS)


def reachable(url: str) -> bool:
    """Whether a connection to `url` can be made; the answer is remembered for this process."""
    return hub_state(url) != "unreachable"


def _switch_clients_off() -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ[name] = "1"
    switches = {
        "huggingface_hub.constants": ("HF_HUB_OFFLINE",),
        "datasets.config": ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"),
    }
    for module, names in switches.items():
        for name in names:
            if hasattr(sys.modules.get(module), name):
                setattr(sys.modules[module], name, True)
