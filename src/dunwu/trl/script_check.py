"""What can be said of a script before a line of it runs: names that Dunwu lacks.

What it is: a look at the script's text, by `ast`; it takes milliseconds, where the script's own imports take seconds
and its models minutes.
What it is not: a linter; what is imported in roundabout ways is met when it is met.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from dunwu.trl.supported_names import HERE, MODULES, instead

__all__ = ["missing_names", "source_of"]

_IMAGES = re.compile(r"Vision|ImageTextToText|VLFor|VLModel|Llava|Idefics|PaliGemma|SmolVLM|Pixtral")
"""Classes of transformers that read images."""
_NO_IMAGES = "transformers.{} is for images, which are not in Dunwu: prompts are text or chat messages"


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
    """A sentence for each name that the script uses and Dunwu lacks (TRL's, and models of images), with its line.

    Raises:
        ValueError: for a script that is not Python.
    """
    try:
        tree = ast.parse(source, filename)
    except SyntaxError as error:
        raise ValueError(f"{filename}, line {error.lineno}: {error.msg}; mend the script first") from error
    tree = _Certain().visit(tree)
    said = [(line, instead(name)) for line, name in _used(tree) if not _is_here(name)]
    said += [(line, _NO_IMAGES.format(name)) for line, name in _made_for_images(tree)]
    first: dict[str, int] = {}
    for line, sentence in sorted(said):
        first.setdefault(sentence, line)
    return [f"{filename}, line {line}: {sentence}" for sentence, line in first.items()]


class _Certain(ast.NodeTransformer):
    """Leaves out what is tried: the script has thought of its failing."""

    def visit_Try(self, node: ast.Try) -> ast.Try:
        node.body = [ast.Pass()]
        self.generic_visit(node)
        return node


def _is_here(name: str) -> bool:
    return name in HERE or name in MODULES or name.startswith("__")


def _made_for_images(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module == "transformers":
            yield from ((node.lineno, alias.name) for alias in node.names if _IMAGES.search(alias.name))


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
