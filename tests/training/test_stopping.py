"""A run that somebody stops, and one that is resumed with other options or after its end."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from dunwu.training.checkpoint import weights_fingerprint
from dunwu.training.interruption import RunInterrupted

SETTINGS = {"max_steps": 6, "num_iterations": 2, "lr_scheduler_type": "linear", "logging_steps": 1}


class StoppedAt:
    """Raises a signal in the middle of a step, as Ctrl-C does, and goes on as if nothing had happened."""

    __name__ = "stopped"

    def __init__(self, call: int, number: signal.Signals = signal.SIGINT, times: int = 1) -> None:
        self.call, self.number, self.times, self.calls = call, number, times, 0

    def __call__(self, completions, **columns):
        self.calls += 1
        if self.calls == self.call:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
        return [sum(c.islower() for c in text) / max(1, len(text)) for text in completions]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_saves_the_step_and_resumes_as_if_it_had_not_been(make_trainer, tiny, tmp_path, number):
    whole = make_trainer(reward=StoppedAt(0), **SETTINGS)
    whole.train()
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    stopped = make_trainer(reward=StoppedAt(2, number), **SETTINGS)  # the second sampling is that of step 3
    with pytest.raises(RunInterrupted, match=r"stopped after step 3 of 6; everything .* in .*checkpoint-3"):
        stopped.train()
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-3"]
    resumed = make_trainer(tiny.model(seed=9), StoppedAt(0), **SETTINGS)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    assert weights_fingerprint(resumed.model) == weights_fingerprint(whole.model)


def test_a_second_ctrl_c_stops_at_once_and_leaves_the_signals_as_they_were(make_trainer, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    trainer = make_trainer(reward=StoppedAt(1, times=2), **SETTINGS)
    with pytest.raises(KeyboardInterrupt) as stopped:
        trainer.train()
    assert not isinstance(stopped.value, RunInterrupted)
    assert trainer.state.global_step == 0 and not list((tmp_path / "run").glob("checkpoint-*"))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_handler_of_the_users_is_left_alone(make_trainer):
    received = []
    before = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        trainer = make_trainer(reward=StoppedAt(1), **SETTINGS)
        trainer.train()
    finally:
        signal.signal(signal.SIGINT, before)
    assert received == [signal.SIGINT] and trainer.state.global_step == 6


def test_who_stops_the_last_step_has_a_finished_run(make_trainer, tmp_path):
    trainer = make_trainer(reward=StoppedAt(2), **SETTINGS | {"max_steps": 3})
    trainer.train()
    assert trainer.state.global_step == 3


def test_a_finished_run_that_is_resumed_takes_no_step_and_keeps_its_checkpoints(make_trainer, tiny, tmp_path, caplog):
    """It took a step beyond its last one, and the rotation deleted a good checkpoint for it."""
    settings = SETTINGS | {"save_strategy": "steps", "save_steps": 3, "save_total_limit": 2}
    whole = make_trainer(**settings)
    whole.train()
    resumed = make_trainer(tiny.model(seed=9), **settings)
    with caplog.at_level("INFO", logger="dunwu"):
        result = resumed.train(resume_from_checkpoint=True)
    assert result.global_step == resumed.state.global_step == 6
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-6"]
    assert weights_fingerprint(resumed.model) == weights_fingerprint(whole.model)
    assert "nothing is left to train: all 6 steps were made before" in caplog.text


def test_a_finished_run_takes_more_steps_where_they_are_asked_for(make_trainer, tiny):
    settings = SETTINGS | {"save_strategy": "steps", "save_steps": 3}
    make_trainer(**settings).train()
    more = make_trainer(tiny.model(seed=9), **settings | {"max_steps": 8})
    more.train(resume_from_checkpoint=True)
    assert more.state.global_step == 8


def test_a_learning_rate_given_at_a_resume_is_the_one_that_trains(make_trainer, tiny, tmp_path: Path, caplog):
    """transformers restores the checkpoint's: what the user had changed was ignored without a word."""
    settings = {"max_steps": 4, "lr_scheduler_type": "linear", "save_strategy": "steps", "save_steps": 2}
    make_trainer(**settings, learning_rate=1e-3, weight_decay=0.0).train()
    rates = []

    class Watch:
        def on_step(self, step):
            rates.append(step.learning_rate)

    resumed = make_trainer(
        tiny.model(seed=9), **settings, learning_rate=4e-3, weight_decay=0.1, extras={"observers": [Watch()]}
    )
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    with caplog.at_level("INFO", logger="dunwu"):
        resumed.train(resume_from_checkpoint=checkpoint)
    assert rates == pytest.approx([4e-3 * 2 / 4, 4e-3 * 1 / 4])
    assert "resumed with learning_rate=0.004 in place of 0.001" in caplog.text
    assert "resumed with weight_decay=0.1 in place of 0.0" in caplog.text
    decayed = [group["weight_decay"] for group in resumed.optimizer.param_groups]
    assert decayed == [0.1, 0.0], "biases and norms are not decayed, as in a fresh run"


def test_a_plain_resume_puts_back_the_same_numbers_to_the_bit(make_trainer, tiny, tmp_path, caplog):
    settings = {"max_steps": 6, "lr_scheduler_type": "cosine", "warmup_steps": 2, "save_strategy": "steps"}
    whole = make_trainer(**settings, save_steps=3)
    whole.train()
    resumed = make_trainer(tiny.model(seed=9), **settings, save_steps=3)
    with caplog.at_level("INFO", logger="dunwu"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert "in place of" not in caplog.text
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
