"""`run.json`: with what and where a run was made, and each of its starts."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from dunwu.errors import CheckpointError

__all__ = ["FORMAT", "Outcome", "RunRecord", "Session", "new_record", "now", "read_record", "write_record"]

FORMAT = 1
_FILE = "run.json"
_PACKAGES = ("torch", "transformers", "accelerate", "peft")

Outcome: TypeAlias = Literal["running", "finished", "interrupted", "failed"]
"""How a start of a run ended; `running` also where a kill left no time to write anything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One start of a run.

    Example: `Session(started="2026-11-21T18:00:00+00:00", to_step=120, seconds=61.5, ended="interrupted")`
    """

    started: str
    """When, in ISO 8601."""
    from_step: int = 0
    """Steps that were finished before it."""
    to_step: int = 0
    """Steps that were finished after it."""
    seconds: float = 0.0
    """Wall time of training up to its end, earlier starts included."""
    ended: Outcome = "running"
    """How it ended."""
    error: str = ""
    """The error that ended it."""
    changed: Mapping[str, tuple[object, object]] = field(default_factory=dict)
    """Options of the recipe that this start changed: then and now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What `run.json` holds.

    Example: `RunRecord(versions={"dunwu": "0.1.0"}, machine="x86_64, 2 cores", commit="4fd52a1")`
    """

    versions: Mapping[str, str]
    """Package to version."""
    machine: str
    """Processor, cores, GPUs."""
    commit: str = ""
    """Of the source tree that Dunwu runs from; empty where it is an installed package."""
    processes: int = 1
    """Processes of the latest start."""
    sessions: tuple[Session, ...] = ()
    """Each start of the run, the latest last."""
    format: int = FORMAT
    """Of the folder's files."""

    @property
    def outcome(self) -> Outcome:
        """How the latest start ended."""
        return self.sessions[-1].ended if self.sessions else "running"

    def with_last(self, **changes: Any) -> RunRecord:
        """The same with the latest session changed."""
        *earlier, last = self.sessions
        return dataclasses.replace(self, sessions=(*earlier, dataclasses.replace(last, **changes)))

    def with_new(self, session: Session) -> RunRecord:
        """The same with one more session."""
        return dataclasses.replace(self, sessions=(*self.sessions, session))


def new_record(*, processes: int = 1) -> RunRecord:
    """The record of a run that begins here and now."""
    packages = {name: _version(name) for name in _PACKAGES}
    versions = {"dunwu": _version("dunwu"), "python": platform.python_version(), **packages}
    return RunRecord(
        versions={name: found for name, found in versions.items() if found},
        machine=_machine(),
        commit=_commit(),
        processes=processes,
    )


def now() -> str:
    """This moment in ISO 8601, to the second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_record(folder: Path) -> RunRecord | None:
    """The record in a run's folder; None for a run of before it was written.

    Raises:
        CheckpointError: for one that cannot be read, or that a later version wrote.
    """
    path = folder / _FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        written = int(content["format"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); delete it, and the run is read without it"
        ) from error
    if written > FORMAT:
        version = content.get("versions", {}).get("dunwu", "a later version")
        raise CheckpointError(
            f"{folder} was written by Dunwu {version} in format {written}, and this version reads up to {FORMAT}; "
            "read it with the version that wrote it"
        )
    sessions = tuple(Session(**_known(Session, session)) for session in content.pop("sessions", ()))
    return RunRecord(**_known(RunRecord, content), sessions=sessions)


def write_record(folder: Path, record: RunRecord) -> None:
    """Write the record; a kill leaves the earlier one."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"{_FILE}.tmp"
    beside.write_text(json.dumps(dataclasses.asdict(record), indent=2, default=str) + "\n", encoding="utf-8")
    os.replace(beside, folder / _FILE)


def _known(kind: type, content: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in content.items() if name in names}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _machine() -> str:
    parts = [platform.machine(), f"{os.cpu_count()} cores"]
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        count = torch.cuda.device_count()
        parts.append(f"{count} × {torch.cuda.get_device_name(0)}")
    return ", ".join(parts)


def _commit() -> str:
    """The commit of the source tree, with `+` where it has changes; empty outside of one."""
    tree = Path(__file__).resolve().parents[3]
    if not (tree / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(tree), "describe", "--always", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
