"""In which options runs differ, and which of them are one setting with several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from dunwu._utils.language import translated

__all__ = ["differing_options", "flat_options", "option_text", "same_setting", "short_labels"]

_NO_SETTINGS = frozenset({"train.output_dir", "resume"})
"""Options that say where a run is, not what it is."""
_SEED = "train.seed"


def flat_options(recipe: Mapping[str, object]) -> dict[str, object]:
    """The options of a recipe under dotted names, without those that say where the run is.

    Example: `flat_options({"model": "m", "train": {"seed": 1, "output_dir": "runs/m"}})` is
    `{"model": "m", "train.seed": 1}`.
    """
    found = dict(_leaves(recipe, ""))
    return {name: value for name, value in found.items() if name not in _NO_SETTINGS}


def _leaves(section: Mapping[str, object], prefix: str) -> list[tuple[str, object]]:
    leaves: list[tuple[str, object]] = []
    for name, value in section.items():
        if isinstance(value, Mapping):
            leaves += _leaves(value, f"{prefix}{name}.")
        elif value is not None and value != []:  # as if it were left out
            leaves.append((f"{prefix}{name}", value))
    return leaves


def differing_options(options: Sequence[Mapping[str, object]], *, seeds: bool = False) -> list[str]:
    """Names of options that are not the same everywhere, in the order of the recipes.

    Args:
        options: of each run, from `flat_options`.
        seeds: whether the seed counts.
    """
    names = dict.fromkeys(name for one in options for name in one)
    return [
        name
        for name in names
        if (seeds or name != _SEED) and any(one.get(name) != options[0].get(name) for one in options)
    ]


def same_setting(options: Sequence[Mapping[str, object]]) -> list[list[int]]:
    """The runs by setting: those that differ by their seeds alone are together.

    Runs with one seed, too, are two settings: nothing in the recipe tells them apart, so something else may.
    """
    groups: list[list[int]] = []
    for index, one in enumerate(options):
        for group in groups:
            is_same = not differing_options([options[group[0]], one])
            if is_same and all(one.get(_SEED) != options[other].get(_SEED) for other in group):
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def option_text(value: object) -> str:
    """A value as it stands in a table; an option that is left out has its default.

    Example: `option_text(["a", "b"])` is `"a, b"`.
    """
    if value is None:
        return translated("default")
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(option_text, value)) if isinstance(value, list) else str(value)


def short_labels(
    options: Sequence[Mapping[str, object]], names: Sequence[str], folders: Sequence[Sequence[str]]
) -> list[str]:
    """A label for each setting: its differing options where they are few and short, else its folder.

    Args:
        options: of each setting, from `flat_options`.
        names: of the options that differ.
        folders: of each setting's runs; of several, the label is what their names begin with.
    """
    if 1 <= len(names) <= 2:
        labels = [
            ", ".join(f"{name.rpartition('.')[2]}={option_text(one.get(name))}" for name in names) for one in options
        ]
        if len(set(labels)) == len(labels) and max(map(len, labels)) <= 36:
            return labels
    lasts = [_beginning([Path(folder).name for folder in several]) for several in folders]
    return lasts if len(set(lasts)) == len(lasts) else [several[0] for several in folders]


def _beginning(names: Sequence[str]) -> str:
    """`lr-high` of `lr-high-42` and `lr-high-43`."""
    if len(names) == 1:
        return names[0]
    shared = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in shared).rstrip("-_=. ") or names[0]
