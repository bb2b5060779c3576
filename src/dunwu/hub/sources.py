"""The four values of `source`, where each hub is, and the names that some data has on ModelScope."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Literal

from dunwu._utils.commands import install_command
from dunwu._utils.near_paths import near_path
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
    "looks_local",
    "missing_name",
    "missing_path",
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

_USUAL_FOLDERS = ("checkpoints", "data", "datasets", "models", "output", "outputs", "results", "runs")
"""Folders that people keep models and data in; no organisation of a hub is meant by these."""

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


def looks_local(name: str) -> bool:
    """Whether who writes `name` means a folder or file of this machine, although a hub's name may look so."""
    first = Path(name).parts[0] if name else ""
    return looks_like_missing_path(name) or (first in _USUAL_FOLDERS and "/" in name)


def missing_path(name: str, *, what: str = "no folder") -> str:
    """Says that `name` is not there, with the nearest one that is, or with what is missing of the path above it."""
    near = near_path(name) if name else None
    if near is not None:
        return f"there is {what} {name!r}; did you mean {near!r}?"
    parent = Path(name).expanduser().parent
    if not parent.is_dir():
        return f"there is {what} {name!r}, nor a folder {str(parent)!r}; check the path"
    return f"there is {what} {name!r}; check the path"


def reject_missing_path(name: str) -> None:
    """Refuse what can only be a path and does not exist.

    Raises:
        HubError: for such a path.
    """
    if looks_like_missing_path(name):
        raise HubError(missing_path(name))


def missing_name(name: str, reason: str) -> str:
    """Why a name that a hub might have is not to be had: as the path that it is a slip of, or for the hub's `reason`.

    Both are said where both may be meant.
    """
    if looks_local(name):
        return missing_path(name)
    near = near_path(name)
    if near is None:
        return reason
    return f"there is no folder {name!r}; did you mean {near!r}? If a name on the hub was meant: {reason}"
