"""`fetch`: a whole model or dataset into a plain folder, with every file checked against the hub's hashes.

huggingface_hub keeps whole files across a kill and, in version 2.4, starts a half one anew. So small files are left
to it, and large ones go through its `http_get` into a part file that the next run goes on with.

The hashes are checked here rather than by `HfApi.verify_repo_checksums`: that lists the repository once more, hashes
every file each time, misses what redundant weights are left out for, and knows nothing of ModelScope.
"""

from __future__ import annotations

import glob
import hashlib
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from dunwu._utils.logging import get_logger
from dunwu.errors import HubError
from dunwu.hub.errors import explain_error, explained_errors, is_connection_error, is_not_found, offline_advice
from dunwu.hub.lookup import modelscope_answers
from dunwu.hub.offline import is_offline, offline_if_unreachable
from dunwu.hub.repo_files import File, Listing, list_hf, list_modelscope, redundant_weights
from dunwu.hub.sources import Kind, has_modelscope, hf_endpoint, is_on_disk, reject_missing_path, resolve_source

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["FetchReport", "fetch"]

_RESUMED = 16 << 20
"""Bytes from which a half file is worth resuming; a smaller one is downloaded again."""
_ONE_REQUEST = 50 * 10**9
"""Bytes that the hub gives in one plain answer; a larger file is left to the client."""
_PARALLEL = 4
"""Large files at a time: one connection is often slower than the line."""
_RESERVE = 64 << 20
"""Bytes to leave free on the disk."""
_PARTS = Path(".cache") / "dunwu"


@dataclass(frozen=True)
class FetchReport:
    """What `fetch` did.

    Example: `FetchReport(name="Qwen/Qwen3-0.6B", kind="model", folder=Path("models/qwen3"), source="modelscope",
    files=10, bytes=1519209696, commit="master", seconds=94.2, reused=0, skipped=("pytorch_model.bin",))`
    """

    name: str
    """The name on the hub that it came from."""
    kind: Kind
    folder: Path
    """Where the files are."""
    source: str
    """`hf` or `modelscope`."""
    files: int
    """Their number, with those that were there already."""
    bytes: int
    """Their size."""
    commit: str
    """The commit that was downloaded; on ModelScope the branch."""
    seconds: float
    reused: int
    """Files that were there already, whole."""
    skipped: tuple[str, ...]
    """Files of a model that nothing here reads, such as second copies of its weights; they were not downloaded."""


def fetch(
    name: str, to: str | Path, *, kind: Kind | None = None, source: str = "auto", revision: str | None = None
) -> FetchReport:
    """Download a whole model or dataset into a folder, and check every file against the hub's hashes.

    It goes on where an earlier call stopped, and leaves whole files alone. A file with wrong bytes comes again, once.

    Args:
        name: the model's or dataset's name.
        to: the folder; made where it is missing.
        kind: None asks the hub which of the two exists.
        source: `auto`, `hf` or `modelscope`.
        revision: a branch, tag or commit; None is the newest.

    Raises:
        HubError: no such name, no access, a full disk, a hub that is down, a file that stays wrong, a folder with
            other files of the same names.
    """
    started = time.monotonic()
    folder = Path(to).expanduser()
    if folder.exists() and not folder.is_dir():
        raise HubError(f"{str(to)!r} is a file; give a folder to download to")
    if is_on_disk(name):
        raise HubError(f"{name!r} is on this machine already; there is nothing to fetch, use it as it is")
    reject_missing_path(name)
    listing = _listing(name, kind, source, revision)
    skipped = redundant_weights(listing)
    wanted = [file for file in listing.files if file.path not in set(skipped)]
    with _folder_lock(folder), explained_errors(name):
        missing = [file for file in wanted if not file.is_whole(folder)]
        _check_own_files(listing, wanted, missing, folder)
        _check_room(folder, missing)
        _download_and_check(listing, missing, folder)
    _remove_parts(folder)
    size = sum(file.size for file in wanted)
    seconds, reused = time.monotonic() - started, len(wanted) - len(missing)
    return FetchReport(
        listing.name, listing.kind, folder, listing.source, len(wanted), size, listing.commit, seconds, reused,
        tuple(skipped),
    )  # fmt: skip


def _remove_parts(folder: Path) -> None:
    shutil.rmtree(folder / _PARTS, ignore_errors=True)
    with suppress(OSError):
        (folder / _PARTS.parent).rmdir()  # if nothing else is in it


def _listing(name: str, kind: Kind | None, source: str, revision: str | None) -> Listing:
    source = resolve_source(source)
    if source == "local":
        raise HubError("source=local fetches nothing; choose auto, hf or modelscope")
    if source == "modelscope":
        found = list_modelscope(name, kind, revision)
    else:
        found = _hf_listing(name, kind, source, revision)
    if not found.files:
        raise HubError(f"{name!r} is an empty repository; there is nothing to fetch")
    return found


def _hf_listing(name: str, kind: Kind | None, source: str, revision: str | None) -> Listing:
    """As the Hugging Face hub lists it, or ModelScope where `source` allows it and the hub does not help."""
    if offline_if_unreachable() is not None:
        reason, cause = f"{hf_endpoint()} cannot be reached from here; {offline_advice(name)}", None
    elif is_offline():
        raise HubError(f"HF_HUB_OFFLINE is set, so {name!r} cannot be fetched; unset it")
    else:
        try:
            return list_hf(name, kind, revision)
        except HubError:
            raise
        except Exception as error:
            explained, cause = explain_error(error, name), error
            if explained is None:
                raise
            if not (is_connection_error(error) or is_not_found(error)):
                raise HubError(explained) from error
            reason = explained
    if source == "auto" and has_modelscope() and modelscope_answers(name, kind or "model", revision):
        get_logger().info("%s: trying ModelScope, because %s", name, reason)
        return list_modelscope(name, kind, revision)
    raise HubError(reason) from cause


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Locks the folder while this process downloads into it."""
    from filelock import FileLock, Timeout

    (folder / _PARTS).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _PARTS / "lock", timeout=0):
            yield
    except Timeout as error:
        raise HubError(f"another process is fetching into {str(folder)!r}; wait for it") from error


def _check_own_files(listing: Listing, wanted: Sequence[File], missing: Sequence[File], folder: Path) -> None:
    """Refuse a folder that is not a copy of the repository and has files that would be replaced."""
    started_before = (folder / _PARTS.parent / "huggingface").is_dir() or any((folder / _PARTS).glob("*.part"))
    if len(missing) < len(wanted) or started_before:
        return
    there = [file.path for file in missing if (folder / file.path).exists()]
    if there:
        named = ", ".join(there[:3]) + (" …" if len(there) > 3 else "")
        raise HubError(
            f"{str(folder)!r} has files of these names that are not from {listing.name!r}: {named}; give another "
            "folder, or remove them"
        )


def _check_room(folder: Path, missing: Sequence[File]) -> None:
    needed = sum(file.size - _size(_part(folder, file)) for file in missing)
    free = shutil.disk_usage(folder).free
    if needed and needed + _RESERVE > free:
        raise HubError(
            f"{needed / 1e9:.2f} GB are still to be downloaded and {str(folder)!r} has {free / 1e9:.2f} GB free; "
            "free some space, or give another folder"
        )


def _download_and_check(listing: Listing, missing: Sequence[File], folder: Path) -> None:
    _download(listing, missing, folder)
    wrong = [file for file in missing if not file.is_whole(folder)]
    if wrong:
        named = ", ".join(file.path for file in wrong[:3])
        get_logger().warning("%s differs from what the hub lists: downloading it once more", named)
        _download(listing, wrong, folder)
        wrong = [file for file in wrong if not file.is_whole(folder)]
    if wrong:
        for file in wrong:
            (folder / file.path).unlink(missing_ok=True)
        named = ", ".join(file.path for file in wrong[:3])
        raise HubError(
            f"{named} of {listing.name!r} differed twice from what the hub lists, and was removed; the "
            "connection or a mirror alters it: try another network, HF_ENDPOINT or --source"
        )


def _download(listing: Listing, files: Sequence[File], folder: Path) -> None:
    for file in files:
        (folder / file.path).unlink(missing_ok=True)  # what is there is not whole; no client shall take it for that
    if not files:
        return
    if listing.source == "modelscope":
        import_module("modelscope.hub.snapshot_download").snapshot_download(  # it has no types
            listing.name,
            revision=listing.commit,
            repo_type=listing.kind,
            local_dir=str(folder),
            allow_patterns=[glob.escape(file.path) for file in files],
        )
        return
    large = [file for file in files if _RESUMED <= file.size <= _ONE_REQUEST]
    if len(large) < len(files):
        _download_small(listing, [file for file in files if file not in large], folder)
    _download_large(listing, large, folder)


def _download_small(listing: Listing, files: Sequence[File], folder: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(
        listing.name,
        repo_type=listing.kind,
        revision=listing.commit,
        local_dir=folder,
        allow_patterns=[glob.escape(file.path) for file in files],
    )


def _download_large(listing: Listing, files: Sequence[File], folder: Path) -> None:
    stop = threading.Event()
    pool = ThreadPoolExecutor(_PARALLEL)
    try:
        for done in as_completed([pool.submit(_download_one, listing, file, folder, stop) for file in files]):
            done.result()
    finally:
        stop.set()  # after an error, or Ctrl-C, the others end with their next piece
        pool.shutdown(cancel_futures=True)


def _download_one(listing: Listing, file: File, folder: Path, stop: threading.Event) -> None:
    """One large file, by the client's own request and bar, from where its part file ends."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    part = _part(folder, file)
    if _size(part) > file.size:
        part.unlink()
    url = hf_hub_url(listing.name, file.path, repo_type=listing.kind, revision=listing.commit)
    with _Part(part, file.size, stop) as growing:
        http_get(
            url,
            growing,
            resume_size=_size(part),
            headers={**build_hf_headers(), "Accept-Encoding": "identity"},  # a compressed response cannot be resumed
            expected_size=file.size,
            displayed_filename=file.path,
        )
    (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
    part.replace(folder / file.path)


class _Part(FileIO):
    """A part file, unbuffered, so that a kill loses nothing that was written; it ends at `stop`, and at its size."""

    def __init__(self, path: Path, size: int, stop: threading.Event) -> None:
        super().__init__(path, "a")
        self.size, self.stop = size, stop

    def write(self, data: ReadableBuffer) -> int:
        if self.stop.is_set():
            raise OSError("stopped, because another file failed")
        view, done = memoryview(data), 0
        if self.tell() + len(view) > self.size:
            raise HubError(f"the hub sends more than the {self.size} bytes that it lists; do not trust it")
        while done < len(view):  # one system call may take only a part
            done += super().write(view[done:]) or 0
        return done


def _part(folder: Path, file: File) -> Path:
    """Named by content, so that a new commit's file never goes on from an old one's."""
    name = file.sha256 or file.git_sha1 or file.path
    return folder / _PARTS / f"{hashlib.sha256(f'{name} {file.path}'.encode()).hexdigest()[:32]}.part"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
