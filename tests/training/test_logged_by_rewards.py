"""What reward functions log (`log_metric`, `log_extra`) reaches the run's metrics, rows and checkpoints."""

from __future__ import annotations

import json

import pytest

from dunwu.observers import RolloutLog


def logs(completions, log_metric, log_extra, trainer_state, **_):
    log_metric("mine/length", sum(map(len, completions)) / len(completions))
    log_metric("mine/step", trainer_state.global_step)
    log_metric("reward", -7.0)
    log_extra("upper", [text.upper() for text in completions])
    return [sum(c.islower() for c in text) / max(1, len(text)) for text in completions]


def steps_of(trainer):
    return [log for log in trainer.state.log_history if "loss" in log]


def test_metrics_are_logged_a_step_and_in_evaluations_under_the_name_given(make_trainer):
    """`trainer_state` is the run's: the step that samples for update 1 has made 0."""
    trainer = make_trainer(
        reward=logs, max_steps=3, eval_strategy="steps", eval_steps=2, extras={"eval_dataset": [{"prompt": "b"}]}
    )
    trainer.train()
    assert [log["mine/step"] for log in steps_of(trainer)] == [0.0, 1.0, 2.0]
    for log in steps_of(trainer):
        assert log["mine/length"] == pytest.approx(log["completions/mean_length"], abs=2), "characters and tokens"
        assert log["logged/reward"] == -7.0 and 0 <= log["reward"] <= 1
    held_out = [log["eval_mine/step"] for log in trainer.state.log_history if "eval_reward" in log]
    assert held_out == [2.0, 3.0]


def test_between_two_logs_metrics_are_averaged_over_the_steps(make_trainer):
    trainer = make_trainer(reward=logs, max_steps=4, logging_steps=2)
    trainer.train()
    assert [log["mine/step"] for log in steps_of(trainer)] == [0.5, 2.5]


def test_a_metric_of_some_steps_is_averaged_over_those(make_trainer):
    def sometimes(completions, log_metric, trainer_state, **_):
        if trainer_state.global_step % 2:
            log_metric("odd", trainer_state.global_step)
        return [float(len(text)) for text in completions]

    trainer = make_trainer(reward=sometimes, max_steps=4, logging_steps=4)
    trainer.train()
    assert steps_of(trainer)[0]["odd"] == 2.0


def test_columns_are_in_every_row_of_the_rollout_log(make_trainer, tmp_path):
    path = tmp_path / "rollouts.jsonl"
    make_trainer(reward=logs, extras={"observers": [RolloutLog(path)]}).train()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 16
    assert all(row["extras"] == {"upper": row["completion"].upper()} for row in rows)


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step:UserWarning")
def test_a_resume_between_two_updates_has_what_was_logged_once(make_trainer, tmp_path):
    """The rollouts of update 3 are pending in the checkpoint: update 4 logs their metrics, and calls no reward."""
    settings = {"max_steps": 5, "num_iterations": 2, "save_strategy": "steps", "save_steps": 3}
    called = []

    def counted(completions, trainer_state, log_metric, log_extra, **_):
        called.append(trainer_state.global_step)
        return logs(completions, log_metric, log_extra, trainer_state)

    whole = make_trainer(reward=counted, **settings)
    whole.train()
    assert called == [0, 2, 4]
    resumed = make_trainer(reward=counted, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert called == [0, 2, 4, 4]
    assert [log["mine/step"] for log in steps_of(resumed)] == [0.0, 0.0, 2.0, 2.0, 4.0]
    assert [log["mine/length"] for log in steps_of(resumed)] == [log["mine/length"] for log in steps_of(whole)]


def test_a_checkpoint_keeps_the_columns_of_what_is_pending(make_trainer, tmp_path):
    settings = {"num_iterations": 2, "save_strategy": "steps", "save_steps": 1}
    make_trainer(reward=logs, max_steps=1, **settings).train()
    resumed = make_trainer(reward=logs, max_steps=2, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    rollouts = [rollout for group in resumed.loop.pending.groups for rollout in group.rollouts]
    assert all(rollout.extras == {"upper": rollout.completion.text.upper()} for rollout in rollouts)
