"""A recipe names parts of your own as `package.module:object`, and each of them reaches the trainer."""

import json
from pathlib import Path
from typing import Any

import pytest

from dunwu.core.protocols import Observer
from dunwu.errors import ConfigError
from dunwu.observers import Console, MetricsLog, RolloutLog
from dunwu.recipes import held_out
from dunwu.recipes.experiment import Experiment
from dunwu.recipes.recipe import Recipe, load_recipe, recipe_as_yaml
from dunwu.recipes.wiring import (
    make_config,
    make_observers,
    make_recipe_environment,
    make_task,
    make_trainer,
    train_options,
)

MINE = """
from dunwu import Observer
from dunwu.core.records import Grade

class Sums:
    name, max_reward = "sums", None

    def __init__(self, *, count=12):
        self.count = count
        self.rewards = (paid,)

    def rows(self, split):
        return [{"nums": [n, n], "total": 2 * n} for n in range(1, 1 + self.count)]

    def prompt(self, row):
        return [{"role": "user", "content": f"{row['nums'][0]} {row['nums'][1]} = {row['total']}"}]

    def gold_completion(self, row):
        return None

    def grade(self, row, text):
        return Grade(strict=str(row["total"]) in text, lenient=True, formatted=True)

    def summary_metrics(self, completions, rows):
        return {"loud": sum(text.isupper() for text in completions) / len(completions), "rows": float(len(rows))}

def paid(completions, total, **columns):
    return [float(len(str(text)) % 7) for text in completions]

class Watch(Observer):
    def __init__(self, *, label="watch"):
        self.label, self.events = label, []
    def on_run_start(self, run):
        self.events.append(("start", run.total_steps))
    def on_step(self, step):
        self.events.append(("step", step.index))

class Referee:
    def __init__(self, *, patience=1):
        self.patience = patience
    def reply(self, row, messages):
        return None

class Silent:
    def replies(self, row, messages):
        return None
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(MINE, encoding="utf-8")
    return str(path)


def recipe(mine: str, tmp_path: Path, **more: Any) -> Recipe:
    train = {"max_steps": 2, "prompts_per_step": 2, "num_generations": 2, "max_completion_length": 8}
    return Recipe(
        model="embedded",
        task={"name": f"{mine}:Sums", "count": 6},
        train={**train, "output_dir": str(tmp_path / "out"), "save_strategy": "no", "logging_steps": 1},
        **more,
    )


def test_a_task_of_ones_own_is_made_with_its_options_and_trained_on(mine: str, tmp_path: Path) -> None:
    given = recipe(mine, tmp_path)
    task = make_task(given)
    assert task.name == "sums" and len(task.rows("train")) == 6
    trainer = make_trainer(given, task, make_config(given, disable_tqdm=True))
    assert [prompt.row["total"] for prompt in trainer.prompts] == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"name": "{}:Sum"}, r"has no 'Sum'.*did you mean 'Sums'"),
        ({"name": "{}:Sums", "cuont": 3}, r"has no option 'cuont'; did you mean 'count'"),
        ({"name": "{}:Watch"}, r"is not a task: it has no name, rewards"),
    ],
)
def test_a_mistake_in_naming_a_task_is_one_sentence(mine: str, task: dict[str, Any], said: str) -> None:
    named = {**task, "name": task["name"].format(mine)}
    with pytest.raises(ConfigError, match=said):
        make_task(Recipe(model="embedded", task=named))


def test_rewards_of_a_recipe_replace_those_of_any_task(mine: str, tmp_path: Path) -> None:
    """It had to be a dataclass with two fields of the right names."""
    task: Any = make_task(recipe(mine, tmp_path, rewards=["length_near"]))
    assert [reward.__name__ for reward in task.rewards] == ["length_near"] and task.max_reward is None
    assert task.summary_metrics(["A", "b"], [{}, {}]) == {"loud": 0.5, "rows": 2.0}


def test_observers_of_ones_own_and_built_in_ones_watch_the_run(mine: str, tmp_path: Path) -> None:
    given = recipe(mine, tmp_path, observers=[{"name": f"{mine}:Watch", "label": "b"}, {"name": "metrics_log"}])
    trainer = make_trainer(given, make_task(given), make_config(given, disable_tqdm=True), observers=[Console()])
    trainer.train()
    console, watch, log = trainer.observers
    assert isinstance(console, Console) and isinstance(log, MetricsLog)
    assert watch.label == "b" and watch.events == [("start", 2), ("step", 1), ("step", 2)]  # type: ignore[attr-defined]
    assert (tmp_path / "out" / "metrics.jsonl").is_file()


def test_an_environment_of_ones_own_reaches_the_trainer(
    mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = recipe(mine, tmp_path, environment={"name": f"{mine}:Referee", "patience": 3})
    made: Any = make_recipe_environment(given)
    assert made.patience == 3 and made.reply({}, []) is None
    passed: dict[str, Any] = {}
    monkeypatch.setattr("dunwu.training.trainer.GRPOTrainer", lambda **arguments: passed.update(arguments))
    make_trainer(given, make_task(given), make_config(given))
    assert passed["environment"].patience == 3
    wrong = recipe(mine, tmp_path, environment={"name": f"{mine}:Referee", "patiense": 3})
    with pytest.raises(ConfigError, match="has no option 'patiense'; did you mean 'patience'"):
        make_recipe_environment(wrong)
    passed.clear()
    plain = recipe(mine, tmp_path)
    make_trainer(plain, make_task(plain), make_config(plain))
    assert passed.get("environment") is None


def test_an_environment_without_reply_names_the_nearest(mine: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs a method reply\(row, messages\).*did you mean 'replies'"):
        make_recipe_environment(recipe(mine, tmp_path, environment={"name": f"{mine}:Silent"}))


def test_engine_and_loss_of_ones_own_become_options_of_the_run(tmp_path: Path) -> None:
    text = (
        "model: embedded\ntask: countdown\n"
        "train: {loss_type: my.losses:sapo, loss_options: {tau: 0.9}}\n"
        "engine: {kind: my.engines:Served, url: local}\n"
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    assert train_options(load_recipe(str(path))) == {
        "loss_type": "my.losses:sapo",
        "loss_options": {"tau": 0.9},
        "engine": "my.engines:Served",
        "engine_options": {"url": "local"},
    }
    assert train_options(load_recipe(str(path), {"engine": "fast"}))["engine"] == "fast"
    assert "engine_options" not in train_options(load_recipe(str(path), {"engine": "fast"}))
    with pytest.raises(ConfigError, match=r"train.engine and engine: both name the engine"):
        train_options(load_recipe(str(path), {"train.engine": "fast"}))


def test_the_engine_of_a_recipe_is_the_trainers(mine: str, tmp_path: Path) -> None:
    given = recipe(mine, tmp_path, engine={"kind": "transformers"})
    trainer = make_trainer(given, make_task(given), make_config(given))
    assert type(trainer.engine).__name__ == "TransformersEngine"


def test_an_observer_that_a_recipe_names_takes_the_place_of_the_default(mine: str, tmp_path: Path) -> None:
    log = tmp_path / "elsewhere.jsonl"
    named = [{"name": "metrics_log", "path": str(log)}, {"name": "console", "every": 1}]
    run = Experiment(recipe(mine, tmp_path, observers=named), log_every=5)
    kinds = [type(observer) for observer in run.trainer.observers]
    assert sorted(kind.__name__ for kind in kinds) == ["Console", "CurvePlot", "Findings", "MetricsLog", "RolloutLog"]
    (console,) = [observer for observer in run.trainer.observers if isinstance(observer, Console)]
    assert console.every == 1 and run.metrics_log.path == log
    assert all(isinstance(observer, Observer) for observer in make_observers(run.recipe))


def test_an_experiment_with_a_task_of_ones_own_has_its_summary(
    mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the evaluations ask for the weights as they are: those of no step, and those of the last."""
    asked: list[Any] = []
    real = held_out.evaluate

    def recorded(engine: Any, task: Any, prompts: Any, **options: Any) -> Any:
        asked.append((options["policy"], options["version"]))
        return real(engine, task, prompts, **options)

    monkeypatch.setattr(held_out, "evaluate", recorded)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_as_yaml(recipe(mine, tmp_path)), encoding="utf-8")
    run = Experiment(load_recipe(str(path), {"evaluate.rows": "3", "evaluate.samples": "2"}))
    result = run.run()
    assert asked == [(run.trainer.model, 0), (run.trainer.model, 2)]
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["task"] == "sums" and summary["steps"] == len(result.steps) == 2
    assert summary["after"]["rows"] == 6.0 and 0 <= summary["after"]["loud"] <= 1
    assert "trials" not in summary["after"], "that is Countdown's own"
    assert load_recipe(str(run.folder / "recipe.yaml")) == run.recipe
    lines = (run.folder / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1] * 4 + [2] * 4
    (log,) = [observer for observer in run.trainer.observers if isinstance(observer, RolloutLog)]
    assert log.path is None


def test_an_output_folder_that_is_a_file_is_refused_before_anything_is_loaded(mine: str, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ConfigError, match=r"train.output_dir='.*out' is a file; name a folder"):
        Experiment(recipe(mine, tmp_path))
