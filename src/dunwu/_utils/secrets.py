"""Keys: refused where they would be saved or shared, found in a script's text, and never repeated.

No function here returns or prints a key's value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence

from dunwu.errors import ConfigError

__all__ = ["describe_error", "redact", "reject_secrets", "warn_of_secrets_in", "without_credentials"]

_NAME = re.compile(
    r"(^|_)(api|access|secret|auth|private|wandb|swanlab|hf|hub|comet|mlflow)_?keys?$"
    r"|(^|_)(secret|password|passwd|credentials)$"
    r"|(^|_)(hub|hf|huggingface|modelscope|api|auth|access|sdk|login|bearer)_?token$"
    r"|^(use_)?(auth_)?token$"
)
"""Names of options and variables that contain keys; `pad_token`, `answer_key` and their like do not."""
_VALUE = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|wandb_v\d+_\w{20,}|gh[pousr]_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,})")
_HEX = re.compile(r"(?:[A-Za-z][\w.]*-)?[0-9a-f]{40}")
"""wandb's older keys; a commit looks the same, so revisions are let through by their names."""
_COMMIT = re.compile(r"revision|commit|sha|hash|version|ref$")
_LONG_ENOUGH = 16
"""Characters from which a literal given to a function `login` is taken for a key, not for a user's name."""

_LITERAL = r"""[rRbBuU]?['"](?P<value>[^'"\n]{6,})['"]"""
_WORD = r"(?<![\w-])(?P<name>[A-Za-z_][\w-]*)"
_IN_A_SCRIPT = tuple(
    re.compile(pattern)
    for pattern in (
        rf"""{_WORD}(?:['"]\])?(?:\s*:\s*[\w.\[\]| ]+)?\s*=\s*{_LITERAL}""",  # NAME = "…", x["NAME"] = "…"
        rf"""['"]{_WORD}['"]\s*:\s*{_LITERAL}""",  # {"NAME": "…"}
        rf"""(?:setdefault|putenv)\(\s*['"]{_WORD}['"]\s*,\s*{_LITERAL}""",
        rf"""\b(?P<name>login)\((?:[^()]*?\bkey\s*=\s*)?\s*{_LITERAL}""",  # login("…"), login(…, key="…")
        r"""(?m)^\s*[!%].*?(?P<name>[A-Za-z_]\w*)=(?P<value>\S+)""",  # %env NAME=…
        r"""(?m)^\s*[!%].*?\b(?P<name>login)\s+(?:--?[\w-]+[ =])?(?P<value>\S+)""",  # !wandb login …
    )
)
_BY_ITS_LOOKS = re.compile(rf"{_VALUE.pattern}|(?<=['\" =]){_HEX.pattern}\b")


def reject_secrets(content: Mapping[str, object], where: str) -> None:
    """Refuse any key among options, however deep, by its name or by its looks.

    Args:
        content: options; values may be mappings and lists themselves.
        where: what would contain the key, for the message: `the recipe my.yaml`.

    Raises:
        ConfigError: names the option and where the key belongs, and never its value.
    """
    for path, value in _leaves(content, (), set()):
        name = path[-1]
        if isinstance(value, str) and value and (_is_key_name(name) or _looks_like_key(name, value)):
            raise ConfigError(
                f"{'.'.join(path)} contains a key, which does not belong in {where}. {_remedy(name, value)}"
            )


def redact(text: str) -> str:
    """The text with *** for everything that is, or looks like, a key, and addresses without user and password."""
    secrets = [value for name, value in os.environ.items() if _is_key_name(name) and len(value) >= _LONG_ENOUGH // 2]
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, "***")
    return re.sub(rf"\b{_HEX.pattern}\b", "***", _VALUE.sub("***", without_credentials(text)))


def without_credentials(text: str) -> str:
    """The text with addresses cut down to what is not secret.

    Example: `without_credentials("https://me:word@host/path")` → `"https://host/path"`
    """
    return re.sub(r"://[^/\s]*@", "://", text)


def describe_error(error: BaseException) -> str:
    """An error's class and text on one line, without keys."""
    return redact(f"{type(error).__name__}: {' '.join(str(error).split())}")


def warn_of_secrets_in(source_code: str, filename: str) -> list[str]:
    """A sentence for each line of a script, or of a notebook's cells, that contains a key in plain text.

    Shell lines of notebooks (`!wandb login …`, `%env WANDB_API_KEY=…`) are read too. The key is in no sentence.
    """
    lines = source_code.splitlines()
    found: dict[int, str] = {}
    for pattern in _IN_A_SCRIPT:
        for match in pattern.finditer(source_code):
            line = source_code.count("\n", 0, match.start("name")) + 1
            if _is_key(match["name"], match["value"]) and not lines[line - 1].lstrip().startswith("#"):
                found.setdefault(line, match["name"])
    for number, text in enumerate(lines, 1):
        by_looks = _BY_ITS_LOOKS.search(text)
        if by_looks and (_VALUE.search(text) or not re.search(r"revision|commit|sha|hash|version", text.lower())):
            found.setdefault(number, "this line")
    return [
        f"{filename}, line {line}: {what} contains a key in plain text, and whoever gets the file gets the key. "
        f"{_remedy(lines[line - 1], '')} Then remove it here."
        for line, what in sorted(found.items())
    ]


def _is_key(name: str, value: str) -> bool:
    if name == "login":
        return len(value) >= _LONG_ENOUGH and not re.search(r"[\s/@.]", value)
    return _is_key_name(name)


def _is_key_name(name: str) -> bool:
    return _NAME.search(name.lower().replace("-", "_")) is not None


def _looks_like_key(name: str, value: str) -> bool:
    if _VALUE.search(value):
        return True
    return _HEX.fullmatch(value.strip()) is not None and not _COMMIT.search(name.lower())


def _remedy(name: str, value: str) -> str:
    """Where a key belongs, by the name of its option or, where the name does not tell, by its looks."""
    known = f"{name} {value if value.startswith(('hf_', 'wandb_')) else ''}".lower()
    if "swanlab" in known:
        return "Set SWANLAB_API_KEY in the environment, or run `swanlab login` once."
    if "wandb" in known or _HEX.fullmatch(value.strip()):
        return "Set WANDB_API_KEY in the environment, or run `wandb login` once."
    if re.search(r"hf_|hub|hugging|token", known):
        return "Set HF_TOKEN in the environment, or run `hf auth login` once."
    if _HEX.search(name):
        return "Set WANDB_API_KEY in the environment, or run `wandb login` once."
    return "Set it as an environment variable instead."


def _leaves(
    value: object, path: tuple[str, ...], seen: set[tuple[int, bool]]
) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every value below, with its names; what YAML's aliases repeat, or make endless, is looked at once."""
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str | bytes):
        known = (id(value), bool(path) and _is_key_name(path[-1]))
        if known in seen:
            return
        seen.add(known)
        named = value.items() if isinstance(value, Mapping) else ((None, inner) for inner in value)
        for name, inner in named:
            yield from _leaves(inner, path if name is None else (*path, str(name)), seen)
    elif path:
        yield path, value
