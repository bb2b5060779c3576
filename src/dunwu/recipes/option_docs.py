"""Every option of a recipe with its type, its default and a sentence: what `dunwu options` prints."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from enum import Enum
from typing import get_type_hints

from dunwu._utils.language import translated
from dunwu._utils.suggest import did_you_mean
from dunwu._utils.terminal_text import wrap
from dunwu._utils.value_types import describe_type
from dunwu.errors import ConfigError

__all__ = ["GROUPS", "OptionDoc", "group_options", "option_lines"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionDoc:
    """One option.

    Example: `OptionDoc(name="rows", kind="a whole number", default="500", help="How many rows.")`
    """

    name: str
    """As it is written, without its section."""
    kind: str
    """Its type in words."""
    default: str
    """Its default; empty where it must be given."""
    help: str
    """What it does."""


def group_options(group: str) -> list[OptionDoc]:
    """The options of a section of a recipe.

    Args:
        group: a name of `GROUPS`, or `task.NAME`.

    Raises:
        ConfigError: for an unknown one, with the nearest known.
    """
    from dunwu.tasks import TASKS

    known = [*GROUPS, *(f"task.{name}" for name in TASKS)]
    if group.startswith("task.") and group in known:
        return _fields(_class(TASKS[group.removeprefix("task.")]))
    if group not in GROUPS:
        raise ConfigError(f"there is no group of options {group!r}{did_you_mean(group, known)}")
    return GROUPS[group][1]()


def option_lines(group: str, *, width: int = 80) -> list[str]:
    """A group's options as they are given on the command line, each with its default and a sentence."""
    prefix = "" if group == "recipe" else f"{group.partition('.')[0]}."
    lines = []
    for option in group_options(group):
        default = translated(f"default {option.default}" if option.default else "must be given")
        lines.append(f"  --{prefix}{option.name}  ({translated(option.kind)}; {default})")
        lines += textwrap.indent(wrap(translated(option.help), width - 6, indent=""), " " * 6).splitlines()
    return lines


def _fields(kind: type, *, without: type | None = None) -> list[OptionDoc]:
    """The fields of a dataclass that can be given, those of `without` left out."""
    hints, sentences = get_type_hints(kind), _sentences(kind)
    left_out = {field.name for field in dataclasses.fields(without)} if without is not None else set[str]()
    return [
        OptionDoc(
            name=field.name,
            kind=describe_type(hints[field.name]),
            default=_default(field),
            help=" ".join(str(field.metadata.get("help") or sentences.get(field.name, "")).split()),
        )
        for field in dataclasses.fields(kind)
        if field.init and field.name not in left_out and not field.name.startswith("_")
    ]


def _default(field: dataclasses.Field[object]) -> str:
    value = field.default
    if value is MISSING:
        value = field.default_factory() if field.default_factory is not MISSING else MISSING
    if value is MISSING:
        return ""
    if isinstance(value, Enum):
        value = value.value
    return {"True": "true", "False": "false", "None": "null", "()": "[]"}.get(str(value), str(value) or "''")


def _sentences(kind: type) -> dict[str, str]:
    """The text under each field of a dataclass, which Python itself does not keep."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if dataclasses.is_dataclass(owner):
            found |= _under_fields(owner)
    return found


def _under_fields(kind: type) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except (OSError, TypeError, SyntaxError):  # made at run time, or installed without its source
        return {}
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _class(found: object) -> type:
    assert isinstance(found, type), "built-in tasks are classes"
    return found


def _recipe() -> list[OptionDoc]:
    from dunwu.recipes.recipe import Recipe

    return [option for option in _fields(Recipe) if option.name not in ("train", "evaluate", "lora", "task")]


def _train() -> list[OptionDoc]:
    from transformers import TrainingArguments

    from dunwu.config import GRPOConfig

    own = {field.name for field in dataclasses.fields(GRPOConfig)} & set(GRPOConfig.__annotations__)
    everything = _fields(GRPOConfig)
    theirs = {field.name for field in dataclasses.fields(TrainingArguments)} - own
    return [option for option in everything if option.name not in theirs] + [
        option for option in everything if option.name in theirs
    ]


def _evaluate() -> list[OptionDoc]:
    from dunwu.recipes.recipe import EvaluateSection

    return _fields(EvaluateSection)


def _lora() -> list[OptionDoc]:
    from dunwu.model.loading import require_peft

    require_peft("lora")
    from peft import LoraConfig

    return _fields(LoraConfig)


def _tasks() -> list[OptionDoc]:
    from dunwu.tasks import TASKS

    names = ", ".join(TASKS)
    help = f"Which task: {names}, or package.module:Class. `dunwu options task.NAME` lists a task's own options."
    return [OptionDoc(name="name", kind="text", default="", help=help)]


GROUPS: Mapping[str, tuple[str, Callable[[], list[OptionDoc]]]] = {
    "recipe": ("the sections of a recipe that are single values", _recipe),
    "task": ("which task; task.countdown, task.gsm8k, task.tldr, task.own: a task's own options", _tasks),
    "train": ("how it is trained: GRPO's options first, then those of transformers", _train),
    "evaluate": ("the held-out evaluation before and after", _evaluate),
    "lora": ("an adapter instead of all weights (options of peft.LoraConfig)", _lora),
}
"""Group to what it is about, and its options."""
