"""Whether a server answers, found out within seconds.

One HEAD request without the user's keys, through the proxy where one is set. It goes by urllib rather than by
huggingface_hub's session, which refuses every request while it is offline and reads HF_ENDPOINT once it is imported:
trackers ask here too.
"""

from __future__ import annotations

import http.client
import queue
import ssl
import threading
import urllib.request
from typing import Literal, TypeAlias
from urllib.error import URLError
from urllib.parse import urlsplit

__all__ = ["ServerState", "reachable", "server_state"]

ServerState: TypeAlias = Literal["answers", "silent", "unreachable"]
"""`silent`: it takes the connection and does not answer in time."""


def reachable(url: str, *, seconds: float = 2.0) -> bool:
    """Whether a connection to `url` (`https://host:port`) can be made, directly or by the proxy that is set."""
    return server_state(url, seconds=seconds) != "unreachable"


def server_state(url: str, *, seconds: float = 2.0) -> ServerState:
    """What a server does with a HEAD request; an answer of any status will do.

    Args:
        url: where; user names and passwords in it are not sent.
        seconds: for each of connection, encryption and answer; half as long again for all of them together.
    """
    states: queue.SimpleQueue[ServerState] = queue.SimpleQueue()
    # A thread, because looking up a name has no time limit of its own.
    threading.Thread(target=lambda: states.put(_ask(url, seconds)), daemon=True).start()
    try:
        return states.get(timeout=1.5 * seconds)
    except queue.Empty:
        return "unreachable"


def _ask(url: str, seconds: float) -> ServerState:
    try:
        address, proxies = _route(url)
        _opener(proxies).open(urllib.request.Request(address, method="HEAD"), timeout=seconds).close()
    except URLError as error:
        return "answers" if _is_certificate_trouble(error.reason) else "unreachable"
    except TimeoutError:  # urllib wraps what happens before the request is sent
        return "silent"
    except http.client.HTTPException:  # something answers, if not in HTTP
        return "answers"
    except (OSError, ValueError):  # ValueError: a host name or port that cannot be one
        return "unreachable"
    return "answers"


def _route(url: str) -> tuple[str, dict[str, str]]:
    """Whom to ask, and by which proxies."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return _root(url), {}
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(proxy).scheme == "http":
        return _root(url), {parts.scheme: proxy}
    # urllib cannot go through SOCKS or an encrypted proxy: whether the proxy itself answers must do.
    return _root(proxy.replace("socks5h:", "http:").replace("socks5:", "http:").replace("socks4:", "http:")), {}


def _root(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"


def _opener(proxies: dict[str, str]) -> urllib.request.OpenerDirector:
    """An opener that follows no redirects and takes every status for an answer."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # no secret is sent; judging the certificate is the client's affair
    opener = urllib.request.OpenerDirector()
    opener.add_handler(urllib.request.ProxyHandler(proxies))
    opener.add_handler(urllib.request.HTTPHandler())
    opener.add_handler(urllib.request.HTTPSHandler(context=context))
    opener.add_handler(urllib.request.UnknownHandler())
    return opener


def _is_certificate_trouble(reason: object) -> bool:
    """Whether encryption failed otherwise than by being cut off, as some networks do."""
    return isinstance(reason, ssl.SSLError) and not isinstance(reason, ssl.SSLEOFError)
