"""The two trackers that send data away, wandb and SwanLab: their servers, their keys, and how they are put offline.

What it is: looking where each tracker itself looks for a key, one connection attempt, one environment variable.
What it is not: a client. No key is ever returned, printed or stored here: only whether there is one.
"""

from __future__ import annotations

import netrc
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dunwu._utils.logging import get_logger
from dunwu._utils.reachability import reachable

__all__ = ["SERVICES", "Service", "say", "swanlab_run"]

_OURS: set[str] = set()
"""Mode variables that we have set: whatever stands in another is the user's choice, and wins."""
_SAID: set[str] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A tracker with a server.

    Example: `SERVICES["wandb"].settle()` puts wandb offline where it has no key or its server does not answer.
    """

    name: str
    """As in `report_to`, and the package."""
    mode: str
    """Environment variable that holds the mode."""
    key: str
    """Environment variable that holds the key."""
    upload: str
    """The command that uploads what was kept."""
    address: Callable[[], str]
    """The server's address, as configured."""
    has_key: Callable[[], bool]
    """Whether a key is configured, or this process has logged in."""
    is_running: Callable[[], bool]
    """Whether a run is open: then everything is decided already."""
    tell: Callable[[str | None], bool]
    """Tell a package that has read its environment already (None takes it back); whether there was one to tell."""

    def user_chose(self) -> bool:
        """Whether the user has set the mode: then it is left as it is."""
        return bool(os.environ.get(self.mode)) and self.mode not in _OURS

    def settle(self, *, key_given: bool = False) -> bool:
        """Whether it can send its data; where it cannot, it is put offline and that is said once.

        `key_given`: the caller has a key in hand.
        """
        if self.user_chose():
            return os.environ[self.mode] not in ("offline", "disabled", "local", "dryrun")
        if self.is_running():
            return True
        reason = self._obstacle(key_given)
        if reason is not None:
            self.put_offline(reason)
            return False
        self._take_back()
        return True

    def put_offline(self, reason: str) -> None:
        """Keep the data here, and say why and how to upload it later."""
        if not self.tell("offline"):
            os.environ[self.mode] = "offline"
        if self.mode not in _OURS:
            say(f"{self.name}: {reason}; this run is kept offline. Upload it later with: {self.upload}")
        _OURS.add(self.mode)

    def _obstacle(self, key_given: bool) -> str | None:
        if not key_given and not self.has_key():
            return f"no key was found (set {self.key}, or log in once with `{self.name} login`)"
        address = self.address()
        if not reachable(address):
            return f"its server {urlsplit(address).netloc} does not answer"
        return None

    def _take_back(self) -> None:
        if self.mode in _OURS:
            os.environ.pop(self.mode, None)
            _OURS.discard(self.mode)
            self.tell(None)


def say(sentence: str, *, warning: bool = True) -> None:
    """A sentence, once a process, and by the first of several processes only."""
    if sentence not in _SAID and os.environ.get("RANK", "0") == "0":
        (get_logger().warning if warning else get_logger().info)(sentence)
    _SAID.add(sentence)


# -- wandb -----------------------------------------------------------------------------------------------------------


def _wandb_address() -> str:
    if found := os.environ.get("WANDB_BASE_URL") or _setting(_wandb_settings(), "base_url"):
        return found
    try:
        from wandb.sdk.lib.urls import DEFAULT_BASE_URL
    except ImportError:
        return "https://api.wandb.ai"
    return str(DEFAULT_BASE_URL)


def _wandb_settings() -> list[Path]:
    folder = os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb"
    return [Path(os.environ.get("WANDB_DIR") or ".") / "wandb" / "settings", Path(folder) / "settings"]


def _wandb_has_key() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    given = os.environ.get("NETRC")
    files = [Path(given).expanduser()] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]
    # The hosted service goes by several names; a key for one of them serves for all.
    machines = {urlsplit(_wandb_address()).netloc, "api.wandb.ai"}
    return bool(_setting(_wandb_settings(), "api_key")) or _in_netrc(files, machines) or _wandb_session()


def _wandb_session() -> bool:
    """Whether this process has logged in: `wandb.login(key=…)` need not leave a file."""
    if "wandb" not in sys.modules:
        return False
    try:
        from wandb.sdk.lib import wbauth

        return wbauth.session_credentials(host=_wandb_address()) is not None
    except (ImportError, AttributeError):  # an older wandb, which keeps its keys in files
        return False


def _wandb_is_running() -> bool:
    return getattr(sys.modules.get("wandb"), "run", None) is not None


def _wandb_tell(mode: str | None) -> bool:
    """wandb reads its environment once, and complains of later changes: what it has read is changed where it has."""
    setup = sys.modules.get("wandb.sdk.wandb_setup")
    singleton = getattr(setup, "_singleton", None)
    if singleton is None or not hasattr(singleton, "settings"):
        return False
    singleton.settings.mode = mode or "online"
    return True


# -- SwanLab ---------------------------------------------------------------------------------------------------------


def _swanlab_homes() -> list[Path]:
    own = os.environ.get("SWANLAB_ROOT") or os.environ.get("SWANLAB_SAVE_DIR")
    return [Path(".swanlab"), Path(own) if own else Path.home() / ".swanlab"]


def _swanlab_files() -> list[Path]:
    """Every settings file SwanLab reads, nearest first."""
    shared = Path(os.environ.get("SWANLAB_CONFIG_DIR") or "/etc/swanlab")
    named = [Path("swanlab.yaml"), Path("swanlab.yml"), *sorted(shared.glob("*.y*ml")), Path(".env")]
    return [*named, *(home / f"config.{ending}" for home in _swanlab_homes() for ending in ("yaml", "yml"))]


def _swanlab_address() -> str:
    if found := os.environ.get("SWANLAB_API_HOST") or _setting(_swanlab_files(), "api_host"):
        return found if "://" in found else f"https://{found}"
    for home in _swanlab_homes():
        for machine in _hosts(home / ".netrc"):
            return machine if "://" in machine else f"https://{machine}"
    return "https://api.swanlab.cn"


def _swanlab_has_key() -> bool:
    if os.environ.get("SWANLAB_API_KEY") or _setting(_swanlab_files(), "api_key"):
        return True
    return any(_hosts(home / ".netrc") for home in _swanlab_homes()) or _swanlab_session()


def _swanlab_session() -> bool:
    client: Any = sys.modules.get("swanlab.sdk.internal.core_python.client")
    return bool(client is not None and hasattr(client, "exists") and client.exists())


def _swanlab_is_running() -> bool:
    return "swanlab" in sys.modules and swanlab_run(sys.modules["swanlab"]) is not None


def swanlab_run(swanlab: Any) -> Any:
    """The open run of the module `swanlab`, or None: without one, 0.10 raises where earlier versions say None."""
    try:
        return swanlab.get_run()
    except RuntimeError:
        return None


def _swanlab_tell(mode: str | None) -> bool:
    """SwanLab reads its environment at every start of a run: there is nothing to tell."""
    return False


# -- files -----------------------------------------------------------------------------------------------------------


def _hosts(path: Path) -> dict[str, Any]:
    try:
        return dict(netrc.netrc(str(path)).hosts)
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return {}


def _in_netrc(paths: Iterable[Path], machines: set[str]) -> bool:
    return any(machines & set(_hosts(path)) for path in paths)


def _setting(paths: Iterable[Path], name: str) -> str | None:
    """A setting's value in the first file that has it, be it INI, YAML or `.env`."""
    line = re.compile(rf"^\s*(?:SWANLAB_)?{name}\s*[:=]\s*['\"]?([^'\"\s#]+)", re.IGNORECASE | re.MULTILINE)
    for path in paths:
        try:
            found = line.search(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            continue
        if found:
            return found.group(1)
    return None


SERVICES = {
    "wandb": Service(
        name="wandb",
        mode="WANDB_MODE",
        key="WANDB_API_KEY",
        upload="wandb sync wandb/offline-run-*",
        address=_wandb_address,
        has_key=_wandb_has_key,
        is_running=_wandb_is_running,
        tell=_wandb_tell,
    ),
    "swanlab": Service(
        name="swanlab",
        mode="SWANLAB_MODE",
        key="SWANLAB_API_KEY",
        upload="swanlab sync swanlog/run-*",
        address=_swanlab_address,
        has_key=_swanlab_has_key,
        is_running=_swanlab_is_running,
        tell=_swanlab_tell,
    ),
}
"""By name, as in `report_to`."""
