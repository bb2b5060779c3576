"""Findings: each rule with a history that triggers it and one near it that must not; real runs, well and sick."""

import json
import logging
import math
import random
from pathlib import Path
from typing import Any

import pytest

from dunwu.core.records import RunInfo, StepResult
from dunwu.observers import Findings
from dunwu.observers.finding_rules import RULES, check_rules
from dunwu.observers.findings import verdict
from dunwu.observers.run_history import RunHistory, gain

NAN = math.nan
FORMAT, ANSWER = "rewards/think_format/mean", "rewards/solves/mean"
GAP = "sampling/sampling_logp_difference/mean"


def healthy(steps: int, **others: Any) -> list[dict[str, float]]:
    """Steps of a run that learns, with noise; `others` replace a metric, by a value or a function of the index."""
    noise = random.Random(0)
    found = []
    for i in range(steps):
        answer = 0.15 + 0.003 * i + noise.uniform(-0.04, 0.04)
        metrics: dict[str, Any] = {
            "step": i + 1.0,
            "learning_rate": 1e-4,
            "reward": 0.3 + answer,
            "reward_std": 0.4,
            "frac_reward_zero_std": noise.uniform(0, 0.3),
            "completions/mean_length": 30 + 0.2 * i + noise.uniform(-2, 2),
            "completions/max_length": 80.0,
            "completions/clipped_ratio": noise.uniform(0, 0.1),
            "entropy": 0.2 + noise.uniform(-0.01, 0.01),
            "grad_norm": 0.1,
            "kl": 0.001 * i,
            GAP: 1e-7,
            "importance_ratio/mean": 1.0,
            FORMAT: 0.8 + noise.uniform(-0.05, 0.05),
            "rewards/think_format/std": 0.3,
            ANSWER: answer,
            "rewards/solves/std": 0.35,
        }
        for name, value in others.items():
            metrics[name] = value(i) if callable(value) else value
        found.append(metrics)
    return found


def names(steps: list[dict[str, float]], evaluations: Any = (), **config: Any) -> list[str]:
    run = RunHistory(steps=list(steps), evaluations=list(evaluations), config=config, prompts_per_step=16)
    return [finding.name for finding in check_rules(run)]


def flat(level: float, width: float = 0.02) -> Any:
    """Noise around a level, the same at every call."""
    return lambda i: level + width * math.sin(12.9898 * i)


def up_to(last: int, before: float, after: float) -> Any:
    return lambda i: before if i < last else after


SHRINKS = {
    "completions/mean_length": up_to(30, 100.0, 40.0),
    "entropy": up_to(30, 0.3, 0.01),
    "reward": 0.5,
}
FORMAT_WINS = {
    FORMAT: lambda i: min(1.0, 0.4 + i / 20),
    "rewards/think_format/std": lambda i: 0.4 if i < 10 else 0.05,
    ANSWER: flat(0.1),
    "reward": flat(1.0),
}
LEARNED = FORMAT_WINS | {ANSWER: lambda i: min(0.95, 0.1 + i / 60) + 0.02 * math.sin(12.9898 * i)}
"""The quickstart's end: the answer was learned first, and has stood near its best for many steps."""
STILL = {
    "reward": flat(0.4),
    "completions/mean_length": flat(30.0),
    "entropy": flat(0.2, 0.002),
    ANSWER: flat(0.1),
}
NO_FORMAT = {"reward": 0.0, FORMAT: 0.0, "rewards/think_format/std": 0.0, ANSWER: 0.0, "rewards/solves/std": 0.0}
NEVER = {ANSWER: 0.0, "rewards/solves/std": 0.0}


@pytest.mark.parametrize(
    ("rule", "steps"),
    [
        ("no_reward", healthy(3, reward=NAN)),
        ("learning_rate_zero", healthy(5, learning_rate=0.0)),
        ("all_cut", healthy(5, **{"completions/clipped_ratio": 0.97})),
        ("format_never", healthy(5, **NO_FORMAT, frac_reward_zero_std=1.0)),
        ("dead_groups", healthy(5, frac_reward_zero_std=1.0)),
        ("no_gradient", healthy(5, grad_norm=0.0, frac_reward_zero_std=0.5)),
        ("sampler_gap", healthy(20, **{GAP: lambda i: 0.01 * i})),
        ("ratio_off", healthy(5, **{"importance_ratio/mean": 0.9})),
        ("kl_explodes", healthy(30, kl=up_to(25, 0.05, 3.0))),
        ("collapse", healthy(50, **SHRINKS)),
        ("answer_never", healthy(20, **NEVER)),
        ("format_wins", healthy(60, **FORMAT_WINS)),
        ("nothing_changes", healthy(100, **STILL)),
    ],
)
def test_a_history_that_breaks_one_rule_is_told_by_that_rule_alone(rule: str, steps: Any) -> None:
    assert names(steps, learning_rate=1e-4) == [rule]


@pytest.mark.parametrize(
    "steps",
    [
        healthy(2, reward=NAN),
        healthy(140, **LEARNED),
        healthy(6, reward=lambda i: NAN if i != 4 else 0.3),
        healthy(9, learning_rate=lambda i: 0.0 if i != 0 else 1e-4),  # a schedule that has ended
        healthy(4, learning_rate=0.0),
        healthy(5, **{"completions/clipped_ratio": lambda i: 0.97 if i else 0.6}),
        healthy(5, **NO_FORMAT | {"rewards/think_format/std": 0.02}),  # paid once
        healthy(4, frac_reward_zero_std=1.0),
        healthy(9, frac_reward_zero_std=0.93),
        healthy(5, grad_norm=lambda i: 0.0 if i else 1e-3),
        healthy(20, **{GAP: 0.06}),  # as it was at the start: rounding
        healthy(5, **{"importance_ratio/mean": 1.01}),
        healthy(30, kl=lambda i: 1.5 + i / 100),  # far, and no further
        healthy(30, kl=up_to(29, 0.05, 30.0)),  # one step
        healthy(50, **SHRINKS | {"reward": lambda i: 0.3 + i / 100}),  # shorter, certain, and better
        healthy(50, **SHRINKS | {"entropy": 0.2}),
        healthy(19, **NEVER),
        healthy(20, **NEVER | {"rewards/solves/std": lambda i: float(i == 3)}),
        healthy(60, **FORMAT_WINS | {ANSWER: lambda i: 0.1 + i / 300}),
        healthy(60, **FORMAT_WINS | {"rewards/think_format/std": 0.45}),
        healthy(99, **STILL),
        healthy(100, **STILL | {"completions/mean_length": lambda i: 30 + i / 20}),
        healthy(100, **STILL | {"reward": lambda i: 0.4 + min(i, 40) / 100}),
        healthy(300, **{name: lambda i: 0.5 + min(i, 100) / 100 for name in STILL}),  # has learned, and stands still
        healthy(300),
    ],
)
def test_a_history_that_nearly_breaks_a_rule_is_left_alone(steps: Any) -> None:
    assert names(steps, learning_rate=1e-4) == []


def test_a_healthy_run_is_left_alone_at_every_one_of_its_steps() -> None:
    steps = healthy(200)
    assert all(names(steps[: n + 1], learning_rate=1e-4) == [] for n in range(200))


def evaluations(*rewards: float) -> list[dict[str, float]]:
    return [{"step": 20.0 * (i + 1), "eval_reward": reward, "eval_kl": 9.0} for i, reward in enumerate(rewards)]


def test_a_training_reward_that_rises_alone_is_told_where_rows_are_held_out() -> None:
    steps = healthy(60)
    assert names(steps, evaluations(0.50, 0.49, 0.51)) == ["held_out"]
    assert names(steps, evaluations(0.50, 0.49)) == [], "two evaluations are too few"
    assert names(steps, evaluations(0.50, 0.49, 0.60)) == []
    assert names(healthy(60, reward=flat(0.4)), evaluations(0.50, 0.49, 0.51)) == []


def test_the_cause_is_told_and_not_what_follows_from_it() -> None:
    """Everything cut, so everything earns 0, so every group is dead, so the gradient is 0."""
    cut = {"completions/clipped_ratio": 1.0, "frac_reward_zero_std": 1.0, "grad_norm": 0.0}
    assert names(healthy(120, **NO_FORMAT, **cut)) == ["all_cut"]


@pytest.mark.parametrize(
    ("changed", "remedy"),
    [
        ({"reward": 0.0}, "easier rows"),
        ({"reward": 1.0, "reward_std": 0.0}, "score a wrong text"),
        ({"reward": lambda i: 0.5 + i / 10}, "stop here"),
        ({"reward": 1.0}, "num_generations"),
    ],
)
def test_the_remedy_for_dead_groups_depends_on_what_they_earn(changed: Any, remedy: str) -> None:
    (finding,) = check_rules(RunHistory(steps=list(healthy(12, frac_reward_zero_std=1.0, **changed))))
    assert remedy in finding.remedy and "100% of the groups were dead" in finding.what


def test_a_penalty_that_nothing_earns_and_a_reward_without_weight_are_no_findings() -> None:
    steps = healthy(25, **{"rewards/repetition_penalty/mean": 0.0, "rewards/repetition_penalty/std": 0.0})
    assert names(steps) == []
    assert names(healthy(25, **NEVER)) == ["answer_never"]
    assert names(healthy(25, **NEVER), reward_weights=[1.0, 0.0]) == []


def test_few_prompts_a_step_and_several_updates_a_sampling_take_more_steps_to_be_sure() -> None:
    """With one prompt a step, five dead groups in a row are nothing but bad luck."""
    dead = healthy(60, frac_reward_zero_std=1.0)

    def first(**options: Any) -> int:
        return next(n for n in range(61) if check_rules(RunHistory(steps=list(dead[:n]), **options)))

    assert first(prompts_per_step=16) == 5
    assert first(prompts_per_step=1) == 40
    assert first(prompts_per_step=16, config={"num_iterations": 3}) == 15


def test_a_sampler_that_is_cut_on_purpose_may_differ() -> None:
    steps = healthy(20, **{GAP: lambda i: 0.01 * i})
    assert names(steps, top_k=50) == [] and names(steps, top_p=0.9) == [] and names(steps, min_p=0.1) == []
    assert names(steps, top_k=0, top_p=1.0) == ["sampler_gap"] and names(steps, top_k=-1) == ["sampler_gap"]


def test_every_rule_has_its_own_name_and_names_others_that_are_there() -> None:
    known = [rule.name for rule in RULES]
    assert len(set(known)) == len(known)
    for i, rule in enumerate(RULES):
        assert set(rule.unless) <= set(known[:i]), "a cause is decided before what follows from it"


def test_the_rise_is_that_of_the_last_third_over_the_first() -> None:
    rise, noise = gain([0.0, 2.0, 9.0, 9.0, 3.0, 5.0])
    assert rise == 3.0 and noise == pytest.approx(math.sqrt((2 + 2) / 2))
    assert gain([0.0, 1.0, 2.0])[1] == math.inf


# -- the observer --------------------------------------------------------------------------------------------------


def watch(observer: Findings, steps: list[dict[str, float]], *, resumed_from: int = 0, folder: str = ".") -> None:
    config = {"learning_rate": 1e-4}
    observer.on_run_start(
        RunInfo(folder=folder, total_steps=99, resumed_from=resumed_from, prompts_per_step=16, config=config)
    )
    for metrics in steps:
        own = {name: value for name, value in metrics.items() if name not in ("step", "learning_rate")}
        index = int(metrics["step"])
        observer.on_step(StepResult(index=index, groups=(), metrics=own, learning_rate=metrics["learning_rate"]))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_finding_is_told_once_and_again_only_after_it_was_gone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "dunwu")
    observer = Findings()
    dead = [*range(5, 15), 16, *range(25, 32)]  # alive at 15: too short to be gone
    watch(observer, healthy(40, frac_reward_zero_std=lambda i: 1.0 if i in dead else 0.1))
    assert [(finding.name, finding.step) for finding in observer.findings] == [
        ("dead_groups", 10),
        ("dead_groups", 30),
    ]
    first = said(caplog)[0]
    assert (
        first.startswith("! step 10: In the last 5 steps 100% of the groups were dead") and "temperature 1." in first
    )
    assert len(said(caplog)) == 2
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


def test_the_end_of_a_run_has_a_verdict(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "dunwu")
    observer = Findings()
    better = {"reward": up_to(50, 0.5, 1.0), ANSWER: up_to(50, 0.125, 0.75)}
    watch(observer, healthy(100, **better))
    observer.on_run_end()
    assert said(caplog) == [observer.verdict()]
    assert observer.verdict() == (
        "Learned: in 100 steps the reward rose from 0.50 to 1.00 (most of it solves: 0.12 to 0.75)."
    )


def test_the_verdict_names_the_likeliest_cause() -> None:
    stays = healthy(40, learning_rate=0.0, reward=lambda i: 0.39 + 0.02 * (i % 2))
    run = RunHistory(steps=list(stays), config={"learning_rate": 0.0})
    assert verdict(run, check_rules(run)).startswith(
        "Did not learn: in 40 steps the reward stayed within its noise (0.40, then 0.40). The learning rate was 0"
    )
    falls = RunHistory(steps=list(healthy(120, reward=up_to(60, 1.0, 0.4))))
    assert "the reward fell from 1.00 to 0.40" in verdict(falls, ())
    nothing = RunHistory(steps=list(healthy(3, reward=NAN)))
    assert "no completion of 3 steps got a reward" in verdict(nothing, check_rules(nothing))


def test_the_verdict_of_a_few_steps_does_not_pretend() -> None:
    assert verdict(RunHistory(steps=list(healthy(4))), ()) == "4 steps are too few to tell whether it learns."
    short, long = (RunHistory(steps=list(healthy(n, reward=flat(0.4)))) for n in (30, 150))
    assert verdict(short, ()).endswith("So few steps prove nothing: give it more.")
    assert "not_learning.md" in verdict(long, ())


def test_what_was_told_and_is_gone_is_no_cause_where_the_run_learned_after_all() -> None:
    observer = Findings()
    watch(observer, healthy(100, frac_reward_zero_std=lambda i: 1.0 if i < 8 else 0.1))
    assert [finding.name for finding in observer.findings] == ["dead_groups"]
    assert "dead" not in observer.verdict()


def test_a_resumed_run_is_judged_with_the_steps_before(tmp_path: Path) -> None:
    lines = "".join(json.dumps(metrics) + "\n" for metrics in healthy(60, **NEVER)[:15])
    (tmp_path / "metrics.jsonl").write_text(lines, encoding="utf-8")
    observer = Findings()
    watch(observer, healthy(22, **NEVER)[12:], resumed_from=12, folder=str(tmp_path))
    assert len(observer.history.steps) == 22
    assert [(finding.name, finding.step) for finding in observer.findings] == [("answer_never", 20)]


# -- real runs -----------------------------------------------------------------------------------------------------


def constant(completions: list[str], **_: object) -> list[float]:
    return [1.0 for _ in completions]


def real_run(folder: Path, rewards: Any = None, steps: int = 6, **train: object) -> Findings:
    """The quickstart's run with these options, and what was found."""
    from dataclasses import replace

    from dunwu import Experiment, load_recipe

    given = {"train.output_dir": str(folder), "train.max_steps": str(steps)}
    given |= {f"train.{name}": json.dumps(value) for name, value in train.items()}
    recipe = replace(load_recipe("quickstart", given), evaluate=None, observers=[{"name": "findings"}])
    if rewards is not None:
        recipe = replace(recipe, rewards=rewards, max_reward=float(len(rewards)))
    run = Experiment(recipe)
    run.run()
    return next(observer for observer in run.trainer.observers if isinstance(observer, Findings))


@pytest.mark.slow
def test_a_healthy_quickstart_gets_no_alarm_and_a_verdict(tmp_path: Path) -> None:
    observer = real_run(tmp_path / "run", steps=60)
    assert observer.findings == []
    assert observer.verdict().startswith("Learned: in 60 steps the reward rose from 1.")


@pytest.mark.slow
def test_real_runs_that_cannot_learn_are_told_why_after_five_steps(tmp_path: Path) -> None:
    cut = real_run(tmp_path / "cut", max_completion_length=8)
    dead = real_run(tmp_path / "dead", rewards=[f"{__file__}:constant"], reward_weights=None)
    still = real_run(tmp_path / "still", learning_rate=0.0)
    found = [[(finding.name, finding.step) for finding in run.findings] for run in (cut, dead, still)]
    assert found == [[("all_cut", 5)], [("dead_groups", 5)], [("learning_rate_zero", 5)]]
    assert "token limit of 8" in cut.verdict() and "score a wrong text" in dead.verdict()
    assert all(run.verdict().startswith("Did not learn") for run in (cut, dead, still))
