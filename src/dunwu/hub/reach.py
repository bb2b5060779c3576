"""Whether a hub can be reached, asked once and answered in seconds.

What it is: a connection to the hub's host (or to the proxy on the way to it), and the switch to offline where there
is none, so that no client goes through retries that take minutes.
What it is not: a judgement of what the hub answers; a hub that answers with errors can be reached.
"""

from __future__ import annotations

import os
import queue
import socket
import ssl
import sys
import threading
import time
from functools import lru_cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from dunwu.hub.sources import MIRROR, has_modelscope, hf_endpoint

__all__ = ["go_offline", "is_offline", "offline_if_unreachable", "reachable"]

_SECONDS = 2.0
"""For the name and the connection together; and as long again for the first words of an encrypted one."""

_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks5": 1080, "socks5h": 1080}
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
    """Whether something answers at `url`, or at the proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names for it.

    At most four seconds; the answer is remembered for this process.
    """
    host, port, encrypted = _address(url)
    answers: queue.Queue[bool] = queue.Queue()
    families = (socket.AF_INET, socket.AF_INET6)
    # Threads, because looking up a name has no time limit of its own; one a family, because one may lead nowhere.
    for family in families:
        threading.Thread(target=_knock, args=(family, host, port, encrypted, answers), daemon=True).start()
    deadline = time.monotonic() + _SECONDS * (2 if encrypted else 1) + 0.2
    for _ in families:
        try:
            if answers.get(timeout=max(0.0, deadline - time.monotonic())):
                return True
        except queue.Empty:
            return False
    return False


def _address(url: str) -> tuple[str, int, bool]:
    """Host, port, and whether to expect encryption."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(parts.netloc.rpartition("@")[2]):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    encrypted = parts.scheme == "https"
    return parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 80), encrypted


def _knock(family: int, host: str, port: int, encrypted: bool, answers: queue.Queue[bool]) -> None:
    try:
        where = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4]
        with socket.socket(family, socket.SOCK_STREAM) as line:
            line.settimeout(_SECONDS)
            line.connect(where)
            answers.put(not encrypted or _greets(line, host))
    except (OSError, UnicodeError):  # UnicodeError: a host name that cannot be one
        answers.put(False)


def _greets(line: socket.socket, host: str) -> bool:
    """Whether an encrypted conversation starts: some networks take the connection and cut it at the first word."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent; whether the certificate is right is the client's question
    try:
        with context.wrap_socket(line, server_hostname=host):
            return True
    except ssl.SSLEOFError:
        return False
    except ssl.SSLError:
        return True


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
