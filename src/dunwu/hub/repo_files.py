"""What a repository holds, as its hub lists it.

What it is: paths, sizes and hashes of a repository's files from either hub, which of the two kinds a name is, and
which files of a model nobody needs.
What it is not: a download.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from dunwu.hub.errors import in_words, is_about_absence, spoken
from dunwu.hub.sources import Kind, names_there, need_modelscope

__all__ = ["File", "Listing", "ask_hf", "list_hf", "list_modelscope", "needless"]

_SECONDS = 10.0
"""For the hub's answer to one question."""

_BLOCK = 1 << 20

_OTHER_WEIGHTS = (
    *("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.onnx_data", "*.gguf", "*.tflite"),
    *("onnx/*", "openvino/*", "coreml/*", "original/*", "consolidated*.safetensors"),
)
"""Weights in other forms, and second copies; needless where model*.safetensors exist."""


@dataclass(frozen=True)
class File:
    """One file of a repository."""

    path: str
    """With `/`, below the repository's root."""
    size: int
    """Bytes."""
    sha256: str | None
    """Of its content; None where the hub names only git's hash."""
    git_sha1: str | None
    """Git's name for the blob; None where sha256 is known, or the hub names no hash at all."""

    def __post_init__(self) -> None:
        path = PurePosixPath(self.path)
        if path.is_absolute() or ".." in path.parts or "\\" in self.path:
            raise ValueError(
                f"the hub lists a file {self.path!r}, which would lie outside of the folder; do not trust it"
            )

    def is_whole(self, folder: Path) -> bool:
        """Whether it lies below `folder` with the hub's size and hash."""
        path = folder / self.path
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        if self.sha256 is not None:
            return _hash(path, hashlib.sha256()) == self.sha256
        if self.git_sha1 is not None:
            return _hash(path, hashlib.sha1(b"blob %d\0" % self.size)) == self.git_sha1
        return True


@dataclass(frozen=True)
class Listing:
    """A repository as its hub lists it."""

    source: str
    """`hf` or `modelscope`."""
    kind: Kind
    name: str
    """Its name there."""
    commit: str
    """The commit; on ModelScope, which lists none, the branch or tag."""
    files: tuple[File, ...]


def ask_hf(name: str, kind: Kind, revision: str | None) -> Any:
    """What the Hugging Face hub says of a repository.

    Raises:
        Exception: huggingface_hub's own, for `in_words`.
    """
    from huggingface_hub import HfApi

    return HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=_SECONDS)


def list_hf(name: str, kind: Kind | None, revision: str | None) -> Listing:
    """A repository of the Hugging Face hub; without a kind, whichever of the two exists.

    Raises:
        ValueError: where there is both a model and a dataset of that name.
        Exception: huggingface_hub's own, for `in_words`.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    kind = kind or _only_kind(name, lambda each: ask_hf(name, each, None))
    commit = str(ask_hf(name, kind, revision).sha)
    tree = HfApi().list_repo_tree(name, recursive=True, revision=commit, repo_type=kind)
    files = [
        File(
            _safe(each.path),
            each.lfs.size if each.lfs else each.size,
            each.lfs.sha256 if each.lfs else None,
            None if each.lfs else each.blob_id,
        )
        for each in tree
        if isinstance(each, RepoFile)
    ]
    return Listing("hf", kind, name, commit, tuple(files))


def list_modelscope(name: str, kind: Kind | None, revision: str | None) -> Listing:
    """A repository of ModelScope, under this name or the one that it has there.

    Raises:
        ValueError: in words, where there is none, or none with this revision.
    """
    need_modelscope()
    with spoken(name):
        for each in names_there(name):
            try:
                return _list_modelscope(each, kind, None if each != name else revision)
            except Exception as error:
                if not is_about_absence(error) or each == names_there(name)[-1]:
                    raise
    raise AssertionError("names_there gives at least one name")


def _list_modelscope(name: str, kind: Kind | None, revision: str | None) -> Listing:
    from modelscope_hub import HubApi

    api = HubApi()
    kind = kind or _only_kind(name, lambda each: api.list_repo_files(name, each))
    try:
        entries = api.list_repo_files(name, kind, revision=revision)
    except Exception as error:
        if revision is not None and is_about_absence(error) and _exists(lambda: api.list_repo_files(name, kind)):
            raise ValueError(
                f"{name!r} has no revision {revision!r} on ModelScope, where the newest is called master; leave "
                "revision out, or give one that its page lists"
            ) from error
        raise
    files = [File(_safe(e.path), e.size, e.sha256 or None, None) for e in entries if not e.is_dir]
    return Listing("modelscope", kind, name, revision or "master", tuple(files))


def needless(listing: Listing) -> list[str]:
    """Files of a model that nothing here reads: other forms of weights that are there as model*.safetensors too."""
    paths = [file.path for file in listing.files]
    if listing.kind != "model" or not any(fnmatch(path, "model*.safetensors") for path in paths):
        return []
    return [path for path in paths if any(fnmatch(path, pattern) for pattern in _OTHER_WEIGHTS)]


def _only_kind(name: str, ask: Any) -> Kind:
    errors: list[Exception] = []
    found: list[Kind] = []
    kinds: tuple[Kind, ...] = ("model", "dataset")
    for each in kinds:
        try:
            ask(each)
            found.append(each)
        except Exception as error:
            if not is_about_absence(error):
                raise
            errors.append(error)
    if not found:
        raise errors[0]
    if len(found) == 2:
        raise ValueError(
            f"there is a model {name!r} and a dataset {name!r}; say which: --kind model or --kind dataset"
        )
    return found[0]


def _exists(ask: Any) -> bool:
    try:
        ask()
    except Exception as error:
        if in_words(error, "") is None:
            raise
        return False
    return True


def _safe(path: str) -> str:
    """The path, if it stays below the folder that it is downloaded to."""
    parts = PurePosixPath(path.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"the hub lists a file {path!r}, which would lie outside the folder; nothing was downloaded")
    return path


def _hash(path: Path, digest: Any) -> str:
    with path.open("rb") as content:
        while block := content.read(_BLOCK):
            digest.update(block)
    return str(digest.hexdigest())
