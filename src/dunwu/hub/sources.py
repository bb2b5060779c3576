"""The sources by name, and where each of them is.

What it is: the four values of `source`, the endpoints, and the names that some data has on ModelScope.
What it is not: a request to anyone.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Literal

from dunwu._utils.suggest import did_you_mean

__all__ = [
    "MIRROR",
    "SOURCES",
    "Kind",
    "chosen",
    "has_modelscope",
    "hf_endpoint",
    "is_here",
    "modelscope_endpoint",
    "names_there",
    "need_modelscope",
    "page",
    "refuse_paths",
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
"""Data that lies on ModelScope under another name."""


def chosen(source: str) -> str:
    """`source`, checked; for `auto` what DUNWU_SOURCE says, if it says something.

    Raises:
        ValueError: for an unknown source, with the nearest known one.
    """
    given = os.environ.get("DUNWU_SOURCE") or "auto" if source == "auto" else source
    if given not in SOURCES:
        where = "DUNWU_SOURCE" if source == "auto" else "source"
        raise ValueError(f"{where}={given!r} is unknown{did_you_mean(str(given), SOURCES)}")
    return given


def hf_endpoint() -> str:
    """Where the Hugging Face hub is for the client of this process, which reads HF_ENDPOINT when it is imported."""
    constants = sys.modules.get("huggingface_hub.constants")
    given = getattr(constants, "ENDPOINT", None) or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return str(given).rstrip("/")


def modelscope_endpoint() -> str:
    """Where ModelScope is."""
    given = os.environ.get("MODELSCOPE_ENDPOINT") or "https://www.modelscope.cn"
    return (given if "://" in given else f"https://{given}").rstrip("/")


def has_modelscope() -> bool:
    """Whether ModelScope's client is installed."""
    return importlib.util.find_spec("modelscope") is not None


def need_modelscope() -> None:
    """Refuse to go on without ModelScope's client.

    Raises:
        ValueError: with what to install.
    """
    if not has_modelscope():
        raise ValueError("source=modelscope needs the package modelscope: pip install 'dunwu[modelscope]'")


def names_there(name: str) -> tuple[str, ...]:
    """Names to ask ModelScope for, in this order."""
    return (name, *_ON_MODELSCOPE.get(name, ()))


def page(name: str, kind: str, *, modelscope: bool = False) -> str:
    """The web page of a repository."""
    if modelscope:
        return f"{modelscope_endpoint()}/{kind}s/{name}"
    return f"{hf_endpoint()}/{'datasets/' if kind == 'dataset' else ''}{name}"


def is_here(name: str) -> bool:
    """Whether this is a folder, or a file, of this machine."""
    return Path(name).expanduser().exists()


def refuse_paths(name: str) -> None:
    """Refuse what can only be a path and is not there.

    Raises:
        ValueError: for such a path.
    """
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name:
        raise ValueError(f"there is no folder {name!r}; check the path, or give a hub name such as ORG/NAME")
