"""Whether a server can be reached at once.

What it is: one TCP connection with a deadline, through the proxy where one is set.
What it is not: a request; nothing is sent to the server itself.
"""

from __future__ import annotations

import socket
import threading
import urllib.request
from urllib.parse import SplitResult, urlsplit

__all__ = ["reachable"]

_PORTS = {"http": 80, "https": 443}


def reachable(address: str, *, seconds: float = 2.0) -> bool:
    """Whether `address` (`https://host:port`) takes a connection within `seconds`.

    A proxy (`https_proxy`, `no_proxy` and their kin) is asked to make the connection where one is set.
    """
    answer: list[bool] = []
    # Looking a name up has no deadline of its own: a thread has, because nobody waits for it longer.
    attempt = threading.Thread(target=lambda: answer.append(_connects(address, seconds)), daemon=True)
    attempt.start()
    attempt.join(seconds)
    return bool(answer and answer[0])


def _connects(address: str, seconds: float) -> bool:
    target = urlsplit(address)
    host, port = target.hostname or "", target.port or _PORTS.get(target.scheme, 443)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(target.scheme) or proxies.get("all")
    try:
        if proxy and not urllib.request.proxy_bypass(host):
            return _through(urlsplit(proxy if "://" in proxy else f"http://{proxy}"), host, port, seconds)
        with socket.create_connection((host, port), timeout=seconds):
            return True
    except (OSError, ValueError):
        return False


def _through(proxy: SplitResult, host: str, port: int, seconds: float) -> bool:
    """Whether a proxy makes the connection; one that speaks no plain HTTP is trusted to."""
    where = (proxy.hostname or "", proxy.port or _PORTS.get(proxy.scheme, 1080))
    with socket.create_connection(where, timeout=seconds) as line:
        if proxy.scheme != "http":
            return True
        line.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode("ascii", "ignore"))
        status = line.recv(64).split(b" ")
    # 407: it wants a password, which the tracker may have.
    return len(status) > 1 and status[1] in (b"200", b"407")
