"""Recipes: every key checked, every mistake named, everything wired in one place."""

from pathlib import Path

import pytest

from dunwu.core.protocols import Task
from dunwu.recipes.recipe import (
    EvaluateSection,
    Recipe,
    built_in_recipes,
    load_recipe,
    make_config,
    make_task,
    make_tokenizer,
    make_trainer,
    model_source,
)

MINIMAL = "model: embedded\ntask: {name: countdown, style: tiny}\n"


def written(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_becomes_a_recipe_and_overrides_win(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL + "train: {learning_rate: 5e-6, max_steps: 3}\nevaluate: {rows: 7}\n")
    recipe = load_recipe(path, {"train.max_steps": "9", "evaluate.samples": "2", "task.seed": "5", "lora.r": "4"})
    assert recipe.train == {"learning_rate": "5e-6", "max_steps": 9}
    assert recipe.evaluate == EvaluateSection(rows=7, samples=2)
    assert recipe.task == {"name": "countdown", "style": "tiny", "seed": 5}
    assert recipe.lora == {"r": 4}


def test_a_number_that_yaml_reads_as_text_becomes_a_number(tmp_path: Path) -> None:
    """PyYAML reads 5e-6 as the text '5e-6'; every tutorial writes it so."""
    config = make_config(load_recipe(written(tmp_path, MINIMAL + "train: {learning_rate: 5e-6, save_steps: 1e2}\n")))
    assert config.learning_rate == 5e-6
    assert config.save_steps == 100


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        (MINIMAL + "tran: {}\n", {}, r"no key 'tran'; did you mean 'train'"),
        (MINIMAL, {"evaluate.row": "3"}, r"evaluate has no option 'row'; did you mean 'rows'"),
        (MINIMAL, {"evaluate.split": "dev"}, r"evaluate.split='dev' is unknown"),
        ("task: gsm8k\n", {}, r"has no 'model'"),
        ("model: embedded\n", {}, r"has no 'task'"),
        ("model: embedded\ntask: {style: tiny}\n", {}, r"task: has no name"),
        ("- a\n- b\n", {}, r"must hold keys and values .* got list"),
        ("model: [unclosed\n", {}, r"not valid YAML"),
        (MINIMAL + "train: fast\n", {}, r"train: must hold keys and values, got 'fast'"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_sentence(
    tmp_path: Path, text: str, overrides: dict[str, str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        load_recipe(written(tmp_path, text), overrides)


def test_a_recipe_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'quickstrat'.*did you mean 'quickstart'"):
        load_recipe("quickstrat")


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"lerning_rate": 1}, r"no option 'lerning_rate'; did you mean 'learning_rate'"),
        ({"learning_rate": "fast"}, r"train.learning_rate must be a number, got 'fast'"),
        ({"disable_dropout": "maybe"}, r"train.disable_dropout must be true or false, got 'maybe'"),
        ({"report_to": "trackoi"}, r"report_to='trackoi' names no tracker; did you mean 'trackio'"),
        ({"num_generations": 1}, r"num_generations=1 .* at least 2"),
    ],
)
def test_a_mistake_in_train_names_option_and_remedy(train: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_config(Recipe(model="embedded", task={"name": "countdown"}, train=train))


def test_rewards_of_a_recipe_replace_the_tasks_own_and_are_proved_on_gold_answers() -> None:
    recipe = Recipe(
        model="embedded",
        task={"name": "countdown", "style": "chinese"},
        rewards=["format_reward_func", "equation_reward_func"],
        max_reward=2.0,
    )
    task = make_task(recipe)
    assert [reward.__name__ for reward in task.rewards] == ["format_reward_func", "equation_reward_func"]  # type: ignore[attr-defined]


def test_gold_answers_that_fall_short_of_full_marks_stop_the_run() -> None:
    recipe = Recipe(
        model="embedded",
        task={"name": "countdown", "style": "tiny"},
        rewards=["equation_solves", "thought_len_reward_func"],
        max_reward=2.0,
    )
    with pytest.raises(ValueError, match=r"gold answer earns 1 of 2; thought_len_reward_func fell short"):
        make_task(recipe)


def test_an_unknown_reward_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="equation_solves"):
        make_task(Recipe(model="embedded", task={"name": "countdown"}, rewards=["equation_solve"]))


@pytest.mark.parametrize("name", sorted(built_in_recipes()))
def test_a_built_in_recipe_has_options_that_exist(name: str) -> None:
    recipe = load_recipe(name)
    config = make_config(recipe)
    assert config.num_generations >= 2


@pytest.mark.parametrize(
    ("name", "prompts", "completions"),
    [("gsm8k", 4, 16), ("gsm8k_notebook", 4, 16), ("countdown_3b", 16, 8)],
)
def test_a_tutorials_recipe_has_the_tutorials_step(name: str, prompts: int, completions: int) -> None:
    config = make_config(load_recipe(name))
    assert (config.prompts_per_step, config.num_generations) == (prompts, completions)


def test_a_model_folder_that_is_not_there_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        make_tokenizer(str(tmp_path / "nowhere"))


def test_a_model_folder_without_a_tokenizer_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
    with pytest.raises(ValueError, match="no tokenizer was found beside the model"):
        make_tokenizer(str(tmp_path))


def test_lora_of_a_recipe_trains_an_adapter_and_an_unknown_option_is_named(tmp_path: Path) -> None:
    recipe = load_recipe(
        written(tmp_path, MINIMAL + f"lora: {{r: 2}}\ntrain: {{output_dir: {tmp_path}/o, max_steps: 1}}\n"),
        {"task.train_rows": "8"},
    )
    task: Task = make_task(recipe)
    trainer = make_trainer(recipe, task, make_config(recipe))
    names = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert names and all("lora_" in name for name in names)
    with pytest.raises(ValueError, match="lora has no option 'rr'"):
        make_trainer(Recipe(model="embedded", task=recipe.task, lora={"rr": 2}), task, make_config(recipe))


def test_embedded_is_a_folder_that_is_there() -> None:
    assert (Path(model_source("embedded")) / "model.safetensors").is_file()
    assert model_source("some/name") == "some/name"
