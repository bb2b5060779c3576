"""Loss, engine, environment, observer, task from outside, by `package.module:object`, in Python and in a recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import outside
import pytest
import torch
import yaml

from dunwu import Experiment, GRPOConfig, GRPOTrainer, embedded_model_path, load_recipe
from dunwu.core.algorithm import AlgorithmConfig, token_loss
from dunwu.errors import ConfigError
from dunwu.rollout.multi_turn import MultiTurnEngine

CHAT = [{"prompt": [{"role": "user", "content": f"{n} 3 4 = {n + 7}"}]} for n in range(1, 9)]


def trainer_of(tmp_path: Path, *, options: dict[str, Any] | None = None, **plugs: Any) -> GRPOTrainer:
    settings = {"max_steps": 2, "prompts_per_step": 2, "num_generations": 4, "max_completion_length": 24}
    config = GRPOConfig(
        output_dir=str(tmp_path / "run"),
        learning_rate=1e-3,
        save_strategy="no",
        disable_tqdm=True,
        **settings | (options or {}),
    )
    return GRPOTrainer(embedded_model_path(), outside.says_a, config, CHAT, **plugs)


# -- in Python -----------------------------------------------------------------------------------------------------


def test_a_loss_by_name_has_the_value_and_slope_worked_out_by_hand():
    """At ρ = 1: f = 4/τ · σ(0) = 2/τ, slope 1. At ρ = 2, τ = 1: 4σ(1) = 2.924234315, slope ρ · 4σ(1)(1 − σ(1))."""
    named = AlgorithmConfig(policy_loss="outside:sapo", loss_options={"tau_negative": 2.0})

    def one(ratio: float, advantage: float) -> tuple[float, float]:
        logps = torch.tensor([[-1.0]], dtype=torch.float64, requires_grad=True)
        old = logps.detach() - torch.tensor(ratio, dtype=torch.float64).log()
        loss = token_loss(
            named, logps, torch.tensor([advantage]).double(), torch.ones(1, 1), old_logps_BC=old
        ).loss_BC
        loss.sum().backward()
        return float(loss.detach()), float(logps.grad)

    assert one(1.0, 1.0) == pytest.approx((-2.0, -1.0))
    assert one(1.0, -1.0) == pytest.approx((1.0, 1.0))
    assert one(2.0, 1.0) == pytest.approx((-2.924234315, -2 * 4 * 0.731058579 * 0.268941421))


def test_a_loss_by_name_trains_with_options_of_its_own(tmp_path):
    trainer = trainer_of(tmp_path, options={"loss_type": "outside:sapo", "loss_options": {"tau_negative": 2.0}})
    assert trainer.algorithm.policy_loss == "outside:sapo" and trainer.algorithm.loss_aggregation == "token_mean"
    trainer.train()
    assert trainer.state.log_history[0]["grad_norm"] > 0


def test_a_misspelt_option_of_a_loss_is_refused_before_training(tmp_path):
    with pytest.raises(ConfigError, match="no option 'tau_negativ'; did you mean 'tau_negative'"):
        trainer_of(tmp_path, options={"loss_type": "outside:sapo", "loss_options": {"tau_negativ": 2.0}})


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("outside:sap", "did you mean 'sapo'"),
        ("no_such_package:loss", "there is no module 'no_such_package'"),
        ("sappo", "did you mean 'sapo'"),
    ],
)
def test_a_loss_that_is_not_there_is_named(tmp_path, name, sentence):
    with pytest.raises(ConfigError, match=sentence):
        trainer_of(tmp_path, options={"loss_type": name})


def test_an_engine_with_weights_of_its_own_is_synced_before_each_sampling_and_each_evaluation(tmp_path):
    trainer = trainer_of(tmp_path, engine="outside:OwnWeights")
    engine: Any = trainer.engine
    trainer.train()
    trainer.evaluate(CHAT[:1])
    assert engine.versions == [0, 1, 2] and not engine.is_open


def test_an_engine_of_the_options_has_its_own_options(tmp_path):
    options = {"engine": "outside:OwnWeights", "engine_options": {"greeting": "hello"}}
    assert trainer_of(tmp_path, options=options).engine.greeting == "hello"
    with pytest.raises(ValueError, match="greting"):
        trainer_of(tmp_path, options=options | {"engine_options": {"greting": "hello"}})


def test_an_engine_from_outside_samples_what_ours_does(tmp_path):
    """Weights by name, merged and cast, reach it whole: its completions are those of the trainer's own weights."""
    ours = trainer_of(tmp_path, options={"engine": "transformers"})
    other = trainer_of(tmp_path, engine="outside:OwnWeights")
    for trainer in (ours, other):
        trainer.train()
    figures = [
        [(log["reward"], log["grad_norm"]) for log in trainer.state.log_history if "reward" in log]
        for trainer in (ours, other)
    ]
    assert figures[0] == figures[1]


def test_an_environment_by_name_answers_between_turns_and_is_not_trained_on(tmp_path):
    trainer = trainer_of(tmp_path, environment="outside:Echo", options={"max_completion_length": 60})
    assert isinstance(trainer.engine, MultiTurnEngine)
    trainer.train()
    pending = trainer.loop.pending
    talks = [r.completion for group in pending.groups for r in group.rollouts if len(r.completion.messages) > 1]
    assert talks and all([m["role"] for m in talk.messages] == ["assistant", "user", "assistant"] for talk in talks)
    assert all(talk.sampled is not None and not all(talk.sampled) for talk in talks)


def test_an_observer_by_name_gets_every_event_of_the_run(tmp_path):
    outside.Tally.heard.clear()
    trainer_of(tmp_path, observers=["outside:Tally"]).train()
    assert outside.Tally.heard == ["start 2", "rollouts 1", "step 1", "rollouts 2", "step 2", "end"]


# -- in a recipe ---------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    def write(**content: Any) -> Path:
        train = {
            "output_dir": str(tmp_path / "out"),
            "max_steps": 2,
            "prompts_per_step": 2,
            "num_generations": 4,
            "max_completion_length": 24,
            "save_strategy": "no",
        }
        whole = {"model": "embedded", "task": {"name": "outside:Ones", "size": 6}, **content}
        whole["train"] = train | content.get("train", {})
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(whole), encoding="utf-8")
        return path

    return write


def test_all_five_in_one_recipe(recipe, tmp_path):
    outside.Tally.heard.clear()
    path = recipe(
        engine={"kind": "outside:OwnWeights", "greeting": "hello"},
        environment={"name": "outside:Echo", "times": 2},
        observers=["outside:Tally"],
        train={"loss_type": "outside:sapo", "loss_options": {"tau_positive": 2.0}, "max_completion_length": 60},
        evaluate={"rows": 2, "samples": 2},
    )
    experiment = Experiment(load_recipe(str(path)))
    result = experiment.run()
    trainer = experiment.trainer
    assert trainer.algorithm.policy_loss == "outside:sapo" and trainer.algorithm.loss_options["tau_positive"] == 2.0
    assert isinstance(trainer.engine, MultiTurnEngine) and trainer.engine.environment.times == 2
    # Before the first step, each sampling (training begins with a sync of its own, for the weights may have been
    # changed by hand), and after the last step: never weights of an earlier moment.
    assert trainer.engine.engine.greeting == "hello" and trainer.engine.engine.versions == [0, 0, 1, 2]
    assert outside.Tally.heard[0] == "start 2" and outside.Tally.heard[-1] == "end"
    assert result.after is not None and result.after.task == "ones"
    assert (tmp_path / "out" / "summary.json").exists()


def test_a_plug_that_is_misspelt_in_a_recipe_is_one_sentence(recipe):
    with pytest.raises(ValueError, match="did you mean 'Ones'"):
        Experiment(load_recipe(str(recipe(task={"name": "outside:Onse"}))))
    with pytest.raises(ValueError, match="did you mean 'Tally'"):
        Experiment(load_recipe(str(recipe(observers=["outside:Taly"]))))


def test_the_plugs_are_found_outside_of_our_packages():
    assert not any(name.startswith("dunwu") for name in (outside.__name__,)) and "outside" in sys.modules
