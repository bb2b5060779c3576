"""The clients' caches on the disk: the folder of a cached repository, and the names of all cached ones.

A cache has the files that were asked for, which need not be all.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

__all__ = ["cached_names", "has_weights", "hf_snapshot", "is_prepared", "modelscope_snapshot"]


def hf_snapshot(name: str, kind: str, revision: str | None) -> Path | None:
    """The folder of a repository in huggingface_hub's cache."""
    repository = _hf_cache() / f"{kind}s--{name.replace('/', '--')}"
    reference = repository / "refs" / (revision or "main")
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision or ""
    folder = repository / "snapshots" / commit
    return folder if commit and _has_files(folder) else None


def has_weights(folder: Path) -> bool:
    """Whether all weights are in a model's folder: an interrupted download leaves a part."""
    for index in folder.glob("*.index.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        if not all((folder / shard).is_file() for shard in shards):
            return False
    return any(path.is_file() for end in ("safetensors", "bin") for path in folder.glob(f"*.{end}"))


def is_prepared(name: str) -> bool:
    """Whether `datasets` has made its tables of this dataset before; then it needs no network for them."""
    default = Path(os.environ.get("HF_DATASETS_CACHE") or _hf_home() / "datasets")
    cache = Path(getattr(sys.modules.get("datasets.config"), "HF_DATASETS_CACHE", default))
    return _has_files(cache / name.replace("/", "___"))


def modelscope_snapshot(name: str, kind: str, revision: str | None) -> Path | None:
    """The folder of a repository in modelscope's cache, in its present layout or the one before version 1.38."""
    base = _modelscope_cache()
    snapshots = base / f"{kind}s" / name.replace("/", "--") / "snapshots"
    wanted = [revision] if revision else ["master", "main"]
    organisation, _, short = name.partition("/")
    old = Path(f"{kind}s") / organisation / short.replace(".", "___")
    places = [*(snapshots / each for each in wanted), *([] if revision else [base / old, base / "hub" / old])]
    return next((place for place in places if _has_files(place)), None)


def cached_names() -> set[str]:
    """Names of everything in both caches."""
    found = {entry.name.split("--", 1)[1] for entry in _entries(_hf_cache()) if "--" in entry.name}
    for kind in ("models", "datasets"):
        found |= {entry.name for entry in _entries(_modelscope_cache() / kind) if "--" in entry.name}
    return {name.replace("--", "/", 1) for name in found}


def _hf_home() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or Path(cache) / "huggingface").expanduser()


def _hf_cache() -> Path:
    imported = getattr(sys.modules.get("huggingface_hub.constants"), "HF_HUB_CACHE", None)
    given = imported or os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(given or _hf_home() / "hub").expanduser()


def _modelscope_cache() -> Path:
    return Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _has_files(folder: Path) -> bool:
    return any(not entry.name.startswith(".") for entry in _entries(folder))
