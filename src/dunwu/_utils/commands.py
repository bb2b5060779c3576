"""Commands as this user must type them: Dunwu is often in a virtual environment that is not on the path."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

__all__ = ["dunwu_command", "hf_command", "install_command"]


def dunwu_command(*words: object) -> str:
    """`dunwu` and `words` as a line that works in this user's shell and folder.

    Where `dunwu` on the path is this one, that is its name; else it is the script beside this Python
    (`.venv/bin/dunwu`), or this Python with `-m dunwu`.

    Example: `dunwu_command("chat", "runs/my model").endswith("chat 'runs/my model'")` is `True`.
    """
    return _line(_script("dunwu") or f"{_python()} -m dunwu", words)


def hf_command(*words: object) -> str:
    """The same for `hf`, the Hugging Face hub's own command.

    Example: `hf_command("auth", "login").endswith("hf auth login")` is `True`.
    """
    return _line(_script("hf") or "hf", words)


def install_command(extra: str = "", *, package: str = "") -> str:
    """The command that installs one of Dunwu's extras, or another package, where this Dunwu runs.

    From a checkout it installs the checkout, which may not be on any index.

    Example: `install_command(package="bitsandbytes").endswith("-m pip install bitsandbytes")` is `True`.
    """
    if package:
        return f"{_python()} -m pip install {package}"
    checkout = _checkout()
    if checkout is None:
        return f"{_python()} -m pip install 'dunwu[{extra}]'"
    constraints = checkout / "constraints.txt"
    held = f"-c {_shown(constraints)} " if constraints.is_file() else ""
    return f"{_python()} -m pip install {held}-e {shlex.quote(f'{_relative(checkout)}[{extra}]')}"


def _line(program: str, words: Sequence[object]) -> str:
    return " ".join([program, *(shlex.quote(str(word)) for word in words)])


def _script(name: str) -> str | None:
    """A script of this Python's environment, by its name where that finds it; None where there is no such script."""
    beside = Path(sys.executable).parent / (f"{name}.exe" if os.name == "nt" else name)
    on_path = shutil.which(name)
    if on_path is not None and (not beside.is_file() or os.path.samefile(on_path, beside)):
        return name
    return _shown(beside) if beside.is_file() else None


def _python() -> str:
    """This Python, by its name where that finds it."""
    on_path = shutil.which("python")
    # Not `samefile`: the `python` of a virtual environment is a link to the one it was made from.
    return "python" if on_path is not None and on_path == sys.executable else _shown(Path(sys.executable))


def _shown(path: Path) -> str:
    return shlex.quote(_relative(path))


def _relative(path: Path) -> str:
    """Relative to the current folder where the path is in it; else whole."""
    try:
        inside = path.relative_to(Path.cwd())
    except (ValueError, OSError):  # elsewhere; or the current folder is gone
        return str(path)
    return str(inside)


def _checkout() -> Path | None:
    """The folder that this Dunwu was installed from; None where it came from a package index."""
    try:
        origin = importlib.metadata.distribution("dunwu").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        origin = None
    if origin is None:
        folder = Path(__file__).resolve().parents[3]  # run from a source tree that nothing installed
    else:
        folder = Path(url2pathname(urlsplit(json.loads(origin)["url"]).path))
    return folder if (folder / "pyproject.toml").is_file() else None
