"""A recipe: a YAML file with the model, the task and the options of a run.

    model: Qwen/Qwen2.5-0.5B-Instruct      # a hub name, a folder, or `embedded`
    source: auto                           # optional: where names are looked up: hf, modelscope, local
    task: {name: gsm8k}                    # and the task's own options
    rewards: [number_matches]              # optional: instead of the task's own
    train: {prompts_per_step: 4, num_generations: 16, learning_rate: 5e-6, output_dir: runs/gsm8k}
    lora: {r: 16}                          # optional: train an adapter (options of peft.LoraConfig)
    engine: fast                           # optional: what makes completions, or {kind: fast} with its options
    observers: [printed_completions]       # optional: what else watches the run: names, or {name: …} with options
    environment: game.py:Referee           # optional: what answers the model between its turns
    evaluate: {rows: 500, samples: 4}      # optional: before and after

Task, rewards, engine, observers, environment and `train.loss_type` may name your own as `package.module:object` or
`path/to/file.py:object`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml

from dunwu._utils.secrets import redact, reject_secrets
from dunwu._utils.suggest import did_you_mean
from dunwu._utils.yaml_1_2 import dump_yaml, load_yaml, parse_value
from dunwu.errors import ConfigError
from dunwu.recipes.options import Options, checked_options
from dunwu.reports.run_folder import holds_a_run, open_run

if TYPE_CHECKING:
    from dunwu.core.protocols import Task
    from dunwu.core.records import Row

__all__ = [
    "EvaluateSection",
    "Recipe",
    "built_in_recipes",
    "load_recipe",
    "make_recipe",
    "prompt_rows",
    "recipe_as_yaml",
    "recipe_content",
]

_NAMED_BY = {"task": "name", "engine": "kind", "environment": "name"}
"""Sections that may be a name alone, and the key that the name goes to."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSection:
    """Held-out evaluation before and after training.

    Example: `EvaluateSection(split="test", rows=500, samples=4)`
    """

    split: Literal["train", "validation", "test"] = "test"
    """Which rows."""
    rows: int = 500
    """How many of them, from the start."""
    samples: int = 4
    """Sampled completions a row, beside the greedy one."""
    rewards: bool = True
    """Whether the rewards are measured too; false where they are expensive."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The contents of a YAML file, with every key checked.

    Example: `Recipe(model="embedded", task={"name": "countdown", "style": "tiny"}, train={"max_steps": 10})`
    """

    model: str
    """A hub name, a folder, or `embedded`."""
    task: Options
    """`name`, and the task's options."""
    train: Options = field(default_factory=dict)
    """Options of `GRPOConfig`."""
    model_options: Options = field(default_factory=dict)
    """Arguments of `from_pretrained`, such as `dtype`, `revision`, `attn_implementation`."""
    source: str = "auto"
    """Where names of models and data are looked up: `auto`, `hf`, `modelscope` or `local`; a folder always wins."""
    rewards: list[str] | None = None
    """Built-in rewards or `package.module:function`s, instead of the task's own."""
    max_reward: float | None = None
    """With `rewards`: the sum that a gold answer must reach; left out, gold answers are not checked."""
    lora: Options | None = None
    """Options of `peft.LoraConfig`; left out, all weights train."""
    engine: Options | None = None
    """`kind` (`auto`, `fast`, `transformers` or `package.module:object`), and the engine's options."""
    observers: list[Options] = field(default_factory=list)
    """Each with `name` (built in, or `package.module:object`) and the observer's options."""
    environment: Options | None = None
    """`name` (`package.module:object`), and the environment's options; left out, the model has one turn."""
    evaluate: EvaluateSection | None = None
    """Left out: no evaluation."""
    resume: bool | Literal["auto"] = False
    """Go on from the last checkpoint in `train.output_dir`; `auto`: if there is one, and start anew otherwise."""


def built_in_recipes() -> dict[str, Path]:
    """Name to file of the recipes that come with Dunwu."""
    folder = Path(str(resources.files("dunwu") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(name_or_path: str, overrides: Mapping[str, str] | None = None) -> Recipe:
    """Read a recipe, apply `--section.option value` overrides, and check every key.

    Args:
        name_or_path: a built-in recipe, a YAML file, or the folder of a run, whose recipe it is.
        overrides: dotted option to value, as text.

    Raises:
        ConfigError: for a recipe that is not there or not YAML, an unknown key, with the nearest known one, and a
            value of the wrong type.
    """
    return make_recipe(recipe_content(name_or_path), overrides, where=name_or_path)


def recipe_content(name_or_path: str) -> Options:
    """The keys and values of a recipe's file, unchecked.

    Raises:
        ConfigError: for a recipe that is not there, or not YAML of keys and values.
    """
    path = _find(name_or_path)
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {redact(' '.join(str(error).split()))}") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} must contain keys and values (model:, task:, train: …), got {type(content).__name__}"
        )
    return content


def make_recipe(content: Options, overrides: Mapping[str, str] | None = None, *, where: str = "recipe") -> Recipe:
    """A recipe from the content of its file, with overrides; `content` itself stays as it is.

    Raises:
        ConfigError: as `load_recipe`.
    """
    content = copy.deepcopy(content)
    for dotted, value in (overrides or {}).items():
        _put(content, dotted.split("."), parse_value(value))
    reject_secrets(content, f"a recipe or its overrides, which are saved with the run ({where})")
    return _checked(content)


def _find(name_or_path: str) -> Path:
    """The recipe's file."""
    known, path = built_in_recipes(), Path(name_or_path)
    if name_or_path in known:
        return known[name_or_path]
    if path.is_dir():
        return open_run(path).recipe_file
    if not path.is_file():
        near = [*known, *_recipes_and_runs_beside(path)]
        raise ConfigError(
            f"there is no recipe {name_or_path!r}: no built-in, no file and no run's folder"
            f"{did_you_mean(name_or_path, near)}"
        )
    return path


def _recipes_and_runs_beside(path: Path) -> list[str]:
    parent = path.parent
    if not parent.is_dir():
        return []
    beside = [
        other
        for other in parent.iterdir()
        if other.suffix in (".yaml", ".yml") or (other.is_dir() and holds_a_run(other))
    ]
    return [str(other) for other in beside]


def recipe_as_yaml(recipe: Recipe) -> str:
    """The recipe as a file that `load_recipe` reads back."""
    return dump_yaml({name: value for name, value in asdict(recipe).items() if value is not None})


def prompt_rows(task: Task, rows: Sequence[Row]) -> list[Row]:
    """Rows with the task's prompt in the column `prompt`, as trainer and evaluation take them."""
    return [{**row, "prompt": task.prompt(row)} for row in rows]


def _put(content: Options, path: Sequence[str], value: object) -> None:
    for name in path[:-1]:
        inner = content.get(name)
        if isinstance(inner, str) and name in _NAMED_BY:
            inner = {_NAMED_BY[name]: inner}
        content[name] = inner = inner if isinstance(inner, dict) else {}
        content = inner
    content[path[-1]] = value


def _checked(content: Options) -> Recipe:
    written = {name: value for name, value in content.items() if value is not None}  # `lora:` alone leaves it out
    written |= {name: _named(written[name], name) for name in _NAMED_BY if name in written}
    for name in ("rewards", "observers"):
        if isinstance(written.get(name), str | dict):
            written[name] = [written[name]]
    if isinstance(written.get("observers"), list):
        written["observers"] = [_named(observer, "observers") for observer in written["observers"]]
    if "evaluate" in written:
        written["evaluate"] = _evaluate_section(written["evaluate"])
    options = checked_options(Recipe, written, where="")
    for name in ("model", "task"):
        if name not in options:
            raise ConfigError(f"the recipe has no {name!r}; every recipe needs model: and task:")
    recipe = Recipe(**options)
    _check_values(recipe)
    return recipe


def _named(section: object, name: str) -> object:
    """A section with its name in it, for one that is a name alone."""
    key = _NAMED_BY.get(name, "name")
    if isinstance(section, str):
        return {key: section}
    if isinstance(section, dict) and not isinstance(section.get(key), str):
        example = {"task": "gsm8k", "engine": "fast", "observers": "console"}.get(name, "my_package.module:Thing")
        wrong = f"{key} must be text, got {section[key]!r}" if key in section else f"it has no {key}"
        raise ConfigError(f"{name}: {wrong}; for example {name}: {{{key}: {example}}}")
    return section


def _evaluate_section(given: object) -> EvaluateSection:
    if not isinstance(given, dict):
        raise ConfigError(f"evaluate must be keys and values, such as {{rows: 500}}, got {given!r:.80}")
    options = checked_options(EvaluateSection, given, where="evaluate")
    for name in ("rows", "samples"):
        if options.get(name, 1) < 1:
            raise ConfigError(f"evaluate.{name} must be at least 1, got {options[name]}; leave evaluate out for none")
    return EvaluateSection(**options)


def _check_values(recipe: Recipe) -> None:
    from dunwu.hub import resolve_source

    resolve_source(recipe.source)
    if recipe.rewards == []:
        raise ConfigError("rewards: is empty; list some, or leave it out for the task's own")
    if recipe.max_reward is not None and not math.isfinite(recipe.max_reward):
        raise ConfigError(
            f"max_reward must be a finite number, got {recipe.max_reward}; leave it out to check nothing"
        )
