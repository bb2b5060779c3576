"""Keys: refused where they would be saved or shared, found in a script's text, and never repeated.

What it is: names and shapes that keys have, and sentences that say where a key belongs instead.
What it is not: a place that keeps keys. No function here returns or prints a key's value.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["redact", "reject_secrets", "warn_of_secrets_in"]

_NAME = re.compile(
    r"(^|_)(api|access|secret|auth|private|wandb|swanlab|hf|hub|comet|mlflow)_?keys?$"
    r"|(^|_)(secret|password|passwd|credentials)$"
    r"|(^|_)(hub|hf|huggingface|modelscope|api|auth|access|sdk|login|bearer)_?token$"
    r"|^(use_)?(auth_)?token$"
)
"""Names of options and variables that hold keys. `pad_token`, `answer_key` and their like are none."""
_VALUE = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|wandb_v\d+_\w{20,}|gh[pousr]_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,})")
_HEX = re.compile(r"(?:[A-Za-z][\w.]*-)?[0-9a-f]{40}")
"""wandb's older keys; a commit looks the same, so names of revisions are let through."""
_COMMIT = re.compile(r"revision|commit|sha|hash|version|ref$")
_LOGINS = ("login",)
_LONG_ENOUGH = 16
"""Characters from which a literal given to a function `login` is taken for a key, not for a user's name."""


def reject_secrets(content: Mapping[str, Any], where: str) -> None:
    """Refuse any key among options, however deep, by its name or by its looks.

    Args:
        content: options; values may be mappings and lists themselves.
        where: what would hold the key, for the sentence: `the recipe my.yaml`.

    Raises:
        ValueError: names the option and says where the key belongs; the value is not in it.
    """
    for path, value in _leaves(content, ()):
        name = path[-1]
        if isinstance(value, str) and value and (_is_key_name(name) or _looks_like_key(name, value)):
            raise ValueError(f"{'.'.join(path)} holds a key, and {where} is no place for one. {_cure(name, value)}")


def redact(text: str) -> str:
    """The text with everything in it that is, or looks like, a key put out of sight."""
    held = [value for name, value in os.environ.items() if _is_key_name(name) and len(value) >= _LONG_ENOUGH // 2]
    for value in sorted(held, key=len, reverse=True):
        text = text.replace(value, "***")
    return re.sub(rf"\b{_HEX.pattern}\b", "***", _VALUE.sub("***", text))


def warn_of_secrets_in(source_code: str, filename: str) -> list[str]:
    """A sentence for each line of a Python script (or a notebook's cells) that holds a key in plain text.

    Shell lines of notebooks (`!wandb login …`, `%env WANDB_API_KEY=…`) are read too. The key is in no sentence.
    """
    lines = source_code.splitlines()
    magics = {n: line for n, line in enumerate(lines, 1) if line.lstrip().startswith(("!", "%"))}
    plain = "\n".join("" if n in magics else line for n, line in enumerate(lines, 1))
    found: dict[int, tuple[str, str]] = {}
    try:
        for line, what, hint in _in_python(ast.parse(plain)):
            found.setdefault(line, (what, hint))
    except (SyntaxError, ValueError):  # no Python at all: what looks like a key is still found
        magics = dict(enumerate(lines, 1))
    for line, text in magics.items():
        if _magic_holds_key(text):
            found.setdefault(line, ("this line", text))
    return [
        f"{filename}, line {line}: {what} holds a key in plain text, and whoever gets the file gets the key. "
        f"{_cure(hint, '')} Then take it out."
        for line, (what, hint) in sorted(found.items())
    ]


def _is_key_name(name: str) -> bool:
    return _NAME.search(name.lower().replace("-", "_")) is not None


def _looks_like_key(name: str, value: str) -> bool:
    if _VALUE.search(value):
        return True
    return _HEX.fullmatch(value.strip()) is not None and not _COMMIT.search(name.lower())


def _cure(name: str, value: str) -> str:
    """Where a key belongs, by the name of its option and, where that says nothing, by its looks."""
    known = f"{name} {value if value.startswith(('hf_', 'wandb_')) else ''}".lower()
    if "swanlab" in known:
        return "Set SWANLAB_API_KEY in the environment, or run `swanlab login` once."
    if "wandb" in known or _HEX.fullmatch(value.strip()):
        return "Set WANDB_API_KEY in the environment, or run `wandb login` once."
    if re.search(r"hf_|hub|hugging|token", known):
        return "Set HF_TOKEN in the environment, or run `hf auth login` once."
    return "Set it as an environment variable instead."


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, (*path, str(name)))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for inner in value:
            yield from _leaves(inner, path)
    elif path:
        yield path, value


# -- in a script's text ----------------------------------------------------------------------------------------------


def _in_python(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Line, what stands there, and the words that tell whose key it is; the most telling finds first."""
    nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Call):
            yield from _in_call(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from _in_assignment(targets, node.value)
        elif isinstance(node, ast.Dict):
            for key, held in zip(node.keys, node.values, strict=True):
                if (name := _text(key)) and _is_key_name(name) and _text(held):
                    yield held.lineno, f"{name!r}", name
    for node in nodes:
        if (value := _text(node)) and _looks_like_key("", value.strip()):
            yield getattr(node, "lineno", 1), "this line", value if _VALUE.search(value) else "wandb"


def _in_call(call: ast.Call) -> Iterator[tuple[int, str, str]]:
    name = _dotted(call.func)
    login = name.rpartition(".")[2] in _LOGINS
    for keyword in call.keywords:
        if keyword.arg and _text(keyword.value) and (_is_key_name(keyword.arg) or (login and keyword.arg == "key")):
            yield call.lineno, f"{name}({keyword.arg}=…)", f"{name} {keyword.arg}"
    literals = [text for text in map(_text, call.args) if text]
    if login and call.args and (first := _text(call.args[0])) and _one_long_word(first):
        yield call.lineno, f"{name}(…)", f"{name} token"
    if name.endswith(("environ.setdefault", "putenv")) and len(literals) > 1 and _is_key_name(literals[0]):
        yield call.lineno, f"{name}({literals[0]!r}, …)", literals[0]


def _in_assignment(targets: Iterable[ast.expr], value: ast.expr | None) -> Iterator[tuple[int, str, str]]:
    if not _text(value):
        return
    for target in targets:
        name = _text(target.slice) if isinstance(target, ast.Subscript) else _dotted(target).rpartition(".")[2]
        if name and _is_key_name(name):
            what = f"{_dotted(target.value)}[{name!r}] = …" if isinstance(target, ast.Subscript) else f"{name} = …"
            yield target.lineno, what, name


def _one_long_word(text: str) -> bool:
    return len(text) >= _LONG_ENOUGH and not re.search(r"[\s/@.]", text)


def _magic_holds_key(line: str) -> bool:
    if _VALUE.search(line) or re.search(rf"\b{_HEX.pattern}\b", line):
        return True
    named = re.search(r"([A-Za-z_]\w*)\s*=\s*\S+", line)
    if named and _is_key_name(named.group(1)):
        return True
    word = re.search(r"\blogin\s+(?:--?[\w-]+[ =])?(\S+)", line)
    return bool(word and _one_long_word(word.group(1)))


def _text(node: ast.AST | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""
