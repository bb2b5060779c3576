"""The four values of `source`, where each hub is, and the names that some data has on ModelScope."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Literal

from dunwu._utils.commands import install_command
from dunwu._utils.secrets import without_credentials
from dunwu._utils.suggest import did_you_mean
from dunwu.errors import ConfigError, HubError

__all__ = [
    "MIRROR",
    "SOURCES",
    "Kind",
    "check_endpoint",
    "has_modelscope",
    "hf_endpoint",
    "is_on_disk",
    "looks_like_missing_path",
    "modelscope_endpoint",
    "modelscope_names",
    "reject_missing_path",
    "require_modelscope",
    "resolve_source",
    "web_page",
]

SOURCES = ("auto", "hf", "modelscope", "local")
"""`auto`: a folder, else the Hugging Face hub, else ModelScope. `local`: folders and caches, never the network."""

Kind = Literal["model", "dataset"]

MIRROR = "https://hf-mirror.com"
"""A public mirror of the Hugging Face hub, named in errors."""

_ON_MODELSCOPE = {
    "openai/gsm8k": ("AI-ModelScope/gsm8k",),
    "Jiayi-Pan/Countdown-Tasks-3to4": ("zouxuhong/Countdown-Tasks-3to4",),
}
"""Data with another name on ModelScope."""


def resolve_source(source: str) -> str:
    """`source`, checked; for `auto` the value of DUNWU_SOURCE, if it is set.

    Raises:
        ConfigError: for an unknown source, with the nearest known one.
    """
    given = os.environ.get("DUNWU_SOURCE") or "auto" if source == "auto" else source
    if given not in SOURCES:
        where = "DUNWU_SOURCE" if source == "auto" else "source"
        raise ConfigError(f"{where}={given!r} is unknown{did_you_mean(str(given), SOURCES)}")
    return given


def hf_endpoint() -> str:
    """Where the Hugging Face hub is for the client of this process, which reads HF_ENDPOINT when it is imported.

    A user name and a password in it are left out: the client has them, messages must not.
    """
    constants = sys.modules.get("huggingface_hub.constants")
    given = getattr(constants, "ENDPOINT", None) or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return without_credentials(str(given)).rstrip("/")


def check_endpoint() -> None:
    """Check that HF_ENDPOINT is a web address.

    Raises:
        HubError: where it is not; the client would report it as a hub that cannot be reached.
    """
    endpoint = hf_endpoint()
    if not endpoint.startswith(("http://", "https://")):
        host = endpoint.rpartition("//")[2].rpartition("@")[2]
        raise HubError(f"HF_ENDPOINT={endpoint!r} is not a URL; write it in full: HF_ENDPOINT=https://{host}")


def modelscope_endpoint() -> str:
    """Where ModelScope is, without a user name and a password."""
    given = os.environ.get("MODELSCOPE_ENDPOINT") or "https://www.modelscope.cn"
    return without_credentials(given if "://" in given else f"https://{given}").rstrip("/")


def has_modelscope() -> bool:
    """Whether ModelScope's client is installed."""
    return importlib.util.find_spec("modelscope") is not None


def require_modelscope() -> None:
    """Check that ModelScope's client is installed.

    Raises:
        HubError: with what to install.
    """
    if not has_modelscope():
        raise HubError(f"source=modelscope needs the package modelscope: {install_command('modelscope')}")


def modelscope_names(name: str) -> tuple[str, ...]:
    """Names to ask ModelScope for, in this order."""
    return (name, *_ON_MODELSCOPE.get(name, ()))


def web_page(name: str, kind: str, *, modelscope: bool = False) -> str:
    """The web page of a repository."""
    if modelscope:
        return f"{modelscope_endpoint()}/{kind}s/{name}"
    return f"{hf_endpoint()}/{'datasets/' if kind == 'dataset' else ''}{name}"


def is_on_disk(name: str) -> bool:
    """Whether this is a folder, or a file, of this machine."""
    return Path(name).expanduser().exists()


def looks_like_missing_path(name: str) -> bool:
    """Whether `name` can only be a path, because hubs' names are NAME or ORG/NAME, and nothing is there."""
    can_only_be_a_path = not name or name.startswith((".", "/", "~")) or name.count("/") > 1
    return can_only_be_a_path and not (name and is_on_disk(name))


def reject_missing_path(name: str) -> None:
    """Refuse what can only be a path and does not exist.

    Raises:
        HubError: for such a path.
    """
    if looks_like_missing_path(name):
        raise HubError(f"there is no folder {name!r}; check the path, or give a hub name such as ORG/NAME")
