"""The files of a repository, as its hub lists them: paths, sizes and hashes.

Also which of the two kinds a name is, and which files of a model are other copies of the same weights.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from dunwu.errors import HubError
from dunwu.hub.errors import explain_error, explained_errors, is_not_found
from dunwu.hub.sources import Kind, hf_endpoint, modelscope_names, require_modelscope

if TYPE_CHECKING:
    from hashlib import _Hash

    from huggingface_hub.hf_api import DatasetInfo, KernelInfo, ModelInfo, SpaceInfo

__all__ = ["File", "Listing", "list_hf", "list_modelscope", "redundant_weights", "repo_info"]

_SECONDS = 10.0
"""For the hub's answer to one question."""

_BLOCK = 1 << 20

_OTHER_WEIGHTS = (
    *("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.onnx_data", "*.gguf", "*.tflite"),
    *("onnx/*", "openvino/*", "coreml/*", "original/*", "consolidated*.safetensors"),
)
"""Weights in other forms, and second copies; redundant where model*.safetensors exist."""


@dataclass(frozen=True)
class File:
    """One file of a repository.

    Example: `File(path="README.md", size=6, sha256=None, git_sha1="ce013625030ba8dba906f756967f9e9ca394464a")`
    """

    path: str
    """With `/`, below the repository's root."""
    size: int
    """Bytes."""
    sha256: str | None
    """Of its content; None where the hub names only git's hash."""
    git_sha1: str | None
    """Git's name for the blob; None where sha256 is known, or the hub names no hash at all."""

    def __post_init__(self) -> None:
        path = PurePosixPath(self.path.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or not path.parts or re.match("[A-Za-z]:", self.path):
            raise HubError(
                f"the hub lists a file {self.path!r}, which would lie outside the folder; nothing was downloaded"
            )
        if path.parts[0].lower() == ".git":
            raise HubError(f"the hub lists a file {self.path!r}, which git would act on; nothing was downloaded")
        if not isinstance(self.size, int) or self.size < 0:
            raise HubError(f"the hub lists {self.path!r} with {self.size!r} for its size; nothing was downloaded")

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
    """A repository as its hub lists it.

    Example: `Listing(source="modelscope", kind="model", name="Qwen/Qwen3-0.6B", commit="master",
    files=(File(path="config.json", size=726, sha256=None, git_sha1=None),))`
    """

    source: str
    """`hf` or `modelscope`."""
    kind: Kind
    name: str
    """Its name there."""
    commit: str
    """The commit; on ModelScope, which lists none, the branch or tag."""
    files: tuple[File, ...]


def repo_info(name: str, kind: Kind, revision: str | None) -> ModelInfo | DatasetInfo | SpaceInfo | KernelInfo:
    """What the Hugging Face hub lists for a repository.

    Raises:
        HubError: for a commit that cannot be one: clients make file names of it.
        Exception: huggingface_hub's own, for `explain_error`.
    """
    from huggingface_hub import HfApi

    info = HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=_SECONDS)
    if not re.fullmatch(r"[0-9a-f]{40}", str(info.sha)):
        raise HubError(
            f"{hf_endpoint()} gives {info.sha!r} for the commit of {name!r}, which is not a hash; do not trust this "
            "hub"
        )
    return info


def list_hf(name: str, kind: Kind | None, revision: str | None) -> Listing:
    """A repository of the Hugging Face hub; without a kind, whichever of the two exists.

    Raises:
        HubError: where there is both a model and a dataset of that name.
        Exception: huggingface_hub's own, for `explain_error`.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    kind = kind or _only_kind(name, lambda each: repo_info(name, each, None))
    commit = str(repo_info(name, kind, revision).sha)
    tree = HfApi().list_repo_tree(name, recursive=True, revision=commit, repo_type=kind)
    files = [
        File(
            each.path,
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
        HubError: where there is none, or none with this revision.
    """
    require_modelscope()
    with explained_errors(name):
        for each in modelscope_names(name):
            try:
                return _list_modelscope(each, kind, None if each != name else revision)
            except Exception as error:
                if not is_not_found(error) or each == modelscope_names(name)[-1]:
                    raise
    raise AssertionError("modelscope_names gives at least one name")


def _list_modelscope(name: str, kind: Kind | None, revision: str | None) -> Listing:
    from modelscope_hub import HubApi

    api = HubApi()
    kind = kind or _only_kind(name, lambda each: api.list_repo_files(name, each))
    try:
        entries = api.list_repo_files(name, kind, revision=revision)
    except Exception as error:
        if revision is not None and is_not_found(error) and _exists(lambda: api.list_repo_files(name, kind)):
            raise HubError(
                f"{name!r} has no revision {revision!r} on ModelScope, where the newest is called master; leave "
                "revision out, or give one that its page lists"
            ) from error
        raise
    files = [File(e.path, e.size, e.sha256 or None, None) for e in entries if not e.is_dir]
    return Listing("modelscope", kind, name, revision or "master", tuple(files))


def redundant_weights(listing: Listing) -> list[str]:
    """Files of a model that nothing here reads: other forms of weights that are there as model*.safetensors too."""
    paths = [file.path for file in listing.files]
    if listing.kind != "model" or not any(fnmatch(path, "model*.safetensors") for path in paths):
        return []
    return [path for path in paths if any(fnmatch(path, pattern) for pattern in _OTHER_WEIGHTS)]


def _only_kind(name: str, ask: Callable[[Kind], object]) -> Kind:
    errors: list[Exception] = []
    found: list[Kind] = []
    kinds: tuple[Kind, ...] = ("model", "dataset")
    for each in kinds:
        try:
            ask(each)
            found.append(each)
        except Exception as error:
            if not is_not_found(error):
                raise
            errors.append(error)
    if not found:
        raise errors[0]
    if len(found) == 2:
        raise HubError(
            f"there is a model {name!r} and a dataset {name!r}; choose one: --kind model or --kind dataset"
        )
    return found[0]


def _exists(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except Exception as error:
        if explain_error(error, "") is None:
            raise
        return False
    return True


def _hash(path: Path, digest: _Hash) -> str:
    with path.open("rb") as content:
        while block := content.read(_BLOCK):
            digest.update(block)
    return str(digest.hexdigest())
