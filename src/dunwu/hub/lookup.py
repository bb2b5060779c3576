"""`locate`: what to pass to from_pretrained or load_dataset: a folder, or a name on one of the hubs.

Nothing is downloaded from the Hugging Face hub here: its clients do that by the name, so that what is saved later
keeps the name.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from dunwu._utils.commands import dunwu_command
from dunwu._utils.logging import get_logger
from dunwu.errors import DunwuError, HubError
from dunwu.hub.caches import has_weights, hf_snapshot, is_prepared, modelscope_snapshot
from dunwu.hub.errors import (
    did_you_mean_repo,
    explain_error,
    explained_errors,
    is_connection_error,
    is_not_found,
    offline_advice,
)
from dunwu.hub.offline import go_offline, hub_state, is_offline, offline_if_unreachable, reachable
from dunwu.hub.repo_files import list_modelscope, redundant_weights, repo_info
from dunwu.hub.sources import (
    Kind,
    has_modelscope,
    hf_endpoint,
    is_on_disk,
    looks_local,
    missing_name,
    modelscope_endpoint,
    modelscope_names,
    reject_missing_path,
    require_modelscope,
    resolve_source,
)

__all__ = ["locate", "modelscope_answers"]


def locate(name: str, *, kind: Kind = "model", source: str = "auto", revision: str | None = None) -> str:
    """What to pass to `from_pretrained` or `load_dataset`.

    Args:
        name: a folder (or a file of data), which always wins, or the name of a model or dataset.
        source: one of `SOURCES`; `auto` is the value of DUNWU_SOURCE.
        revision: a branch, tag or commit; None is the newest.

    Returns:
        The path as given; the name itself where the Hugging Face hub or its cache has it; or the folder that
        ModelScope's client downloaded to.

    Raises:
        HubError: what happened, and the command that goes on from there.
    """
    source = resolve_source(source)
    if is_on_disk(name):
        if kind == "model" and Path(name).expanduser().is_file():
            raise HubError(f"{name!r} is a file; give the folder with config.json and weights, or a hub name")
        return name
    reject_missing_path(name)
    if source == "local":
        return _local(name, kind, revision)
    if source == "modelscope":
        return _modelscope(name, kind, revision)
    if _is_cached(name, kind, revision):
        _warn_if_offline()
        return name
    return _hf(name, kind, source, revision)


def _hf(name: str, kind: Kind, source: str, revision: str | None) -> str:
    """The name, where the Hugging Face hub has it; or ModelScope's folder, where `source` allows that."""
    failure = _hf_failure(name, kind, revision)
    if failure is None:
        return name
    if (
        source == "auto"
        and failure.may_try_elsewhere
        and not looks_local(name)
        and modelscope_answers(name, kind, revision)
    ):
        get_logger().info("%s: trying ModelScope, because %s", name, failure.reason)
        return _modelscope(name, kind, revision, cache_only=_user_chose_offline())
    if hf_snapshot(name, kind, revision) is not None:  # a part, such as the tokenizer; the client knows what it needs
        return name
    raise HubError(missing_name(name, failure.reason) if failure.may_try_elsewhere else failure.reason)


def _is_cached(name: str, kind: Kind, revision: str | None) -> bool:
    """Whether the Hugging Face clients can do without the hub."""
    folder = hf_snapshot(name, kind, revision)
    if kind == "dataset":
        return folder is not None or is_prepared(name)
    return folder is not None and has_weights(folder)


def modelscope_answers(name: str, kind: Kind, revision: str | None) -> bool:
    """Whether ModelScope may help: its client is installed, and it can be reached or there is a copy in its cache."""
    if not has_modelscope():
        return False
    here = any(modelscope_snapshot(each, kind, revision) for each in modelscope_names(name))
    return here or (not _user_chose_offline() and reachable(modelscope_endpoint()))


def _user_chose_offline() -> bool:
    """Whether it is the user who set HF_HUB_OFFLINE, rather than a hub that could not be reached."""
    return is_offline() and offline_if_unreachable() is None


@dataclass(frozen=True)
class _HubFailure:
    """Why the Hugging Face hub does not help."""

    reason: str
    may_try_elsewhere: bool
    """Whether another source may help."""


def _hf_failure(name: str, kind: Kind, revision: str | None) -> _HubFailure | None:
    if offline_if_unreachable() is not None:
        reason = f"{name!r} is not in the cache, and {hf_endpoint()} cannot be reached from here"
        return _HubFailure(f"{reason}; {offline_advice(name)}", may_try_elsewhere=True)
    if is_offline():
        advice = did_you_mean_repo(name, "unset it, or give a folder")
        reason = f"{name!r} is not in the cache, and HF_HUB_OFFLINE is set{advice}"
        return _HubFailure(reason, may_try_elsewhere=True)
    try:
        repo_info(name, kind, revision)
    except DunwuError:
        raise
    except Exception as error:
        explained = explain_error(error, name)
        if explained is None and isinstance(error, ValueError):  # a name that cannot be one
            raise HubError(str(error)) from error
        if explained is None:  # a mirror that knows the files, and not this question; the client will see
            return None
        return _HubFailure(explained, may_try_elsewhere=is_connection_error(error) or is_not_found(error))
    return None


def _warn_if_offline() -> None:
    """Warn once that only the cache is used; a client would wait ten seconds for each file of a silent hub."""
    sentence = offline_if_unreachable()
    if sentence is None and not is_offline() and hub_state(hf_endpoint()) == "silent":
        sentence = go_offline("takes connections and does not answer")
    if sentence is not None:
        get_logger().warning_once(sentence)


def _local(name: str, kind: Kind, revision: str | None) -> str:
    found = hf_snapshot(name, kind, revision) or next(
        (folder for each in modelscope_names(name) if (folder := modelscope_snapshot(each, kind, revision))), None
    )
    if found is None:
        command = dunwu_command("fetch", name, "--to", "DIR")
        reason = f"{name!r} is neither a folder nor in a cache of this machine, and source is local"
        advice = did_you_mean_repo(name, f"`{command}` where there is a network, then give DIR")
        raise HubError(missing_name(name, reason + advice))
    return str(found)


def _modelscope(name: str, kind: Kind, revision: str | None, *, cache_only: bool = False) -> str:
    """The folder that ModelScope's client downloaded to."""
    require_modelscope()
    if cache_only or not reachable(modelscope_endpoint()):
        return _modelscope_cache(name, kind, revision)
    listing = list_modelscope(name, kind, revision)
    if listing.name != name:
        get_logger().info("%s is %s on ModelScope", name, listing.name)
    skipped = [glob.escape(path) for path in redundant_weights(listing)] or None
    client = import_module("modelscope.hub.snapshot_download")  # it has no types
    with explained_errors(name):
        return str(
            client.snapshot_download(listing.name, revision=listing.commit, repo_type=kind, ignore_patterns=skipped)
        )


def _modelscope_cache(name: str, kind: Kind, revision: str | None) -> str:
    for each in modelscope_names(name):
        folder = modelscope_snapshot(each, kind, revision)
        if folder is not None:
            return str(folder)
    command = dunwu_command("fetch", name, "--source", "hf", "--to", "DIR")
    reason = (
        f"{name!r} is not in ModelScope's cache, and {modelscope_endpoint()} cannot be reached from here; check the "
        f"network or MODELSCOPE_ENDPOINT, or `{command}` and give DIR"
    )
    raise HubError(missing_name(name, reason))
