"""`locate`: what to hand to from_pretrained or load_dataset.

What it is: the choice among a folder, the Hugging Face hub and ModelScope, and the sentence where none helps.
What it is not: the download from the Hugging Face hub: its clients do that by the name, so that what is saved later
keeps the name.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module

from dunwu._utils.logging import get_logger
from dunwu.hub.caches import has_weights, hf_snapshot, is_prepared, modelscope_snapshot
from dunwu.hub.errors import in_words, is_about_absence, is_about_the_way, or_rather, spoken, way_out
from dunwu.hub.offline import go_offline, is_offline, offline_if_unreachable, reachable
from dunwu.hub.repo_files import ask_hf, list_modelscope, needless
from dunwu.hub.sources import (
    Kind,
    chosen,
    has_modelscope,
    hf_endpoint,
    is_here,
    modelscope_endpoint,
    names_there,
    need_modelscope,
    refuse_paths,
)

__all__ = ["locate", "modelscope_answers"]

_PATIENCE = 4.0
"""Seconds for the first answer of a hub that is only asked for what is new."""
_told: set[str] = set()


def locate(name: str, *, kind: Kind = "model", source: str = "auto", revision: str | None = None) -> str:
    """What to hand to `from_pretrained` or `load_dataset`.

    Args:
        name: a folder or file, which always wins, or the name of a model or dataset.
        source: one of `SOURCES`; `auto` is what DUNWU_SOURCE says.
        revision: a branch, tag or commit; None is the newest.

    Returns:
        The path as given; the name itself where the Hugging Face hub or its cache has it; or the folder that
        ModelScope's client downloaded to.

    Raises:
        ValueError: in words: what happened, and the command that goes on from there.
    """
    source = chosen(source)
    if is_here(name):
        return name
    refuse_paths(name)
    if source == "local":
        return _local(name, kind, revision)
    if source == "modelscope":
        return _modelscope(name, kind, revision)
    if _is_cached(name, kind, revision):
        _say_if_unreachable()
        return name
    trouble = _trouble_at_hf(name, kind, revision)
    if trouble is None:
        return name
    if source == "auto" and trouble.elsewhere and modelscope_answers(name, kind, revision):
        get_logger().info("%s: trying ModelScope, because %s", name, trouble.words)
        return _modelscope(name, kind, revision, cache_only=_told_offline())
    if hf_snapshot(name, kind, revision) is not None:  # a part, such as the tokenizer; the client knows what it needs
        return name
    raise ValueError(trouble.words)


def _is_cached(name: str, kind: Kind, revision: str | None) -> bool:
    """Whether the Hugging Face clients can do without the hub."""
    folder = hf_snapshot(name, kind, revision)
    if kind == "dataset":
        return folder is not None or is_prepared(name)
    return folder is not None and has_weights(folder)


def modelscope_answers(name: str, kind: Kind, revision: str | None) -> bool:
    """Whether ModelScope is worth asking: its client is installed, and it can be reached or has a copy here."""
    if not has_modelscope():
        return False
    here = any(modelscope_snapshot(each, kind, revision) for each in names_there(name))
    return here or (not _told_offline() and reachable(modelscope_endpoint()))


def _told_offline() -> bool:
    """Whether the user, and not a hub that could not be reached, said offline."""
    return is_offline() and offline_if_unreachable() is None


@dataclass(frozen=True)
class _Trouble:
    """Why the Hugging Face hub does not help."""

    words: str
    elsewhere: bool
    """Whether another source may help."""


def _trouble_at_hf(name: str, kind: Kind, revision: str | None) -> _Trouble | None:
    offline = offline_if_unreachable()
    if offline is not None:
        words = f"{name!r} is not in the cache, and {hf_endpoint()} cannot be reached from here; {way_out(name)}"
        return _Trouble(words, elsewhere=True)
    if is_offline():
        words = f"{name!r} is not in the cache, and HF_HUB_OFFLINE is set"
        return _Trouble(words + or_rather(name, "unset it, or give a folder"), elsewhere=True)
    try:
        ask_hf(name, kind, revision)
    except Exception as error:
        reason = in_words(error, name)
        if reason is None and isinstance(error, ValueError):  # a name that cannot be one
            raise
        if reason is None:  # a mirror that knows the files, and not this question; the client will see
            return None
        return _Trouble(reason, elsewhere=is_about_the_way(error) or is_about_absence(error))
    return None


def _say_if_unreachable() -> None:
    """Tell the user once that only the cache is used."""
    sentence = offline_if_unreachable()
    if sentence is None and not is_offline() and not _answers(hf_endpoint()):
        sentence = go_offline("takes connections and does not answer")
    if sentence is not None and sentence not in _told:
        _told.add(sentence)
        get_logger().warning(sentence)


@lru_cache(maxsize=4)
def _answers(endpoint: str) -> bool:
    """Whether the hub says anything in time: a client waits ten seconds for each file of a silent one."""
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=_PATIENCE)
    except Exception as error:
        return not is_about_the_way(error)
    return True


def _local(name: str, kind: Kind, revision: str | None) -> str:
    found = hf_snapshot(name, kind, revision) or next(
        (folder for each in names_there(name) if (folder := modelscope_snapshot(each, kind, revision))), None
    )
    if found is None:
        raise ValueError(
            f"{name!r} is neither a folder nor in a cache of this machine, and source is local"
            + or_rather(name, f"`dunwu fetch {name} --to DIR` where there is a network, then give DIR")
        )
    return str(found)


def _modelscope(name: str, kind: Kind, revision: str | None, *, cache_only: bool = False) -> str:
    """The folder that ModelScope's client downloaded to."""
    need_modelscope()
    if cache_only or not reachable(modelscope_endpoint()):
        return _modelscope_cache(name, kind, revision)
    listing = list_modelscope(name, kind, revision)
    if listing.name != name:
        get_logger().info("%s is %s on ModelScope", name, listing.name)
    skipped = [glob.escape(path) for path in needless(listing)] or None
    client = import_module("modelscope.hub.snapshot_download")  # it has no types
    with spoken(name):
        return str(
            client.snapshot_download(listing.name, revision=listing.commit, repo_type=kind, ignore_patterns=skipped)
        )


def _modelscope_cache(name: str, kind: Kind, revision: str | None) -> str:
    for each in names_there(name):
        folder = modelscope_snapshot(each, kind, revision)
        if folder is not None:
            return str(folder)
    raise ValueError(
        f"{name!r} is not in ModelScope's cache, and {modelscope_endpoint()} cannot be reached from here; check the "
        f"network or MODELSCOPE_ENDPOINT, or `dunwu fetch {name} --source hf --to DIR` and give DIR"
    )
