"""A sentence in place of Python's TypeError where a call names an argument that there is not."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import ParamSpec, TypeVar

from dunwu.errors import ConfigError

__all__ = ["known_arguments", "known_fields", "unknown_arguments"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def known_arguments(owner: str, foreign: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: a keyword argument that the function does not have is a `ConfigError`; its signature stays.

    Args:
        owner: what the user called.
        foreign: names that users know from elsewhere, and what to do about each.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        """The function, which names what it does not know."""
        known = inspect.signature(function).parameters

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            unknown = [name for name in kwargs if name not in known]
            if unknown:
                raise ConfigError(unknown_arguments(owner, unknown, known, foreign))
            return function(*args, **kwargs)

        return checked

    return decorate


def known_fields(foreign: Mapping[str, str]) -> Callable[[type[T]], type[T]]:
    """`known_arguments` for the constructor of a dataclass."""

    def decorate(kind: type[T]) -> type[T]:
        # `setattr` on the class: a method cannot be assigned to where types are checked.
        type.__setattr__(kind, "__init__", known_arguments(kind.__name__, foreign)(kind.__init__))
        return kind

    return decorate


def unknown_arguments(owner: str, unknown: Iterable[str], known: Iterable[str], foreign: Mapping[str, str]) -> str:
    """What to say about these names: their remedy, or the nearest known name; names with one remedy together.

    Example: `unknown_arguments("GRPOConfig", ["use_vlm", "bta"], ["beta"], {"use_vllm": "it is TRL's"})` is
    `"GRPOConfig has no argument 'use_vlm' (use_vllm): it is TRL's. And no 'bta'; did you mean 'beta'?"`.
    """
    names = sorted(name for name in known if name != "self")
    by_remedy: dict[str, list[str]] = {}
    for name in unknown:
        near = difflib.get_close_matches(name, [*names, *foreign], n=1, cutoff=0.6)
        meant = name if name in foreign else near[0] if near else name
        shown = repr(name) if meant == name or meant in names else f"{name!r} ({meant})"
        guess = f"; did you mean {meant!r}?" if meant in names else f"; help({owner}) lists what it has"
        by_remedy.setdefault(f": {foreign[meant]}" if meant in foreign else guess, []).append(shown)
    parts = [f"{' and '.join(shown)}{remedy}" for remedy, shown in by_remedy.items()]
    return f"{owner} has no argument " + " And no ".join(f"{part}{'' if part[-1] in '?.' else '.'}" for part in parts)
