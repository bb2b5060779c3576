"""`fetch`: a whole model or dataset into a plain folder, checked.

What it is: the clients' downloads with a progress bar, which go on where they stopped; and a check of every hash.
What it is not: a cache; the folder is the user's, and is read like any other.

huggingface_hub keeps whole files across a kill and, in version 2.4, starts a half one anew. So small files are left
to it, and large ones go through its `http_get` into a part file that the next run goes on with.
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
from typing import Any

from dunwu._utils.logging import get_logger
from dunwu.hub.errors import in_words, is_about_absence, is_about_the_way, spoken, way_out
from dunwu.hub.lookup import modelscope_answers
from dunwu.hub.offline import is_offline, offline_if_unreachable
from dunwu.hub.repo_files import File, Listing, list_hf, list_modelscope, needless
from dunwu.hub.sources import Kind, chosen, has_modelscope, hf_endpoint, is_here, refuse_paths

__all__ = ["FetchReport", "fetch"]

_RESUMED = 16 << 20
"""Bytes from which a half file is worth going on with; below, it comes again."""
_ONE_REQUEST = 50 * 10**9
"""Bytes that the hub gives in one plain answer; a larger file is the client's own business."""
_AT_ONCE = 4
"""Large files at a time: one connection is often slower than the line."""
_SPARE = 64 << 20
"""Bytes to leave free on the disk."""
_PARTS = Path(".cache") / "dunwu"


@dataclass(frozen=True)
class FetchReport:
    """What `fetch` did."""

    name: str
    """The name on the hub that it came from."""
    kind: Kind
    folder: Path
    """Where it is."""
    source: str
    """`hf` or `modelscope`."""
    files: int
    """How many, those included that were there already."""
    bytes: int
    """Of these files."""
    commit: str
    """What the newest was at that moment; on ModelScope the branch."""
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
        ValueError: in words: no such name, no access, no room, a hub that is down, a file that stays wrong.
    """
    started = time.monotonic()
    folder = Path(to).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(to)!r} is a file; give a folder to download to")
    if is_here(name):
        raise ValueError(f"{name!r} is on this machine already; there is nothing to fetch, use it as it is")
    refuse_paths(name)
    listing = _listing(name, kind, source, revision)
    skipped = needless(listing)
    wanted = [file for file in listing.files if file.path not in set(skipped)]
    with _alone(folder), spoken(name):
        missing = [file for file in wanted if not file.is_whole(folder)]
        _check_room(folder, missing)
        _bring_and_check(listing, missing, folder)
    shutil.rmtree(folder / _PARTS, ignore_errors=True)
    with suppress(OSError):
        (folder / _PARTS.parent).rmdir()  # if nothing else is in it
    size = sum(file.size for file in wanted)
    seconds, reused = time.monotonic() - started, len(wanted) - len(missing)
    return FetchReport(
        listing.name, listing.kind, folder, listing.source, len(wanted), size, listing.commit, seconds, reused,
        tuple(skipped),
    )  # fmt: skip


def _listing(name: str, kind: Kind | None, source: str, revision: str | None) -> Listing:
    source = chosen(source)
    if source == "local":
        raise ValueError("source=local fetches nothing; choose auto, hf or modelscope")
    if source == "modelscope":
        return list_modelscope(name, kind, revision)
    words = offline_if_unreachable()
    elsewhere = True
    if words is None and is_offline():
        raise ValueError(f"HF_HUB_OFFLINE is set, so {name!r} cannot be fetched; unset it")
    if words is None:
        try:
            return list_hf(name, kind, revision)
        except Exception as error:
            words, elsewhere = in_words(error, name), is_about_the_way(error) or is_about_absence(error)
            if words is None:
                raise
    else:
        words = f"{hf_endpoint()} cannot be reached from here; {way_out(name)}"
    if source == "auto" and elsewhere and has_modelscope() and modelscope_answers(name, kind or "model", revision):
        get_logger().info("%s: trying ModelScope, because %s", name, words)
        return list_modelscope(name, kind, revision)
    raise ValueError(words)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While nobody else fetches into the folder."""
    from filelock import FileLock, Timeout

    (folder / _PARTS).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _PARTS / "lock", timeout=0):
            yield
    except Timeout as error:
        raise ValueError(f"another process is fetching into {str(folder)!r}; wait for it") from error


def _check_room(folder: Path, missing: Sequence[File]) -> None:
    needed = sum(file.size - _size(_part(folder, file)) for file in missing)
    free = shutil.disk_usage(folder).free
    if needed and needed + _SPARE > free:
        raise ValueError(
            f"{needed / 1e9:.2f} GB are still to come and {str(folder)!r} has {free / 1e9:.2f} GB free; free some "
            "room, or give another folder"
        )


def _bring_and_check(listing: Listing, missing: Sequence[File], folder: Path) -> None:
    _bring(listing, missing, folder)
    wrong = [file for file in missing if not file.is_whole(folder)]
    if wrong:
        named = ", ".join(file.path for file in wrong[:3])
        get_logger().warning("%s came with other bytes than the hub lists: downloading once more", named)
        _bring(listing, wrong, folder)
        wrong = [file for file in wrong if not file.is_whole(folder)]
    if wrong:
        for file in wrong:
            (folder / file.path).unlink(missing_ok=True)
        named = ", ".join(file.path for file in wrong[:3])
        raise ValueError(
            f"{named} of {listing.name!r} came twice with other bytes than the hub lists, and was removed; the "
            "connection or a mirror changes it: try another network, HF_ENDPOINT or --source"
        )


def _bring(listing: Listing, files: Sequence[File], folder: Path) -> None:
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
        _bring_others(listing, [file for file in files if file not in large], folder)
    _bring_large(listing, large, folder)


def _bring_others(listing: Listing, files: Sequence[File], folder: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(
        listing.name,
        repo_type=listing.kind,
        revision=listing.commit,
        local_dir=folder,
        allow_patterns=[glob.escape(file.path) for file in files],
    )


def _bring_large(listing: Listing, files: Sequence[File], folder: Path) -> None:
    stop = threading.Event()
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        for done in as_completed([pool.submit(_bring_one, listing, file, folder, stop) for file in files]):
            done.result()
    finally:
        stop.set()  # after an error, or Ctrl-C, the others end with their next piece
        pool.shutdown(cancel_futures=True)


def _bring_one(listing: Listing, file: File, folder: Path, stop: threading.Event) -> None:
    """One large file, by the client's own request and bar, from where its part file ends."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    part = _part(folder, file)
    if _size(part) > file.size:
        part.unlink()
    url = hf_hub_url(listing.name, file.path, repo_type=listing.kind, revision=listing.commit)
    with _Part(part, stop) as growing:
        http_get(
            url,
            growing,
            resume_size=_size(part),
            headers={**build_hf_headers(), "Accept-Encoding": "identity"},  # a packed answer cannot be gone on with
            expected_size=file.size,
            displayed_filename=file.path,
        )
    (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
    part.replace(folder / file.path)


class _Part(FileIO):
    """A part file, unbuffered, so that a kill loses nothing that was written; it ends when told to stop."""

    def __init__(self, path: Path, stop: threading.Event) -> None:
        super().__init__(path, "a")
        self.stop = stop

    def write(self, data: Any) -> int:
        if self.stop.is_set():
            raise OSError("stopped, because another file failed")
        view, done = memoryview(data), 0
        while done < len(view):  # one system call may take only a part
            done += super().write(view[done:]) or 0
        return done


def _part(folder: Path, file: File) -> Path:
    """Named by content, so that a new commit's file never goes on from an old one's."""
    name = file.sha256 or file.git_sha1 or file.path
    return folder / _PARTS / f"{hashlib.sha256(f'{name} {file.path}'.encode()).hexdigest()[:32]}.part"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
