"""Sentences for the errors of huggingface_hub, datasets, modelscope and the layers below them, with what to do next.

An error that is not a hub's stays as it is. Errors are known by their class names, so that no client is imported to
read an error of another one.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

from dunwu._utils.commands import dunwu_command, hf_command
from dunwu._utils.secrets import redact
from dunwu._utils.suggest import did_you_mean
from dunwu.errors import DunwuError, HubError
from dunwu.hub.caches import cached_names
from dunwu.hub.offline import is_offline
from dunwu.hub.sources import MIRROR, hf_endpoint, is_on_disk, modelscope_endpoint, web_page

__all__ = [
    "did_you_mean_repo",
    "explain_error",
    "explained_errors",
    "is_connection_error",
    "is_not_found",
    "offline_advice",
]

_CLIENTS = {"huggingface_hub", "datasets", "modelscope", "modelscope_hub"}
_HTTP_LIBRARIES = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"}
_SLOW = ("TimeoutException", "Timeout", "RequestTimeoutError", "TimeoutError")
_BROKEN = ("TransportError", "TooManyRedirects", "ConnectionError", "NetworkError", "ServerError")
_WELL_KNOWN = (
    "Qwen/Qwen2.5-0.5B-Instruct",
    "Qwen/Qwen2.5-1.5B-Instruct",
    "Qwen/Qwen2.5-3B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct",
    "Qwen/Qwen2-0.5B-Instruct",
    "Qwen/Qwen3-0.6B",
    "openai/gsm8k",
    "Jiayi-Pan/Countdown-Tasks-3to4",
    "trl-lib/tldr",
)
"""Names that tutorials use, for the mistyped ones."""


def explain_error(error: BaseException, name: str) -> str | None:
    """What `error` means for the model or dataset `name`, and how to go on; None if no hub is involved.

    A GatedRepoError, for one, becomes "'ORG/NAME' is gated: ask for access at https://…, then `hf auth login` …".
    """
    for explain in (_full, _gated, _wrong_revision, _missing, _damaged, _not_cached, _down):
        for each in _chain(error):
            sentence = explain(each, name)
            if sentence is not None:
                return redact(sentence)
    return None


@contextmanager
def explained_errors(name: str) -> Iterator[None]:
    """Turn a hub's errors into `HubError`s with what to do; others pass as they are."""
    try:
        yield
    except Exception as error:
        sentence = None if isinstance(error, DunwuError) else explain_error(error, name)
        if sentence is None:
            raise
        raise HubError(sentence) from error


def is_connection_error(error: BaseException) -> bool:
    """Whether the hub could not be asked (down, cut off, too slow), so that another source may do."""
    return any(_down(each, "") is not None for each in _chain(error))


def is_not_found(error: BaseException) -> bool:
    """Whether the hub answered that it has no such repository."""
    if isinstance(error, DunwuError):  # about something that the hub's answer led to
        return False
    return any(_missing(each, "") is not None for each in _chain(error)) and not any(
        _gated(each, "") or _wrong_revision(each, "") for each in _chain(error)
    )


def did_you_mean_repo(name: str, otherwise: str) -> str:
    """The end of a sentence: the nearest name that is cached or well known, if one is near, and what else to do."""
    known = {*cached_names(), *_WELL_KNOWN}
    if name in known:  # typed right
        return f"; {otherwise}"
    short = name.rpartition("/")[2].lower()
    same = sorted(each for each in known if each.rpartition("/")[2].lower() == short)
    nearest = f"; did you mean {same[0]!r}?" if same else did_you_mean(name, known)
    return f"{nearest} If not, {otherwise}" if "did you mean" in nearest else f"; {otherwise}"


def offline_advice(name: str) -> str:
    """What to do where the Hugging Face hub does not help."""
    command = dunwu_command("fetch", name, "--source", "modelscope", "--to", "DIR")
    return (
        f"try a mirror (HF_ENDPOINT={MIRROR}), or `{command}` "
        "here or where there is a network, and give DIR instead of the name"
    )


def _full(error: BaseException, name: str) -> str | None:
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return (
        f"the disk is full, so {name!r} could not be written; free some space, or move the cache with "
        "HF_HOME=DIR (MODELSCOPE_CACHE=DIR), and run the same command again: it goes on where it stopped"
    )


def _gated(error: BaseException, name: str) -> str | None:
    if _is(error, _CLIENTS, "PermissionDeniedError", "AuthenticationError"):
        return (
            f"{name!r} is not open to everyone: ask for access on its page at {modelscope_endpoint()}, then "
            "`modelscope login`, or set MODELSCOPE_API_TOKEN"
        )
    gated = _is(error, _CLIENTS, "GatedRepoError")
    if not gated and not (_is(error, _CLIENTS, "DatasetNotFoundError") and "gated dataset" in str(error)):
        return None
    kind = "dataset" if "dataset" in str(error).lower() else "model"
    has_key = "403" in str(error)
    step = (
        "your key is known and has no access yet"
        if has_key
        else f"then `{hf_command('auth', 'login')}`, or set HF_TOKEN to your key"
    )
    return f"{name!r} is gated: ask for access at {web_page(name, kind)}, {step}"


def _wrong_revision(error: BaseException, name: str) -> str | None:
    of_a_dataset = _is(error, _CLIENTS, "DatasetNotFoundError") and str(error).startswith("Revision")
    if not of_a_dataset and not _is(error, _CLIENTS, "RevisionNotFoundError", "NoValidRevisionError"):
        return None
    return (
        f"{name!r} has no such revision; give a branch, a tag or a commit that its page lists, or leave revision out "
        "for the newest"
    )


def _missing(error: BaseException, name: str) -> str | None:
    if _is(error, _CLIENTS, "NotExistError"):
        return f"there is no {name!r} at {modelscope_endpoint()}" + did_you_mean_repo(
            name, "names differ between hubs: look it up there, or use --source hf"
        )
    if not _is(error, _CLIENTS, "RepositoryNotFoundError", "DatasetNotFoundError"):
        return None
    return f"there is no {name!r} at {hf_endpoint()}, or it is private" + did_you_mean_repo(
        name, f"check the name (ORG/NAME); for a private one `{hf_command('auth', 'login')}`, or set HF_TOKEN"
    )


def _damaged(error: BaseException, name: str) -> str | None:
    again = f"`{dunwu_command('fetch', name, '--to', 'DIR')}` goes on where it stopped and checks every file"
    if is_on_disk(name):
        command = dunwu_command("fetch", "NAME", "--to", name)
        again = f"`{command}` brings what is damaged once more, and leaves whole files alone"
    if _is(error, {"modelscope", "modelscope_hub"}, "FileDownloadError"):
        failed = getattr(error, "failed_files", None) or {}
        for path, reason in failed.items():
            inner = explain_error(reason, name)
            return f"{path}: {inner}" if inner else f"{path} of {name!r} could not be downloaded: {reason}"
    if _is(error, _CLIENTS, "FileIntegrityError", "NonMatchingChecksumError"):
        return f"a file of {name!r} came with other bytes than the hub lists ({_first_line(error)}); {again}"
    if "Consistency check failed" in str(error) and isinstance(error, OSError):
        return f"a file of {name!r} came only in part ({_first_line(error)}); {again}"
    if _is(error, _CLIENTS, "IncompleteSnapshotError"):
        return f"only a part of {name!r} is on this machine, and the hub cannot be reached; {again}"
    if _is(error, {"safetensors", "safetensors_rust", "builtins"}, "SafetensorError"):
        return f"a weight file of {name!r} is cut short or damaged ({_first_line(error)}); {again}"
    return None


def _not_cached(error: BaseException, name: str) -> str | None:
    absent = _is(error, _CLIENTS, "LocalEntryNotFoundError", "OfflineModeIsEnabled", "CacheNotFound")
    unreached = isinstance(error, ConnectionError) and "Couldn't reach" in str(error)
    if not absent and not unreached:
        return None
    why = "this process is offline" if is_offline() else f"{hf_endpoint()} did not answer"
    return f"{name!r} is not, or not wholly, in the cache of this machine, and {why}; {offline_advice(name)}"


def _down(error: BaseException, name: str) -> str | None:
    status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status_code", None)
    if status == 429:
        return f"the hub asks for fewer requests (429) while {name!r} is read; wait a few minutes, or log in"
    if isinstance(status, int) and status >= 500:
        return f"the hub is down (it answers {status}) while {name!r} is read; wait, or {offline_advice(name)}"
    if _is(error, _HTTP_LIBRARIES | _CLIENTS, *_SLOW):
        return f"the hub did not answer in time while {name!r} was read; try again, or {offline_advice(name)}"
    if _is(error, {"json", *_HTTP_LIBRARIES}, "JSONDecodeError") and _is_from_an_answer(error):
        return f"what answers at {hf_endpoint()} is no hub: a login page of this network, or a wrong HF_ENDPOINT"
    if _is(error, _HTTP_LIBRARIES, "ProxyError"):
        return f"the proxy refused ({_first_line(error)}); check HTTPS_PROXY and NO_PROXY"
    if _is(error, _HTTP_LIBRARIES | _CLIENTS, *_BROKEN):
        broke = f"the connection to the hub broke ({_first_line(error)}) while {name!r} was read"
        return f"{broke}; {offline_advice(name)}"
    return None


def _is(error: BaseException, packages: set[str], *names: str) -> bool:
    """Whether the error, or a class that it derives from, has one of these names in one of these packages."""
    return any(kind.__name__ in names and kind.__module__.split(".")[0] in packages for kind in type(error).__mro__)


def _is_from_an_answer(error: BaseException) -> bool:
    """Whether a server's answer was read, rather than a file of this machine."""
    frames = walk_tb(error.__traceback__)
    return any(str(frame.f_globals.get("__name__")).split(".")[0] in _HTTP_LIBRARIES for frame, _ in frames)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that led to it."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
