"""The house stands: who may import whom, what is public, and how large things are."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import dunwu

SOURCE = Path(dunwu.__file__).parent

FLOORS = {
    "errors": 0,
    "_utils": 1,
    "core": 2,
    "hub": 2,
    "model": 3,
    "rewards": 3,
    "observers": 3,
    "trackers": 3,
    "config": 4,
    "engines": 4,
    "tasks": 4,
    "reports": 4,
    "rollout": 5,
    "embedded": 5,
    "training": 6,
    "recipes": 7,
    "trl": 7,
    "compat": 8,
    "cli": 9,
    "run": 10,
}
"""A room to its floor: it imports rooms of lower floors only."""
NARROWER = {"training": {"_utils", "errors", "core", "config", "model", "rollout"}}
"""Rooms that may import less than all that is below them: the trainer knows no engine, no reward, no tracker."""


def rooms_imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "dunwu":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("dunwu.")}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path} imports relatively"
    return found


def files_of(room: str) -> list[Path]:
    folder = SOURCE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [SOURCE / f"{room}.py"]


@pytest.mark.parametrize("room", sorted(FLOORS))
def test_a_room_imports_lower_floors_only(room: str) -> None:
    allowed = {other for other, floor in FLOORS.items() if floor < FLOORS[room]}
    allowed = NARROWER.get(room, allowed) | {room}
    for path in files_of(room):
        assert rooms_imported(path) <= allowed, f"{path.relative_to(SOURCE)} breaks the import law"


def test_every_room_has_its_floor() -> None:
    rooms = {info.name for info in pkgutil.iter_modules([str(SOURCE)])} - {"__main__"}
    assert rooms == {*FLOORS}


def test_at_most_five_files_lie_loose() -> None:
    assert len(list(SOURCE.glob("*.py"))) <= 5


def modules() -> list[str]:
    return sorted(
        ".".join(("dunwu", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        for path in SOURCE.rglob("*.py")
    )


SWITCHES = {name for name in modules() if name.split(".")[1:2] == ["compat"]}
"""Modules whose import changes the process they are imported in: looked at in one of their own elsewhere."""


@pytest.mark.parametrize("name", [name for name in modules() if name not in SWITCHES])
def test_a_module_has_a_docstring_and_lists_its_public_names(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    for public in module.__all__:
        assert hasattr(module, public), f"{name}.__all__ names {public}, which is not there"
    for public in module.__all__:
        thing = getattr(module, public)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert getattr(thing, "__doc__", None), f"{name}.{public} has no docstring"


def test_the_names_that_type_checkers_see_are_those_that_are_loaded() -> None:
    """The lazy table and the imports for type checkers are two lists of one thing."""
    found = {}
    for node in ast.walk(ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dunwu."):
            found |= {alias.name: node.module.removeprefix("dunwu.") for alias in node.names}
    assert found == dunwu._HOME


def test_the_package_exports_exactly_its_public_names() -> None:
    assert set(dir(dunwu)) == set(dunwu.__all__)
    for name in dunwu.__all__:
        assert getattr(dunwu, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'GRPOTrainerr'"):
        _ = dunwu.GRPOTrainerr


def test_importing_the_package_and_its_command_line_loads_neither_torch_nor_transformers() -> None:
    """`dunwu --help` must answer in under half a second, and torch alone takes longer.

    Only the help of the commands that list every option of a recipe needs both, for transformers has most of them.
    """
    code = (
        "import sys, dunwu, dunwu.cli\n"
        "for words in (['--help'], ['--version'], ['chat', '--help'], ['traim']):\n"
        "    try:\n        dunwu.cli.main(words)\n"
        "    except SystemExit:\n        pass\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_function_and_no_file_outgrows_the_house() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, f"{path.name} has {len(text.splitlines())} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                assert lines <= 40, f"{path.name}: {node.name} has {lines} lines"
