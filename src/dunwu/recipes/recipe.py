"""A recipe: one YAML file that says what to train on what, and the one place that wires the objects.

What it is: reading, checking and overriding recipes; and recipe → task, model, tokenizer, trainer.
What it is not: running one (`dunwu.recipes.experiment`).

    model: Qwen/Qwen2.5-0.5B-Instruct      # a hub name, a folder, or `embedded`
    source: auto                           # optional: where names are looked up: hf, modelscope, local
    task: {name: gsm8k}                    # and the task's own options
    rewards: [number_matches]              # optional: instead of the task's own
    train: {prompts_per_step: 4, num_generations: 16, learning_rate: 5.0e-6, output_dir: runs/gsm8k}
    lora: {r: 16}                          # optional: train an adapter (options of peft.LoraConfig)
    evaluate: {rows: 500, samples: 4}      # optional: before and after
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import yaml

from dunwu._utils.secrets import redact, reject_secrets
from dunwu._utils.suggest import did_you_mean
from dunwu.hub.sources import chosen
from dunwu.trackers import settle

if TYPE_CHECKING:
    from dunwu.config import GRPOConfig
    from dunwu.core.protocols import Observer, Task
    from dunwu.core.records import Row
    from dunwu.training.trainer import GRPOTrainer

__all__ = [
    "EvaluateSection",
    "Recipe",
    "built_in_recipes",
    "load_recipe",
    "make_config",
    "make_task",
    "make_tokenizer",
    "make_trainer",
    "model_source",
    "parse_value",
    "prompt_rows",
]

_GOLD_ROWS = 200
"""Gold answers checked before training; a rule that fails on none of these seldom fails later."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSection:
    """Held-out evaluation before and after training."""

    split: Literal["validation", "test"] = "test"
    """Which rows."""
    rows: int = 500
    """How many of them, from the start."""
    samples: int = 4
    """Sampled answers a row, beside the greedy one."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a YAML file says, checked.

    Example: `Recipe(model="embedded", task={"name": "countdown", "style": "tiny"}, train={"max_steps": 10})`
    """

    model: str
    """A hub name, a folder, or `embedded`."""
    task: dict[str, Any]
    """`name`, and the task's options."""
    train: dict[str, Any] = field(default_factory=dict)
    """Options of `GRPOConfig`."""
    model_options: dict[str, Any] = field(default_factory=dict)
    """Arguments of `from_pretrained`, such as `dtype`, `revision`, `attn_implementation`."""
    source: str = "auto"
    """Where names of models and data are looked up: `auto`, `hf`, `modelscope` or `local`; a folder always wins."""
    rewards: list[str] | None = None
    """Built-in rewards or `package.module:function`s, instead of the task's own."""
    max_reward: float | None = None
    """With `rewards`: the sum that a gold answer must reach; left out, gold answers are not checked."""
    lora: dict[str, Any] | None = None
    """Options of `peft.LoraConfig`; left out, all weights train."""
    evaluate: EvaluateSection | None = None
    """Left out: no evaluation."""
    resume: bool = False
    """Go on from the last checkpoint in `train.output_dir`, if there is one."""


def built_in_recipes() -> dict[str, Path]:
    """Name to file of the recipes that come with Dunwu."""
    folder = Path(str(resources.files("dunwu") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(name_or_path: str, overrides: Mapping[str, str] | None = None) -> Recipe:
    """Read a recipe, put `--section.option value` overrides over it, and check every key.

    Raises:
        ValueError: for a file that is not there or not YAML, and for any unknown key, with the nearest known one.
    """
    known = built_in_recipes()
    path = known.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise ValueError(
            f"there is no recipe {name_or_path!r}: neither a file nor a built-in{did_you_mean(name_or_path, known)}"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {redact(' '.join(str(error).split()))}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold keys and values (model:, task:, train: …), got {type(content).__name__}")
    for dotted, value in (overrides or {}).items():
        _put(content, dotted.split("."), parse_value(value))
    reject_secrets(content, f"a recipe or its overrides, which are saved with the run ({path.name})")
    return _checked(content)


def make_config(recipe: Recipe, **more: Any) -> GRPOConfig:
    """The recipe's `train` section as options.

    Raises:
        ValueError: for an unknown option, with the nearest known one, or a value of the wrong kind.
    """
    from dunwu.config import GRPOConfig

    kinds = {f.name: str(f.type) for f in fields(GRPOConfig) if f.init}
    options = {**recipe.train, **more}
    for name in options:
        if name not in kinds:
            raise ValueError(f"train has no option {name!r}{did_you_mean(name, kinds)}")
    options = {name: _as_kind(name, value, kinds[name]) for name, value in options.items()}
    if "report_to" in options:
        options["report_to"] = settle(options["report_to"])
    try:
        return GRPOConfig(**{"output_dir": "runs/dunwu", **options})
    except TypeError as error:
        raise ValueError(f"an option of train has a value of the wrong kind: {error}") from error


def make_task(recipe: Recipe) -> Task:
    """The recipe's task, with the recipe's rewards in it; its gold answers are checked.

    Raises:
        ValueError: for an unknown task, option or reward, or gold answers that do not score full marks.
    """
    from dunwu.rewards import get_rewards
    from dunwu.tasks import get_task, validate, with_rewards

    options = dict(recipe.task)
    task = get_task(options.pop("name"), **options)
    if recipe.source != "auto":
        task = _found(task, recipe.source)
    if recipe.rewards is not None:
        task = with_rewards(task, get_rewards(recipe.rewards), recipe.max_reward)
    if not task.rewards:
        raise ValueError(f"task {task.name!r} brings no reward of its own here; list some under rewards:")
    if task.max_reward is not None:
        validate(task, list(task.rows("train")[:_GOLD_ROWS]))
    return task


def _found(task: Task, source: str) -> Task:
    """The task with its data where `source` says it is."""
    from dunwu.hub import locate

    places = {name: getattr(task, name, None) for name in ("source", "test_source")}
    found = {name: locate(at, kind="dataset", source=source) for name, at in places.items() if isinstance(at, str)}
    # Every built-in task is a dataclass; one from elsewhere that is none finds its data by itself.
    return cast("Task", replace(cast(Any, task), **found)) if found and is_dataclass(task) else task


def prompt_rows(task: Task, rows: Sequence[Row]) -> list[Row]:
    """Rows with the task's prompt in the column `prompt`, as trainer and evaluation want them."""
    return [{**row, "prompt": task.prompt(row)} for row in rows]


def model_source(model: str) -> str:
    """Where the model is: the embedded one's folder for `embedded`, the name or folder itself otherwise."""
    if model != "embedded":
        return model
    from dunwu.embedded import embedded_model_path

    return str(embedded_model_path())


def make_tokenizer(model: str, **options: Any) -> Any:
    """The tokenizer beside a model.

    Raises:
        ValueError: when there is none, or the folder does not exist.
    """
    from dunwu.model.loading import load_tokenizer

    return load_tokenizer(model_source(model), **options)


def make_trainer(recipe: Recipe, task: Task, config: GRPOConfig, observers: Sequence[Observer] = ()) -> GRPOTrainer:
    """Everything wired: model, tokenizer, rows, rewards, adapter.

    Raises:
        ValueError: for anything in the recipe that does not fit together.
    """
    from dunwu.model.loading import load_model
    from dunwu.training.trainer import GRPOTrainer

    revision = {k: v for k, v in recipe.model_options.items() if k in ("revision", "trust_remote_code")}
    return GRPOTrainer(
        # The tokenizer first: it is small, and most of what can be wrong with a folder shows there.
        processing_class=make_tokenizer(recipe.model, source=recipe.source, **revision),
        model=load_model(model_source(recipe.model), source=recipe.source, **recipe.model_options),
        reward_funcs=list(task.rewards),
        args=config,
        train_dataset=prompt_rows(task, task.rows("train")),
        peft_config=_lora(recipe.lora),
        observers=observers,
    )


def _lora(options: dict[str, Any] | None) -> Any:
    if options is None:
        return None
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ValueError("lora needs the package peft: pip install 'dunwu[peft]'") from error
    known = [f.name for f in fields(LoraConfig) if f.init]
    for name in options:
        if name not in known:
            raise ValueError(f"lora has no option {name!r}{did_you_mean(name, known)}")
    return LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", **options})


def _checked(content: dict[str, Any]) -> Recipe:
    known = [f.name for f in fields(Recipe)]
    for name in content:
        if name not in known:
            raise ValueError(f"a recipe has no key {name!r}{did_you_mean(str(name), known)}")
    for name in ("model", "task"):
        if name not in content:
            raise ValueError(f"the recipe has no {name!r}; every recipe needs model: and task:")
    task = content["task"]
    content = {**content, "task": {"name": task} if isinstance(task, str) else task}
    for name in ("task", "train", "model_options", "lora", "evaluate"):
        if content.get(name) is not None and not isinstance(content[name], dict):
            raise ValueError(f"{name}: must hold keys and values, got {content[name]!r}")
        if content.get(name) is None:
            content.pop(name, None)
    if "name" not in content["task"]:
        raise ValueError("task: has no name; for example task: {name: gsm8k}")
    chosen(content.get("source", "auto"))
    if "evaluate" in content:
        content["evaluate"] = _evaluate_section(content["evaluate"])
    return Recipe(**content)


def _evaluate_section(given: dict[str, Any]) -> EvaluateSection:
    known = [f.name for f in fields(EvaluateSection)]
    for name in given:
        if name not in known:
            raise ValueError(f"evaluate has no option {name!r}{did_you_mean(name, known)}")
    section = EvaluateSection(**given)
    if section.split not in ("validation", "test"):
        raise ValueError(f"evaluate.split={section.split!r} is unknown; choose validation or test")
    return section


def _put(content: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        inner = content.get(name)
        if isinstance(inner, str) and name == "task":
            inner = {"name": inner}  # `task: gsm8k` is short for `task: {name: gsm8k}`
        content[name] = inner = inner if isinstance(inner, dict) else {}
        content = inner
    content[path[-1]] = value


def parse_value(text: str) -> Any:
    """A word of the command line as YAML reads it: a number, a list, true; or the text itself."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _as_kind(name: str, value: Any, kind: str) -> Any:
    """Undo what YAML does to two habits: 5e-6 is text to it (it wants 5.0e-6), and `no` is false."""
    if value is False and name.endswith("_strategy"):
        return "no"
    numeric = "float" in kind or "int" in kind
    if isinstance(value, str) and numeric and "str" not in kind:
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"train.{name} must be a number, got {value!r}") from None
        return int(number) if "float" not in kind and number.is_integer() else number
    if isinstance(value, str) and kind.startswith("bool"):
        raise ValueError(f"train.{name} must be true or false, got {value!r}")
    return value
