"""Recipes: every key checked, every mistake named, everything wired in one place."""

from pathlib import Path

import pytest

from dunwu.core.protocols import Task
from dunwu.errors import ConfigError
from dunwu.recipes.recipe import EvaluateSection, Recipe, built_in_recipes, load_recipe, recipe_as_yaml
from dunwu.recipes.wiring import make_config, make_task, make_tokenizer, make_trainer, model_source

MINIMAL = "model: embedded\ntask: {name: countdown, style: tiny}\n"


def written(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_becomes_a_recipe_and_overrides_win(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL + "train: {learning_rate: 5e-6, max_steps: 3}\nevaluate: {rows: 7}\n")
    recipe = load_recipe(path, {"train.max_steps": "9", "evaluate.samples": "2", "task.seed": "5", "lora.r": "4"})
    assert recipe.train == {"learning_rate": 5e-6, "max_steps": 9}
    assert recipe.evaluate == EvaluateSection(rows=7, samples=2)
    assert recipe.task == {"name": "countdown", "style": "tiny", "seed": 5}
    assert recipe.lora == {"r": 4}


def test_a_recipe_is_read_by_the_rules_of_yaml_1_2(tmp_path: Path) -> None:
    """PyYAML has those of 1.1: 5e-6 is text to it, no is false, 010 is eight and 1:30 is ninety."""
    train = "{learning_rate: 5e-6, save_steps: 1e2, save_strategy: no, seed: 010, run_name: 1:30}"
    recipe = load_recipe(written(tmp_path, MINIMAL + f"train: {train}\n"), {"train.data_seed": "010"})
    config = make_config(recipe)
    assert (config.learning_rate, config.save_steps, config.save_strategy) == (5e-6, 100, "no")
    assert (config.seed, config.data_seed, config.run_name) == (10, 10, "1:30")


def test_the_recipe_that_a_run_leaves_is_the_recipe_that_it_had(tmp_path: Path) -> None:
    text = MINIMAL + (
        "train: {learning_rate: 5e-6, run_name: '5e-6', stop_strings: ['010', 'no', 'null']}\n"
        "rewards: equation_solves\n"
        "engine: fast\nobservers: [console, {name: rollout_log, path: x.jsonl}]\nevaluate: {rows: 7}\nresume: true\n"
    )
    recipe = load_recipe(written(tmp_path, text))
    assert load_recipe(written(tmp_path, recipe_as_yaml(recipe))) == recipe


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        (MINIMAL + "tran: {}\n", {}, r"no key 'tran'; did you mean 'train'"),
        (MINIMAL, {"evaluate.row": "3"}, r"evaluate has no option 'row'; did you mean 'rows'"),
        (MINIMAL, {"evaluate.split": "dev"}, r"evaluate.split='dev' is unknown"),
        ("task: gsm8k\n", {}, r"has no 'model'"),
        ("model: embedded\n", {}, r"has no 'task'"),
        ("model: embedded\ntask: {style: tiny}\n", {}, r"task: it has no name"),
        ("- a\n- b\n", {}, r"must contain keys and values .* got list"),
        ("model: [unclosed\n", {}, r"not valid YAML"),
        (MINIMAL + "train: fast\n", {}, r"train must be keys and values, got 'fast'"),
        ("model: 5\ntask: gsm8k\n", {}, r"model must be text, got 5"),
        (MINIMAL + "rewards: [5]\n", {}, r"rewards must be a list of texts, got \[5\]"),
        (MINIMAL + "rewards: []\n", {}, r"rewards: is empty; list some"),
        (MINIMAL + "max_reward: .nan\n", {}, r"max_reward must be a finite number, got nan"),
        (MINIMAL + "resume: maybe\n", {}, r"resume must be true or false or one of auto, got 'maybe'"),
        (MINIMAL + "prompt: 5\n", {}, r"no key 'prompt'"),
        (MINIMAL + "source: hub\n", {}, r"source='hub' is unknown"),
        (MINIMAL + "evaluate: 5\n", {}, r"evaluate must be keys and values, such as \{rows: 500\}, got 5"),
        (MINIMAL, {"evaluate.samples": "1.5"}, r"evaluate.samples must be a whole number, got 1.5"),
        (MINIMAL, {"evaluate.rows": "-5"}, r"evaluate.rows must be at least 1, got -5"),
        (MINIMAL, {"task": "{name: 5}"}, r"task: name must be text, got 5"),
        (MINIMAL, {"engine": "5"}, r"engine must be keys and values, got 5"),
        (MINIMAL, {"engine.kin": "fast"}, r"engine: it has no kind; for example engine: \{kind: fast\}"),
        (MINIMAL, {"observers": "5"}, r"observers must be a list, got 5"),
        (MINIMAL, {"observers": "[{every: 3}]"}, r"observers: it has no name"),
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
        ({"num_generations": 2.5}, r"train.num_generations must be a whole number, got 2.5"),
        ({"max_steps": None}, r"train.max_steps must be a whole number, got nothing"),
        ({"seed": None}, r"train.seed must be a whole number, got nothing"),
        ({"reward_weights": 1}, r"train.reward_weights must be a list of numbers, got 1"),
        ({"reward_weights": [1, "x"]}, r"train.reward_weights must be a list of numbers, got \[1, 'x'\]"),
        ({"num_iterations": True}, r"train.num_iterations must be a whole number, got True"),
        ({"lr_scheduler_type": 5}, r"train.lr_scheduler_type must be text, got 5"),
        ({"lr_scheduler_kwargs": "fast"}, r"train.lr_scheduler_kwargs must be keys and values, got 'fast'"),
        ({"kl_in": "los"}, r"train.kl_in='los' is unknown; did you mean 'loss'"),
        ({"importance_sampling_level": "tokens"}, r"importance_sampling_level='tokens' is .* did you mean 'token'"),
        ({"output_dir": None}, r"train.output_dir must name a folder, got nothing"),
        ({"lerning_rate": 1}, r"no option 'lerning_rate'; did you mean 'learning_rate'"),
        ({"learning_rate": "fast"}, r"train.learning_rate must be a number, got 'fast'"),
        ({"disable_dropout": "maybe"}, r"train.disable_dropout must be true or false, got 'maybe'"),
        ({"report_to": "trackoi"}, r"report_to='trackoi' is not a tracker; did you mean 'trackio'"),
        ({"num_generations": 1}, r"num_generations=1 .* at least 2"),
    ],
)
def test_a_mistake_in_train_names_option_and_remedy(train: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_config(Recipe(model="embedded", task={"name": "countdown"}, train=train))


def test_a_whole_number_may_be_written_with_a_point_or_an_exponent() -> None:
    train = {"num_generations": 2.0, "max_steps": 1e2, "learning_rate": 1}
    config = make_config(Recipe(model="embedded", task={"name": "countdown"}, train=train))
    assert (config.num_generations, config.max_steps, config.learning_rate) == (2, 100, 1)
    assert isinstance(config.num_generations, int) and isinstance(config.max_steps, int)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"numbers": 3.5}, r"task.numbers must be a whole number, got 3.5"),
        ({"style": 5}, r"task.style must be one of tiny, chinese, english, got 5"),
        ({"style": "tinny"}, r"task.style='tinny' is unknown; did you mean 'tiny'"),
        ({"stile": "tiny"}, r"task has no option 'stile'; did you mean 'style'"),
        ({"target_high": 1e9}, r"targets, up to limit=99"),
        ({"rewards": ["x"]}, r"task.rewards must be a list"),
    ],
)
def test_a_mistake_in_a_tasks_options_is_one_sentence(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError if "limit" not in said else ValueError, match=said):
        make_task(Recipe(model="embedded", task={"name": "countdown", **options}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtyp": "float32"}, r"model_options has no option 'dtyp'; did you mean 'dtype'"),
        ({"dtype": "float99"}, r"model_options.dtype='float99' is not a dtype of torch"),
    ],
)
def test_a_mistake_in_the_models_options_is_one_sentence(
    tmp_path: Path, options: dict[str, object], said: str
) -> None:
    recipe = Recipe(
        model="embedded",
        task={"name": "countdown", "style": "tiny", "train_rows": 8},
        train={"output_dir": str(tmp_path)},
        model_options=options,
    )
    with pytest.raises(ConfigError, match=said):
        make_trainer(recipe, make_task(recipe), make_config(recipe))


def test_one_reward_may_stand_without_a_list(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, MINIMAL + "rewards: equation_solves\n"))
    assert [reward.__name__ for reward in make_task(recipe).rewards] == ["equation_solves"]  # type: ignore[attr-defined]


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


def test_a_missing_model_folder_is_reported_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        make_tokenizer(str(tmp_path / "nowhere"))


def test_a_model_folder_without_a_tokenizer_is_reported(tmp_path: Path) -> None:
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
    for wrong, said in (({"rr": 2}, "lora has no option 'rr'"), ({"r": "two"}, "lora.r must be a whole number")):
        with pytest.raises(ConfigError, match=said):
            make_trainer(Recipe(model="embedded", task=recipe.task, lora=wrong), task, make_config(recipe))


def test_embedded_is_a_folder_that_is_there() -> None:
    assert (Path(model_source("embedded")) / "model.safetensors").is_file()
    assert model_source("some/name") == "some/name"
