"""A recipe becomes objects: task, configuration, tokenizer, observers, environment, trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from dunwu._utils.suggest import did_you_mean
from dunwu.core.protocols import Environment, Observer, Task
from dunwu.errors import ConfigError, DataError, HubError, ModelError
from dunwu.recipes.options import Options, checked_options
from dunwu.recipes.recipe import Recipe, prompt_rows

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from dunwu.config import GRPOConfig
    from dunwu.training.trainer import GRPOTrainer

__all__ = [
    "make_config",
    "make_observers",
    "make_recipe_environment",
    "make_task",
    "make_task_and_check_model",
    "make_tokenizer",
    "make_trainer",
    "model_source",
    "train_options",
]

_GOLD_ROWS = 200
"""Gold answers checked before training; a rule that fails on none of these seldom fails later."""


def train_options(recipe: Recipe, **more: object) -> Options:
    """The options for `GRPOConfig`: the recipe's `train` section, and its engine as `engine` and `engine_options`.

    Raises:
        ConfigError: for an engine that is named twice.
    """
    options = {**recipe.train, **more}
    if recipe.engine is not None:
        for name in ("engine", "engine_options"):
            if name in options:
                raise ConfigError(f"train.{name} and engine: both name the engine; keep one of them")
        given = dict(recipe.engine)
        options["engine"] = given.pop("kind")
        if given:
            options["engine_options"] = given
    return options


def make_config(recipe: Recipe, **more: object) -> GRPOConfig:
    """The recipe's `train` section as options, with `more` over it.

    Raises:
        ConfigError: for an unknown option, with the nearest known one, or a value of the wrong type.
    """
    from dunwu.config import GRPOConfig

    options = checked_options(GRPOConfig, train_options(recipe, **more), where="train")
    if options.get("output_dir", ".") in (None, ""):
        raise ConfigError("train.output_dir must name a folder, got nothing")
    for name, value in options.items():
        # transformers takes JSON here, as a command line has it, and any other text for what it is.
        if name.endswith("_kwargs") and isinstance(value, str) and not value.lstrip().startswith("{"):
            raise ConfigError(f"train.{name} must be keys and values, got {value!r:.80}")
    try:
        return GRPOConfig(**{"output_dir": "runs/dunwu", **options})
    except TypeError as error:
        raise ConfigError(f"an option of train has a value of the wrong type: {error}") from error


def make_task(recipe: Recipe, *, for_training: bool = True) -> Task:
    """The recipe's task, with the recipe's rewards in it.

    Args:
        recipe: the recipe.
        for_training: whether rewards are needed: gold answers must then earn full marks.

    Raises:
        ConfigError: for an unknown task, option or reward, no rewards, or gold answers that do not score full marks.
    """
    from dunwu.rewards import get_rewards
    from dunwu.tasks import validate, with_rewards

    task = _task_with_data(recipe)
    if recipe.rewards is not None:
        task = with_rewards(task, get_rewards(recipe.rewards), recipe.max_reward)
    if not for_training:
        return task
    if not task.rewards:
        raise ConfigError(f"task {task.name!r} has no reward of its own here; list some under rewards:")
    if task.max_reward is not None:
        validate(task, list(task.rows("train")[:_GOLD_ROWS]))
    return task


def make_task_and_check_model(recipe: Recipe) -> Task:
    """`make_task`; where its data is missing and the recipe's model as well, both are named at once.

    Raises:
        DunwuError: as `make_task`.
    """
    try:
        return make_task(recipe)
    except (DataError, HubError) as error:
        try:
            make_tokenizer(recipe.model, source=recipe.source)
        except (ModelError, HubError) as also:
            raise DataError(f"data and model are both missing. The data: {error}. The model: {also}") from error
        raise


def _task_with_data(recipe: Recipe) -> Task:
    """The recipe's task; with a `source` other than `auto`, its data is found there first."""
    from dunwu.hub import locate

    name, options = _name_and_options(recipe.task, "name")
    task = _get_task(name, options)
    if recipe.source == "auto":
        return task
    places = {option: getattr(task, option, None) for option in ("source", "test_source")}
    found = {
        option: locate(place, kind="dataset", source=recipe.source)
        for option, place in places.items()
        if isinstance(place, str)
    }
    return _get_task(name, {**options, **found}) if found else task


def _get_task(name: str, options: Options) -> Task:
    from dunwu.tasks import TASKS, get_task

    if name in TASKS:
        options = checked_options(cast(type, TASKS[name]), options, where="task")
    return get_task(name, **options)


def model_source(model: str) -> str:
    """Where the model is: the embedded one's folder for `embedded`, the name or folder itself otherwise."""
    if model != "embedded":
        return model
    from dunwu.embedded import embedded_model_path

    return embedded_model_path()


def make_tokenizer(
    model: str, *, source: str = "auto", revision: str | None = None, trust_remote_code: bool | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model.

    Raises:
        ModelError: when there is none, or the folder does not exist.
    """
    from dunwu.model.loading import load_tokenizer

    given = {"revision": revision, "trust_remote_code": trust_remote_code}
    options = {name: value for name, value in given.items() if value is not None}
    tokenizer: PreTrainedTokenizerBase = load_tokenizer(model_source(model), source=source, **options)
    return tokenizer


def make_observers(recipe: Recipe) -> list[Observer]:
    """The recipe's observers.

    Raises:
        ConfigError: for an unknown name or option, with the nearest known one.
    """
    from dunwu.observers import resolve_observer

    return [resolve_observer(*_name_and_options(given, "name")) for given in recipe.observers]


def make_recipe_environment(recipe: Recipe) -> Environment | None:
    """The recipe's environment; None where it names none.

    Raises:
        ConfigError: for an object that is not there, an option that it does not take, or one without `reply`.
    """
    if recipe.environment is None:
        return None
    from dunwu.rollout.plugs import make_environment

    return make_environment(*_name_and_options(recipe.environment, "name"))


def make_trainer(recipe: Recipe, task: Task, config: GRPOConfig, observers: Sequence[Observer] = ()) -> GRPOTrainer:
    """Everything wired: model, tokenizer, rows, rewards, adapter, observers, environment.

    Args:
        recipe: the recipe.
        task: what `make_task` made of it.
        config: what `make_config` made of it; it names engine and loss.
        observers: more of them, beside the recipe's own.

    Raises:
        DunwuError: for anything in the recipe that does not fit together.
    """
    from dunwu.training.trainer import GRPOTrainer

    revision = {k: v for k, v in recipe.model_options.items() if k in ("revision", "trust_remote_code")}
    environment = make_recipe_environment(recipe)
    every_observer = [*observers, *make_observers(recipe)]
    return GRPOTrainer(
        # The tokenizer first: it is small, and most of what can be wrong with a folder shows there.
        processing_class=make_tokenizer(recipe.model, source=recipe.source, **revision),
        model=_load_model(recipe),
        reward_funcs=list(task.rewards),
        args=config,
        train_dataset=prompt_rows(task, task.rows("train")),
        peft_config=_lora(recipe.lora),
        observers=every_observer,
        environment=environment,
    )


def _load_model(recipe: Recipe) -> PreTrainedModel:
    import torch

    from dunwu.model.loading import load_model

    try:
        model: PreTrainedModel = load_model(model_source(recipe.model), source=recipe.source, **recipe.model_options)
        return model
    except TypeError as error:
        _, named, option = str(error).partition("unexpected keyword argument ")
        if not named:
            raise
        unknown = option.strip("'\" ")
        known = ("attn_implementation", "device_map", "dtype", "quantization_config", "revision", "trust_remote_code")
        raise ConfigError(f"model_options has no option {unknown!r}{did_you_mean(unknown, known)}") from error
    except AttributeError as error:
        if error.obj is not torch:
            raise
        raise ConfigError(
            f"model_options.dtype={error.name!r} is not a dtype of torch; write float32 or bfloat16"
        ) from error


def _lora(options: Mapping[str, object] | None) -> LoraConfig | None:
    if options is None:
        return None
    from dunwu.model.loading import require_peft

    require_peft("lora")
    from peft import LoraConfig

    checked = checked_options(LoraConfig, options, where="lora")
    return LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", **checked})


def _name_and_options(section: Options, key: str) -> tuple[str, Options]:
    options = dict(section)
    return str(options.pop(key)), options
