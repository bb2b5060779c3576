"""wandb and SwanLab, which send data away: each is offline where it has no key or its server does not answer.

`patch_tracker_logins` does the same for a script that logs in by itself: its functions are wrapped when the script
imports the tracker, so that one that it does not use is neither imported nor mentioned. No key is returned, printed
or stored here.
"""

from __future__ import annotations

import functools
import netrc
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, ParamSpec, TypeVar
from urllib.parse import urlsplit

from dunwu._utils.import_hooks import on_import
from dunwu._utils.logging import get_logger
from dunwu._utils.reachability import reachable
from dunwu._utils.secrets import describe_error, without_credentials

if TYPE_CHECKING:
    import wandb

__all__ = ["SERVICES", "TrackerService", "patch_tracker_logins", "swanlab_run"]

Args = ParamSpec("Args")
Result = TypeVar("Result")

_OFFLINE_MODES = ("offline", "disabled", "local", "dryrun")


class TrackerService(ABC):
    """A tracker with a server that wants a key; `choose_mode` puts it offline where it cannot send its data."""

    name: ClassVar[str]
    """As in `report_to`; also the package."""
    upload: ClassVar[str]
    """The command that uploads what was recorded offline."""
    login_key: ClassVar[str]
    """The argument of `login` that takes a key."""

    def __init__(self) -> None:
        self.put_offline_by_us = False
        self.mode_variable = f"{self.name.upper()}_MODE"
        self.key_variable = f"{self.name.upper()}_API_KEY"

    @abstractmethod
    def address(self) -> str:
        """The server's address, as configured."""

    @abstractmethod
    def has_key(self) -> bool:
        """Whether a key is configured, or this process has logged in."""

    @abstractmethod
    def is_running(self) -> bool:
        """Whether a run is open: then everything is decided already."""

    def set_mode(self, mode: str | None) -> bool:
        """Set the mode in a package that reads no environment any more (None: online); whether there was one."""
        return False

    def user_chose(self) -> bool:
        """Whether the user has set the mode: then it is left as it is."""
        return bool(os.environ.get(self.mode_variable)) and not self.put_offline_by_us

    def choose_mode(self, *, key_given: bool = False) -> bool:
        """Whether it can send its data; where it cannot, it is put offline, with one sentence.

        `key_given`: the caller has a key in hand.
        """
        if self.user_chose():
            return os.environ[self.mode_variable] not in _OFFLINE_MODES
        if self.is_running():
            return True
        obstacle = self._obstacle(key_given)
        if obstacle is not None:
            self.put_offline(obstacle)
        elif self.put_offline_by_us:
            os.environ.pop(self.mode_variable, None)
            self.put_offline_by_us = False
            self.set_mode(None)
        return obstacle is None

    def put_offline(self, reason: str) -> None:
        """Record on this machine, and log why and how to upload it later."""
        if not self.set_mode("offline"):
            os.environ[self.mode_variable] = "offline"
        if not self.put_offline_by_us:
            get_logger().warning_once(
                f"{self.name}: {reason}; this run is recorded offline. Upload it later with: {self.upload}"
            )
        self.put_offline_by_us = True

    def _obstacle(self, key_given: bool) -> str | None:
        try:
            has_key, address = key_given or self.has_key(), self.address()
        except Exception as error:  # each version checks its settings with errors of its own
            return f"its settings cannot be read ({describe_error(error)})"
        if not has_key:
            return f"no key was found (set {self.key_variable}, or log in once with `{self.name} login`)"
        if not reachable(address):
            return f"its server {urlsplit(without_credentials(address)).netloc} does not answer"
        return None


class Wandb(TrackerService):
    """Weights & Biases, read by its own settings."""

    name = "wandb"
    upload = "wandb sync wandb/offline-run-*"
    login_key = "key"

    def address(self) -> str:
        return str(self._settings().base_url)

    def has_key(self) -> bool:
        settings = self._settings()
        if settings.api_key or settings.identity_token_file:
            return True
        # The hosted service goes by several names; a key for one of them serves for all.
        machines = {urlsplit(settings.base_url).netloc, "api.wandb.ai"}
        return bool(machines & _netrc_machines()) or self._has_session(settings.base_url)

    def is_running(self) -> bool:
        return getattr(sys.modules.get("wandb"), "run", None) is not None

    def set_mode(self, mode: str | None) -> bool:
        """wandb reads its environment once, and complains of later changes: what it has read is changed instead."""
        singleton = getattr(sys.modules.get("wandb.sdk.wandb_setup"), "_singleton", None)
        if singleton is None or not hasattr(singleton, "settings"):
            return False
        singleton.settings.mode = mode or "online"
        return True

    def _settings(self) -> wandb.Settings:
        """What wandb finds in its files and the environment.

        Not `wandb.setup().settings`, which would keep wandb from reading a variable that a script sets later.
        """
        import wandb

        folder = os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb"
        settings = wandb.Settings(quiet=True, settings_system=str(Path(folder) / "settings"))
        # The first of these is today's; the others are of earlier versions.
        for files in ("system_settings", "system_config_file", "workspace_config_file"):
            getattr(settings, f"update_from_{files}", lambda: None)()
        settings.update_from_env_vars(dict(os.environ))
        return settings

    def _has_session(self, host: str) -> bool:
        """Whether this process has logged in: `wandb.login(key=…)` need not leave a file."""
        try:
            from wandb.sdk.lib import wbauth

            return wbauth.session_credentials(host=host) is not None
        except (ImportError, AttributeError):  # an older wandb, which keeps its keys in files
            return False


class Swanlab(TrackerService):
    """SwanLab, read by its own settings."""

    name = "swanlab"
    upload = "swanlab sync swanlog/run-*"
    login_key = "api_key"

    def address(self) -> str:
        import swanlab

        given = getattr(swanlab.Settings(), "api_host", None) or os.environ.get("SWANLAB_API_HOST")
        address = str(given or "https://api.swanlab.cn")
        return address if "://" in address else f"https://{address}"

    def has_key(self) -> bool:
        import swanlab

        settings = swanlab.Settings()
        if not hasattr(settings, "api_key"):  # an older one, which has no settings of this kind
            home = Path(os.environ.get("SWANLAB_SAVE_DIR") or Path.home() / ".swanlab")
            return bool(os.environ.get("SWANLAB_API_KEY")) or (home / ".netrc").is_file()
        return bool(settings.api_key) or self._has_session()

    def is_running(self) -> bool:
        return "swanlab" in sys.modules and swanlab_run(sys.modules["swanlab"]) is not None

    def _has_session(self) -> bool:
        client = sys.modules.get("swanlab.sdk.internal.core_python.client")
        return client is not None and hasattr(client, "exists") and bool(client.exists())


SERVICES: dict[str, TrackerService] = {service.name: service for service in (Wandb(), Swanlab())}
"""By name, as in `report_to`."""


def swanlab_run(swanlab: ModuleType) -> object | None:
    """The open run of the module `swanlab`, or None: without one, 0.10 raises where earlier versions return None."""
    try:
        run: object | None = swanlab.get_run()
        return run
    except RuntimeError:
        return None


def _netrc_machines() -> set[str]:
    """Servers that the user's netrc has a key for."""
    given = os.environ.get("NETRC")
    paths = [Path(given).expanduser()] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]
    found: set[str] = set()
    for path in paths:
        try:
            found |= set(netrc.netrc(path).hosts)
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            continue
    return found


# -- scripts that log in by themselves -------------------------------------------------------------------------------


def patch_tracker_logins() -> None:
    """From now on trackers that a script logs in to by itself never ask, hang or fail for want of key or network.

    With a key and a server that answers, the tracker's own functions do their work unchanged. Called before a user's
    script runs, or in a notebook; a second call changes nothing.
    """
    for name, service in SERVICES.items():
        on_import(name, functools.partial(_wrap_module, service))


def _wrap_module(service: TrackerService, module: ModuleType) -> None:
    for name, wrap in (("login", _wrap_login), ("init", _wrap_init)):
        original = getattr(module, name, None)
        if callable(original) and not hasattr(original, "dunwu_wraps"):
            wrapped = wrap(service, original)
            wrapped.__dict__["dunwu_wraps"] = True
            setattr(module, name, wrapped)


def _wrap_login(service: TrackerService, original: Callable[Args, Result]) -> Callable[Args, Result | bool]:
    """`login`, which returns False where it cannot succeed; the run is then offline."""

    @functools.wraps(original)
    def login(*args: Args.args, **kwargs: Args.kwargs) -> Result | bool:
        if service.user_chose():
            return original(*args, **kwargs) if service.choose_mode() else False
        given = bool(args and args[0]) or bool(kwargs.get(service.login_key))
        if not service.choose_mode(key_given=given):
            return False
        try:
            return original(*args, **kwargs)
        except Exception as error:  # each version has its own; all mean: not logged in
            service.put_offline(f"the login failed ({describe_error(error)})")
            return False

    return login


def _wrap_init(service: TrackerService, original: Callable[..., Result]) -> Callable[..., Result]:
    """`init`: offline where there is no key or no server, whatever mode the script asks for."""

    @functools.wraps(original)
    def init(*args: object, **kwargs: object) -> Result:
        if service.user_chose() or service.is_running() or kwargs.get("mode") in (*_OFFLINE_MODES, "shared"):
            return original(*args, **kwargs)
        if service.choose_mode():
            try:
                return original(*args, **kwargs)
            except Exception as error:  # a server that takes connections may still refuse the key
                service.put_offline(f"the run could not be started there ({describe_error(error)})")
        return original(*args, **{**kwargs, "mode": "offline"})

    return init
