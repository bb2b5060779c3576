"""Compiles `cpu_kernel.c` once a machine and keeps the library in a folder that only this user can write to."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import getpass
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dunwu._utils.logging import get_logger

__all__ = ["load_library"]

_SOURCE: Final = Path(__file__).with_name("cpu_kernel.c")
_FLAGS: Final = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
_COMPILERS: Final = ("cc", "gcc", "clang")


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """The compiled steps; None without a compiler that works (logged once), or where DUNWU_NATIVE=0."""
    if os.environ.get("DUNWU_NATIVE") == "0":
        return None
    compilers = [found for name in _COMPILERS if (found := shutil.which(name))]
    reasons = [] if compilers else [f"there is no C compiler ({', '.join(_COMPILERS)}): install one"]
    for compiler in compilers:
        try:
            return _typed(ctypes.CDLL(str(_compiled(compiler))))
        except (OSError, subprocess.SubprocessError) as error:
            reasons.append(str(error).splitlines()[0])
    get_logger().once(
        "compiled decoding steps are off, so rollouts on this CPU take about three times as long: "
        f"{'; '.join(reasons)}"
    )
    return None


def _typed(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.dunwu_step.argtypes = [pointer, number, pointer, pointer, pointer, pointer, pointer, number]
    library.dunwu_step.restype = None
    library.dunwu_work.argtypes = [pointer]
    library.dunwu_work.restype = number
    return library


def _compiled(compiler: str) -> Path:
    """The shared library for this source, compiler and processor, made if it is not there."""
    parts = [_SOURCE.read_text(encoding="utf-8"), compiler, *_FLAGS, _processor()]
    name = f"cpu-kernel-{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:16]}.so"
    for folder in _folders():
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not _is_private(folder, stat.S_IFDIR):
                continue
            if not _is_private(folder / name, stat.S_IFREG):
                _make(compiler, folder / name)
            return folder / name
    raise OSError("there is no folder that only this user can write to; set XDG_CACHE_HOME to one")


def _make(compiler: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / target.name
        _compile(compiler, made)
        made.chmod(0o700)
        os.replace(made, target)  # whole or not at all: other processes may be looking


def _compile(compiler: str, target: Path) -> None:
    command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(target), "-lm"]
    for threads in (["-fopenmp"], []):  # Apple's compiler has no OpenMP: one thread then
        done = subprocess.run([*command, *threads], capture_output=True, text=True, check=False, timeout=120)
        if done.returncode == 0:
            return
    raise subprocess.SubprocessError(f"{compiler} failed: {done.stderr.strip()[:200]}")


def _folders() -> Iterator[Path]:
    """Where the library may be stored: the user's cache folder, else one of the user's own among temporary ones."""
    cache = os.environ.get("XDG_CACHE_HOME")
    with contextlib.suppress(RuntimeError):  # a user id without a name and without HOME, as in some containers
        yield (Path(cache) if cache else Path.home() / ".cache") / "dunwu"
    yield Path(tempfile.gettempdir()) / f"dunwu-{_user()}"


def _user() -> str:
    if hasattr(os, "getuid"):
        return str(os.getuid())
    return getpass.getuser()


def _is_private(path: Path, kind: int) -> bool:
    """Whether this user made `path` and nobody else can write to it; a link is looked at, not what it leads to.

    What is here is loaded as code: in a folder for everyone, another user may have put it there first.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    ours = not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o022)
    return ours and stat.S_IFMT(found.st_mode) == kind


def _processor() -> str:
    """What `-march=native` depends on: a home folder may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    relevant = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(relevant)}))
