"""What can be said of a script before a line of it runs: names of TRL that Dunwu lacks.

What it is: a look at the script's text, by `ast`; it takes milliseconds, where the script's own imports take seconds
and its models minutes.
What it is not: a linter; what is imported in roundabout ways is met when it is met.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from dunwu.trl.names import HERE, MODULES, instead

__all__ = ["missing_names", "source_of"]


def source_of(path: Path) -> str:
    """The Python text of a script.

    Raises:
        ValueError: for a file that is not there, a notebook, or no text.
    """
    if path.suffix == ".ipynb":
        raise ValueError(
            f"{path} is a notebook: open it in Jupyter, put `import dunwu.compat` before its other lines, and run it"
        )
    if not path.is_file():
        raise ValueError(f"there is no script {str(path)!r}; check the path")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no Python script: {error}") from error


def missing_names(source: str, filename: str) -> list[str]:
    """A sentence for each name of TRL that the script uses and Dunwu lacks, with its line.

    Raises:
        ValueError: for a script that is not Python.
    """
    try:
        tree = ast.parse(source, filename)
    except SyntaxError as error:
        raise ValueError(f"{filename}, line {error.lineno}: {error.msg}; mend the script first") from error
    found = {name: line for line, name in reversed(list(_used(tree)))}
    missing = {
        name: line for name, line in found.items() if not (name in HERE or name in MODULES or name[:2] == "__")
    }
    ordered = sorted(missing.items(), key=lambda item: item[1])
    return [f"{filename}, line {line}: {instead(name)}" for name, line in ordered]


def _used(tree: ast.Module) -> Iterator[tuple[int, str]]:
    names = {"trl"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "trl" and alias.asname:
                    names.add(alias.asname)
                if alias.name.startswith("trl."):
                    yield node.lineno, alias.name.removeprefix("trl.")
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield from _imported(node, node.module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            yield node.lineno, node.attr


def _imported(node: ast.ImportFrom, module: str) -> Iterator[tuple[int, str]]:
    if module == "trl" or (module.startswith("trl.") and module.removeprefix("trl.") in MODULES):
        yield from ((node.lineno, alias.name) for alias in node.names if alias.name != "*")
    elif module.startswith("trl."):
        yield node.lineno, module.removeprefix("trl.")
