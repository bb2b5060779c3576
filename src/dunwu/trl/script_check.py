"""Static checks of a script, before a line of it runs: names that Dunwu lacks, and the TRL it pins.

They take milliseconds, where the script's own imports take seconds and its models minutes.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from dunwu.errors import ConfigError
from dunwu.trl.supported_names import MODULES, SUPPORTED, alternative_to
from dunwu.trl.versioned_defaults import release_of

__all__ = ["missing_names", "pinned_version", "read_script"]

_IMAGES = re.compile(r"Vision|ImageTextToText|VLFor|VLModel|Llava|Idefics|PaliGemma|SmolVLM|Pixtral")
"""Classes of transformers that read images."""
_NO_IMAGES = "transformers.{} is for images, which Dunwu does not support: prompts are text or chat messages"
_PIN = re.compile(r"(?<![\w.-])trl(?:\[[^\]\n]*\])?\s*==\s*(\d+(?:\.\d+)+)")
_IMPORT_ERRORS = {"ImportError", "ModuleNotFoundError", "AttributeError", "Exception", "BaseException"}


def read_script(path: Path) -> str:
    """The Python text of a script, in the encoding that its first lines declare.

    Raises:
        ConfigError: for a file that is not there, a notebook, or no text.
    """
    if path.suffix == ".ipynb":
        raise ConfigError(
            f"{path} is a notebook: open it in Jupyter, put `import dunwu.compat` before its other lines, and run it"
        )
    if not path.is_file():
        raise ConfigError(f"there is no script {str(path)!r}; check the path")
    try:
        return importlib.util.decode_source(path.read_bytes())
    except (UnicodeDecodeError, SyntaxError) as error:
        raise ConfigError(f"{path} is not a Python script: {error}") from error


def pinned_version(source: str, path: Path) -> tuple[str, str] | None:
    """The TRL that a script pins (`trl==0.14.0` in its text or in a `requirements.txt` beside it), and in which file.

    None where nothing, or more than one version, is pinned, or one that Dunwu does not know.
    """
    requirements = path.with_name("requirements.txt")
    texts = [(source, path.name)]
    if requirements.is_file():
        texts.append((requirements.read_text(encoding="utf-8", errors="replace"), requirements.name))
    for text, name in texts:
        pins = {pin for pin in _PIN.findall(text) if _is_known(pin)}
        if len(pins) == 1:
            return pins.pop(), name
    return None


def _is_known(version: str) -> bool:
    try:
        release_of(version)
    except ConfigError:
        return False
    return True


def missing_names(source: str, filename: str) -> list[str]:
    """A sentence with its line for each name that the script is certain to use and that Dunwu lacks.

    Names of TRL, and transformers' classes for images. Code that may not run, or that handles the failure, is left
    out: branches, tried imports, functions that nothing calls. It gets the same sentence when it runs.

    Raises:
        ConfigError: for a script that is not Python.
    """
    try:
        tree = ast.parse(source, filename)
    except SyntaxError as error:
        raise ConfigError(f"{filename}, line {error.lineno}: {error.msg}; fix the script first") from error
    nodes = _CertainCode(tree).nodes
    found = [(line, alternative_to(name)) for line, name in _used(nodes) if not _is_supported(name)]
    found += [(line, _NO_IMAGES.format(name)) for line, name in _for_images(nodes)]
    first: dict[str, int] = {}
    for line, sentence in sorted(found):
        first.setdefault(sentence, line)
    return [f"{filename}, line {line}: {sentence}" for sentence, line in first.items()]


class _CertainCode(ast.NodeVisitor):
    """Collects the nodes that run whenever the script does: the module's own and those of functions it calls."""

    def __init__(self, tree: ast.Module) -> None:
        self.nodes: list[ast.AST] = []
        self._waiting: dict[str, list[ast.stmt]] = {}
        self._called: set[str] = set()
        self.visit(tree)
        while ready := self._called & self._waiting.keys():
            for name in ready:
                self._visit_all(self._waiting.pop(name))

    def visit(self, node: ast.AST) -> None:
        self.nodes.append(node)
        super().visit(node)

    def _visit_all(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name):
            self._called.add(node.func.id)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._waiting[node.name] = node.body
        self._visit_all([*node.decorator_list, *node.args.defaults])

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_all([*node.decorator_list, *node.bases])
        self._visit_all(part for part in node.body if not isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef))

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """Its body may never run."""

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        if _is_main(node.test):
            self._visit_all(node.body)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit(node.test)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.visit(node.values[0])

    def visit_Match(self, node: ast.Match) -> None:
        self.visit(node.subject)

    def visit_Try(self, node: ast.Try) -> None:
        if not any(_catches_import_errors(handler) for handler in node.handlers):
            self._visit_all(node.body)
        self._visit_all(node.finalbody)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Annotations may be text, and are never needed to run."""
        if node.value is not None:
            self.visit(node.value)


def _is_main(test: ast.expr) -> bool:
    """`if __name__ == "__main__"` or `if True`."""
    if isinstance(test, ast.Constant):
        return bool(test.value)
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"


def _catches_import_errors(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or (isinstance(kind, ast.Name) and kind.id in _IMPORT_ERRORS) for kind in caught)


def _is_supported(name: str) -> bool:
    return name in SUPPORTED or name in MODULES or name.startswith("__")


def _for_images(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and not node.level and node.module == "transformers":
            yield from ((node.lineno, alias.name) for alias in node.names if _IMAGES.search(alias.name))


def _used(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    names = {"trl"}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "trl" and alias.asname:
                    names.add(alias.asname)
                if alias.name.startswith("trl."):
                    yield node.lineno, alias.name.removeprefix("trl.")
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield from _imported(node, node.module)
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            yield node.lineno, node.attr


def _imported(node: ast.ImportFrom, module: str) -> Iterator[tuple[int, str]]:
    if module == "trl" or (module.startswith("trl.") and module.removeprefix("trl.") in MODULES):
        yield from ((node.lineno, alias.name) for alias in node.names if alias.name != "*")
    elif module.startswith("trl."):
        yield node.lineno, module.removeprefix("trl.")
