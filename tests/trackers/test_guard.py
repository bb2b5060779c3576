"""A tracker that fails costs a warning; a user's own callback that fails is the user's to see."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from dunwu._utils.logging import forget_logged_once
from dunwu.core.records import Completion, Group, Rollout, StepResult
from dunwu.trackers import CompletionTables, guard_callbacks
from dunwu.trackers.completion_tables import completion_rows
from dunwu.trackers.guard import is_off, tracker_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")


@pytest.fixture(autouse=True)
def nothing_said_yet() -> None:
    """What is said once a process is said once a test."""
    forget_logged_once()


class BreaksTheWriter(TrainerCallback):
    """A user's callback, after whose first step TensorBoard has a writer that cannot write."""

    def __init__(self, tensorboard: TensorBoardCallback) -> None:
        self.tensorboard = tensorboard

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            self.tensorboard.tb_writer.close()
            self.tensorboard.tb_writer = 7


class Fails(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise RuntimeError("mine")


def test_a_tracker_that_fails_mid_run_is_switched_off_and_the_run_goes_on(
    make_trainer: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    tensorboard = TensorBoardCallback()
    trainer = make_trainer(
        max_steps=3, logging_steps=1, extras={"callbacks": [tensorboard, BreaksTheWriter(tensorboard)]}
    )
    assert trainer.train().global_step == 3
    warnings = [record.message for record in caplog.records if "switched off" in record.message]
    assert len(warnings) == 1
    assert warnings[0].startswith("tensorboard failed in on_log (AttributeError: 'int' object has no attribute")
    assert warnings[0].endswith("it is switched off and the run goes on without it")


def test_a_tracker_added_after_the_trainer_was_made_is_guarded_too(
    make_trainer: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(max_steps=1)
    late = TensorBoardCallback()
    late._SummaryWriter = None
    late.logging_dir = 7  # what it does with it fails at the start
    late.tb_writer = 7
    trainer.add_callback(late)
    assert trainer.train().global_step == 1
    assert "tensorboard failed in on_train_begin" in caplog.text


def test_a_tracker_that_fails_at_an_evaluation_before_any_training_costs_a_warning_too(
    make_trainer: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    tensorboard = TensorBoardCallback()
    tensorboard.tb_writer = 7
    trainer = make_trainer(extras={"callbacks": [tensorboard], "eval_dataset": [{"prompt": "say one"}]})
    assert "eval_reward" in trainer.evaluate()
    assert "tensorboard failed in on_log" in caplog.text


def test_a_users_own_callback_is_not_guarded(make_trainer: Callable[..., Any]) -> None:
    with pytest.raises(RuntimeError, match="mine"):
        make_trainer(extras={"callbacks": [Fails()]}).train()


def test_a_class_that_a_user_derived_from_a_tracker_counts_as_the_users_own() -> None:
    class Mine(TensorBoardCallback):
        pass

    assert tracker_of(TensorBoardCallback()) == "tensorboard"
    assert tracker_of(Mine()) is None
    assert tracker_of(Fails()) is None


def test_a_guarded_callback_is_still_found_by_its_class(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(extras={"callbacks": [TensorBoardCallback()]})
    assert isinstance(trainer.pop_callback(TensorBoardCallback), TensorBoardCallback)


def test_a_failure_shows_no_key(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    callback = TensorBoardCallback()

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("401 for 0123456789abcdef0123456789abcdef01234567 at the server")

    monkeypatch.setattr(callback, "on_log", fail)
    guard_callbacks([callback])
    callback.on_log(None, None, None)
    assert "(ConnectionError: 401 for *** at the server)" in caplog.text


def one_group(tiny: Any, texts: int) -> Group:
    rollouts = tuple(
        Rollout(
            completion=Completion(ids=(5, 1), sampler_logps=(-0.1, -0.2), finish_reason="stop", text=f"<b>|\n{i}"),
            reward=float(i),
            scores={"reward": float(i), "length": None},
            advantage=i - 1.0,
        )
        for i in range(texts)
    )
    return Group(prompt=tiny.prompts("say it")[0], rollouts=rollouts)


def test_a_table_has_a_row_a_completion_and_at_most_64(tiny: Any) -> None:
    columns, rows = completion_rows(7, [one_group(tiny, 40), one_group(tiny, 40)])
    assert columns == [
        *("step", "prompt", "completion", "reward (function)", "length"),
        *("reward", "advantage", "finish_reason"),
    ]
    assert len(rows) == 64
    assert rows[1][0] == 7 and rows[1][2:] == ["<b>|\n1", 1.0, None, 1.0, 0.0, "stop"]
    json.dumps(rows)


def test_what_rewards_logged_are_columns_of_the_table(tiny: Any) -> None:
    """After the functions, as in TRL's; a name that is taken is told apart, and a list is text."""
    group = one_group(tiny, 2)
    logged = ({"gold": "1/3", "length": 2}, {"gold": ["1", "3"], "parts": 2})
    rollouts = tuple(replace(r, extras=extras) for r, extras in zip(group.rollouts, logged, strict=True))
    columns, rows = completion_rows(7, [replace(group, rollouts=rollouts)])
    assert columns == [
        *("step", "prompt", "completion", "reward (function)", "length", "gold", "length (logged)", "parts"),
        *("reward", "advantage", "finish_reason"),
    ]
    assert [row[5:8] for row in rows] == [["1/3", 2, None], ["['1', '3']", None, 2]]


def test_tables_come_with_the_logged_steps_and_with_every_evaluation(tiny: Any, tmp_path: Path) -> None:
    """The trainer's list of callbacks may grow after the observer was made."""
    writer = SummaryWriter(tmp_path)
    callback = TensorBoardCallback(writer)
    callbacks: list[TrainerCallback] = []
    tables, by_function = CompletionTables(callbacks, every=2), CompletionTables(lambda: callbacks)
    callbacks.append(callback)
    for index in range(1, 6):
        tables.on_step(StepResult(index=index, groups=(one_group(tiny, 2),), metrics={}))
    by_function.on_evaluation(5, {}, [one_group(tiny, 3)])
    tables.on_evaluation(5, {}, [])
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [text.step for text in events.Tensors("completions/text_summary")] == [2, 4]
    (evaluated,) = events.Tensors("eval_completions/text_summary")
    assert evaluated.step == 5 and len(evaluated.tensor_proto.string_val[0].decode().splitlines()) == 2 + 3


def test_a_tracker_that_takes_no_table_is_asked_once_and_keeps_its_scalars(
    tiny: Any, caplog: pytest.LogCaptureFixture
) -> None:
    callback = TensorBoardCallback()
    callback.tb_writer = 7
    guard_callbacks([callback])
    tables = CompletionTables([callback])
    for index in (1, 2):
        tables.on_step(StepResult(index=index, groups=(one_group(tiny, 2),), metrics={}))
    assert caplog.text.count("tensorboard does not accept tables of completions (AttributeError") == 1
    assert not is_off(callback)
