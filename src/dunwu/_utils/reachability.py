"""Whether a server can be reached, answered in seconds.

What it is: one connection with a deadline, through the proxy where one is set, and for `https` the first words of an
encrypted conversation: some networks take a connection and cut it there.
What it is not: a request, or a judgement of what the server answers; nothing of the user's is sent.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
import urllib.request
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

__all__ = ["reachable"]

_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks5": 1080, "socks5h": 1080}


def reachable(url: str, *, seconds: float = 2.0) -> bool:
    """Whether something answers at `url` (`https://host:port`), or the proxy that is set can reach it.

    Args:
        url: where; the port is the scheme's where none is given.
        seconds: for the name and the connection together, and as long again for the first encrypted words.
    """
    way = _way(urlsplit(url), seconds)
    answers: queue.Queue[bool] = queue.Queue()
    families = (socket.AF_INET, socket.AF_INET6)
    # Threads, because looking up a name has no time limit of its own; one a family, because one may lead nowhere.
    for family in families:
        threading.Thread(target=_knock, args=(family, way, answers), daemon=True).start()
    deadline = time.monotonic() + seconds * (2 if way.encrypted else 1) + 0.2
    for _ in families:
        try:
            if answers.get(timeout=max(0.0, deadline - time.monotonic())):
                return True
        except queue.Empty:
            return False
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """How to get to a server.

    Example: `_Way(host="example.org", port=443, encrypted=True, asks_for=None, seconds=2.0)`
    """

    host: str
    """Whom to connect to: the server, or the proxy."""
    port: int
    """Its port."""
    encrypted: bool
    """Whether it speaks TLS."""
    asks_for: str | None
    """HOST:PORT that an HTTP proxy is asked to connect to."""
    seconds: float
    """Patience."""


def _way(target: SplitResult, seconds: float) -> _Way:
    host, port = target.hostname or "", _port(target)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(target.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(target.netloc.rpartition("@")[2]):
        return _Way(host=host, port=port, encrypted=target.scheme == "https", asks_for=None, seconds=seconds)
    stop = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    # Only this combination uses CONNECT in plain text; another kind of proxy is trusted to find its way.
    asks_for = f"{host}:{port}" if (stop.scheme, target.scheme) == ("http", "https") else None
    encrypted = stop.scheme == "https"
    return _Way(host=stop.hostname or "", port=_port(stop), encrypted=encrypted, asks_for=asks_for, seconds=seconds)


def _port(parts: SplitResult) -> int:
    return parts.port or _PORTS.get(parts.scheme, 443)


def _knock(family: int, way: _Way, answers: queue.Queue[bool]) -> None:
    try:
        where = socket.getaddrinfo(way.host, way.port, family, socket.SOCK_STREAM)[0][4]
        with socket.socket(family, socket.SOCK_STREAM) as line:
            line.settimeout(way.seconds)
            line.connect(where)
            answers.put(_answers(line, way))
    except (OSError, UnicodeError):  # UnicodeError: a host name that cannot be one
        answers.put(False)


def _answers(line: socket.socket, way: _Way) -> bool:
    if way.asks_for is not None:
        return _leads_on(line, way.asks_for)
    return not way.encrypted or _greets(line, way.host)


def _leads_on(line: socket.socket, there: str) -> bool:
    """Whether a proxy makes the connection."""
    line.sendall(f"CONNECT {there} HTTP/1.1\r\nHost: {there}\r\n\r\n".encode("ascii", "ignore"))
    status = line.recv(64).split(b" ")
    # 407: it wants a password, which the client may have; 405, 501: it does not do this, and may do the rest.
    return len(status) > 1 and status[1] in (b"200", b"405", b"407", b"501")


def _greets(line: socket.socket, host: str) -> bool:
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
