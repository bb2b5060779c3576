"""The loop's seams and what audits found wrong with it: observers, resumes, leftovers, logs, penalties."""

from __future__ import annotations

import importlib.util
import json
import logging
import random
import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch

from dunwu._utils.distributed import ParallelContext
from dunwu.config import GRPOConfig
from dunwu.core.protocols import Observer
from dunwu.core.records import RunInfo, StepResult
from dunwu.errors import CheckpointError, ConfigError, DataError, EngineError
from dunwu.training.checkpoint import SavedRun, load_run, save_run, weights_fingerprint


def low(completions, **_):
    """Share of letters from a to m: groups differ, and every step has a gradient."""
    return [sum(c in "abcdefghijklm" for c in text) / max(1, len(text)) for text in completions]


class Diary(Observer):
    """Writes down every event."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def on_run_start(self, run: RunInfo) -> None:
        self.events.append(("start", run.resumed_from, run.total_steps))

    def on_rollouts(self, step, groups) -> None:
        self.events.append(("rollouts", step, sum(len(group.rollouts) for group in groups)))

    def on_step(self, step: StepResult) -> None:
        self.events.append(("step", step.index, step.policy_version))
        self.last = step

    def on_evaluation(self, step, metrics, groups) -> None:
        self.events.append(("evaluation", step, len(groups), "eval_reward" in metrics))

    def on_run_end(self) -> None:
        self.events.append(("end",))


# -- observers -----------------------------------------------------------------------------------------------------


def test_an_observer_gets_the_start_each_sampling_once_each_step_evaluations_and_the_end(make_trainer):
    """With two updates a sampling, rollouts came twice; evaluation's never came."""
    diary = Diary()
    trainer = make_trainer(reward=low, max_steps=4, num_iterations=2, extras={"observers": [diary]})
    trainer.train()
    trainer.evaluate([{"prompt": "say six"}])
    assert diary.events == [
        ("start", 0, 4),
        ("rollouts", 1, 8),
        ("step", 1, 0),
        ("step", 2, 0),
        ("rollouts", 3, 8),
        ("step", 3, 2),
        ("step", 4, 2),
        ("end",),
        ("evaluation", 4, 1, True),
    ]
    assert diary.last.learning_rate > 0 and 0 < diary.last.epoch <= 1


def test_an_observer_of_a_resumed_run_gets_the_step_it_resumes_from(make_trainer, tiny, tmp_path):
    settings = {"reward": low, "num_iterations": 2, "save_strategy": "steps", "save_steps": 3}
    make_trainer(**settings, max_steps=3).train()
    diary = Diary()
    trainer = make_trainer(tiny.model(seed=9), **settings, max_steps=6, extras={"observers": [diary]})
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert diary.events[0] == ("start", 3, 6)
    # Step 4 is the second update of what was sampled for step 3: nothing is sampled, and its groups are known.
    assert [event[:2] for event in diary.events[1:]] == [
        ("step", 4),
        ("rollouts", 5),
        ("step", 5),
        ("step", 6),
        ("end",),
    ]
    assert len(diary.last.groups) == 2


def test_an_observer_gets_the_end_of_a_run_that_fails(make_trainer):
    class Failing(Diary):
        def on_step(self, step: StepResult) -> None:
            raise RuntimeError("the disk of the observer is full")

    diary = Failing()
    with pytest.raises(RuntimeError, match="the disk of the observer"):
        make_trainer(reward=low, extras={"observers": [diary]}).train()
    assert diary.events[-1] == ("end",)


# -- leftovers and resumes -----------------------------------------------------------------------------------------


def test_a_second_call_of_train_starts_with_rollouts_of_its_own(make_trainer):
    """It began with an update left over from the first call: an importance ratio of 1.97 at its first step."""
    diary = Diary()
    trainer = make_trainer(
        reward=low, max_steps=3, num_iterations=2, learning_rate=1e-2, extras={"observers": [diary]}
    )
    trainer.train()
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(1.1)
    first = len(trainer.state.log_history)
    trainer.train()
    again = [log for log in trainer.state.log_history if "importance_ratio/mean" in log][-3:]
    assert again[0]["importance_ratio/mean"] == pytest.approx(1.0, abs=1e-6)
    assert first and diary.events.count(("rollouts", 1, 8)) == 2


def test_no_step_is_taken_where_max_steps_is_0(make_trainer):
    trainer = make_trainer(reward=low, max_steps=0)
    before = weights_fingerprint(trainer.model)
    assert trainer.train().global_step == 0
    assert trainer.planned_steps() == 0 and weights_fingerprint(trainer.model) == before


def test_a_reward_that_draws_numbers_draws_the_same_after_a_resume(make_trainer, tiny, tmp_path):
    """Rollouts of the first step came before the random states were put back."""

    def dice(completions, **_):
        return [random.random() for _ in completions]

    settings = {"reward": dice, "save_strategy": "steps", "save_steps": 2, "seed": 3}
    random.seed(1)
    whole = make_trainer(**settings, max_steps=5)
    whole.train()
    rewards = [log["reward"] for log in whole.state.log_history if "reward" in log]
    random.seed(99)
    resumed = make_trainer(tiny.model(seed=9), **settings, max_steps=5)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert [log["reward"] for log in resumed.state.log_history if "reward" in log] == rewards
    assert weights_fingerprint(resumed.model) == weights_fingerprint(whole.model)


def test_pending_rollouts_of_other_weights_are_refused(make_trainer, tmp_path):
    """A kill while an older checkpoint is written over left weights of one run with pending rollouts of another."""
    settings = {"reward": low, "num_iterations": 2, "save_strategy": "steps", "save_steps": 3, "max_steps": 3}
    make_trainer(**settings).train()
    other = make_trainer(**settings | {"output_dir": str(tmp_path / "other"), "seed": 7, "learning_rate": 1e-2})
    other.train()
    mixed = tmp_path / "run" / "checkpoint-3"
    shutil.copy(tmp_path / "other" / "checkpoint-3" / "pending.pt", mixed / "pending.pt")
    with pytest.raises(CheckpointError, match=r"sampled with other weights .* mixed two runs"):
        make_trainer(**settings | {"max_steps": 6}).train(resume_from_checkpoint=str(mixed))


def test_files_of_two_runs_in_one_checkpoint_are_refused(tmp_path):
    for rank, run in enumerate(("one", "two")):
        context = ParallelContext(rank=rank, size=2)
        save_run(tmp_path, SavedRun(pending=None, run_id=run), context)
    with pytest.raises(CheckpointError, match="mixes the files of two runs"):
        load_run(tmp_path, ParallelContext(rank=0, size=2), [], temperature=1.0, weights="")


def test_an_old_checkpoint_folder_does_not_count_as_complete_while_it_is_written_over(make_trainer, tmp_path):
    settings = {"reward": low, "save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    make_trainer(**settings).train()
    folder = tmp_path / "run" / "checkpoint-2"
    assert (folder / "trainer_state.json").exists()
    trainer = make_trainer(**settings)
    seen = []
    trainer._save = lambda *args, **kwargs: seen.append((folder / "trainer_state.json").exists())
    trainer.train()
    assert seen == [False] and (folder / "trainer_state.json").exists()


@pytest.mark.parametrize("now", [1, 2, 3])
def test_pending_rollouts_of_another_number_of_processes_are_each_trained_on_once(make_trainer, tmp_path, now):
    """Half of them were dropped in silence where a checkpoint of two processes was resumed with one."""
    trainer = make_trainer(reward=low, num_iterations=2, max_steps=1, tokens_per_micro_batch=20)
    trainer.train()
    pending = trainer.loop.pending
    assert pending.updates_left == 1 and len(pending.batches) > 2
    for rank in range(2):
        context = ParallelContext(rank=rank, size=2)
        own = replace(
            pending, batches=list(context.share(pending.batches)), groups=list(context.share(pending.groups))
        )
        save_run(tmp_path / "c", SavedRun(pending=own, run_id="a", weights="w"), context)
    found = [
        load_run(tmp_path / "c", ParallelContext(rank=rank, size=now), trainer.prompts, temperature=1.0, weights="w")
        for rank in range(now)
    ]
    weights = sum(float(batch.weights_BC.sum()) for saved in found for batch in saved.pending.batches)
    assert weights == pytest.approx(sum(float(batch.weights_BC.sum()) for batch in pending.batches))
    assert sum(len(saved.pending.groups) for saved in found) == len(pending.groups)
    assert all(saved.pending.denominator == pending.denominator and saved.pending.batches for saved in found)


def test_a_checkpoint_of_the_format_before_is_read(make_trainer, tiny, tmp_path):
    """Checkpoints saved before fields were renamed go on working."""
    settings = {"reward": low, "num_iterations": 2, "save_strategy": "steps", "save_steps": 3, "temperature": 0.9}
    whole = make_trainer(**settings, max_steps=6)
    whole.train()
    checkpoint = tmp_path / "run" / "checkpoint-3"
    state = torch.load(checkpoint / "pending.pt", weights_only=True)
    for name in ("format", "ranks", "run_id", "weights"):
        del state[name]
    del state["pending"]["policy_version"]
    for group in state["pending"]["groups"]:
        group["key"] = group.pop("row")
        for rollout in group["rollouts"]:
            said = rollout["completion"]
            rollout["completion"] = {
                "ids": said["ids"],
                "logps": said["sampler_logps"],
                "finish": said["finish_reason"],
                "text": said["text"],
            }
    for batch in state["pending"]["batches"]:
        del batch["temperature"]
    torch.save(state, checkpoint / "pending.pt")
    resumed = make_trainer(tiny.model(seed=9), **settings, max_steps=6)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert weights_fingerprint(resumed.model) == weights_fingerprint(whole.model)


def test_a_resume_with_other_prompts_a_step_is_warned_of(make_trainer, tiny, tmp_path, caplog):
    settings = {"reward": low, "save_strategy": "steps", "save_steps": 2}
    make_trainer(**settings, max_steps=2).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    with caplog.at_level(logging.WARNING, logger="dunwu"):
        make_trainer(tiny.model(seed=9), **settings, max_steps=3).train(resume_from_checkpoint=checkpoint)
    assert "other prompts a step" not in caplog.text
    with caplog.at_level(logging.WARNING, logger="dunwu"):
        make_trainer(tiny.model(seed=9), **settings, max_steps=3, prompts_per_step=3).train(
            resume_from_checkpoint=checkpoint
        )
    assert "prompts_per_step was 2 and is 3" in caplog.text


# -- what is logged ------------------------------------------------------------------------------------------------


def test_the_last_steps_are_logged_whatever_logging_steps_divides(make_trainer):
    trainer = make_trainer(reward=low, max_steps=5, logging_steps=3)
    trainer.train()
    logged = [log["step"] for log in trainer.state.log_history if "reward" in log]
    assert logged == [3, 5]


def test_no_metrics_accumulate_where_nothing_is_logged(make_trainer):
    trainer = make_trainer(reward=low, max_steps=3, logging_strategy="no")
    trainer.train()
    assert trainer.metrics_buffer.state() == {} and trainer.metrics_buffer.latest()["reward"] >= 0


def test_samples_a_second_are_the_completions_of_this_call(make_trainer):
    trainer = make_trainer(reward=low, max_steps=4, num_iterations=2)
    metrics = trainer.train().metrics
    assert metrics["train_samples_per_second"] == pytest.approx(2 * 8 / metrics["train_runtime"], rel=0.01)


def test_a_step_size_that_changes_is_named_with_both_sizes(make_trainer, caplog):
    """ "2 prompts" was promised where every step took 3: what does not divide went into the first steps."""
    with caplog.at_level(logging.INFO, logger="dunwu"):
        trainer = make_trainer(
            rows=tuple({"prompt": f"say {word}"} for word in "abcde"), prompts_per_step=2, max_steps=4
        )
        sizes = [len(step) for step in trainer._order()]
        trainer.train()
    assert sizes == [2, 3]
    assert "2 prompts × 4 completions = 8 or 3 × 4 = 12 a step; 2 steps an epoch of 5 prompts" in caplog.text


def test_what_does_not_divide_is_spread_over_the_epoch(make_trainer):
    trainer = make_trainer(rows=tuple({"prompt": f"say {i}"} for i in range(13)), prompts_per_step=2)
    order = list(trainer._order())
    assert [len(step) for step in order] == [2, 2, 2, 2, 2, 3]
    assert sorted(index for step in order for index in step) == list(range(13))


# -- evaluation ----------------------------------------------------------------------------------------------------


def test_the_best_model_is_found_by_its_reward_and_evaluation_has_a_loss(make_trainer, tmp_path):
    """`load_best_model_at_end` trained to the first evaluation and died with a KeyError on `eval_loss`."""
    trainer = make_trainer(
        reward=low,
        max_steps=4,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        extras={"eval_dataset": [{"prompt": "say one"}, {"prompt": "say two"}]},
    )
    trainer.train()
    evaluated = [log for log in trainer.state.log_history if "eval_reward" in log]
    assert len(evaluated) == 2 and all(isinstance(log["eval_loss"], float) for log in evaluated)
    assert trainer.state.best_metric == max(log["eval_reward"] for log in evaluated)


def test_the_evaluation_loss_is_the_loss_these_rollouts_would_have(make_trainer):
    """By hand: at a ratio of 1 the clipped loss of a token is minus its advantage; `dapo` divides by all tokens."""
    trainer = make_trainer(reward=low)
    found, groups = trainer._collector.collect_eval(trainer.prompts[:2], trainer.model, 0)
    from dunwu.rollout.collect import add_advantages

    rollouts = [r for group in add_advantages(groups, trainer.algorithm) for r in group.rollouts]
    tokens = [len(r.completion.ids) for r in rollouts]
    expected = -sum(r.advantage * n for r, n in zip(rollouts, tokens, strict=True)) / sum(tokens)
    assert found["loss"] == pytest.approx(expected, abs=1e-6)


def test_predict_is_refused_with_what_to_call_instead(make_trainer):
    with pytest.raises(ConfigError, match="call evaluate"):
        make_trainer().predict([{"prompt": "x"}])


# -- the KL in the reward ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [{"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"repetition_penalty": 1.3}])
def test_a_kl_in_the_reward_is_0_at_step_0_whatever_cuts_the_sampling(make_trainer, cut):
    """The sampler's log-probabilities are renormalised, the reference's are not: up to 18 nats steered advantages."""

    def same(completions, **_):
        return [1.0] * len(completions)

    trainer = make_trainer(reward=same, beta=0.5, kl_in="reward", max_completion_length=12, **cut)
    pending = trainer._collector.collect_step(trainer.prompts[:2], trainer.model, 0)
    rewards = [r.reward for group in pending.groups for r in group.rollouts]
    assert rewards == pytest.approx([1.0] * 8, abs=1e-5)


def test_the_reference_of_a_kl_in_the_reward_is_computed_once(make_trainer, monkeypatch):
    trainer = make_trainer(reward=low, beta=0.1, kl_in="reward")
    rows = []
    plain = trainer.reference.logps

    def counted(batch, *rest):
        rows.append(len(batch.lengths))
        return plain(batch, *rest)

    monkeypatch.setattr(trainer.reference, "logps", counted)
    pending = trainer._collector.collect_step(trainer.prompts[:2], trainer.model, 0)
    assert sum(rows) == 8
    for batch in pending.batches:
        assert batch.reference_logps_BC is not None
        assert torch.equal(batch.reference_logps_BC[0, : batch.lengths[0]], plain(batch)[0, : batch.lengths[0]]) or (
            torch.allclose(batch.reference_logps_BC, plain(batch), atol=1e-5)
        )


class Elsewhere:
    """An engine that samples from other weights than the policy's."""

    def __init__(self, tiny: Any) -> None:
        from dunwu.engines import TransformersEngine

        self.inner = TransformersEngine(tiny.model(seed=5), tiny.tokenizer())

    def sync_weights(self, policy, *, version):
        """Forgotten: the weights stay what they were."""

    def session(self):
        return self.inner.session()

    def generate(self, prompts, sampling):
        return self.inner.generate(prompts, sampling)


def test_a_run_whose_completions_come_from_another_model_is_stopped_at_its_first_step(make_trainer, tiny):
    """It would have caught six of the audits' findings: dropout, adapters the engine does not see, stale weights."""
    trainer = make_trainer(reward=low)
    trainer._collector.engine = Elsewhere(tiny)  # one of ours that has gone wrong
    before = weights_fingerprint(trainer.model)
    with pytest.raises(EngineError, match=r"differ by .* nats a token.*importance_correction='truncate'"):
        trainer.train()
    assert weights_fingerprint(trainer.model) == before


def test_a_sampler_that_is_meant_to_differ_is_corrected_and_warned_of(make_trainer, tiny, caplog):
    with caplog.at_level(logging.WARNING, logger="dunwu"):
        make_trainer(reward=low, importance_correction="mask", extras={"engine": Elsewhere(tiny)}).train()
        make_trainer(reward=low, extras={"engine": Elsewhere(tiny)}).train()
    assert caplog.text.count("nats a token") == 2


# -- datasets ------------------------------------------------------------------------------------------------------


def test_a_dataset_of_several_splits_is_refused_with_what_to_give(make_trainer):
    import datasets

    both = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_list([{"prompt": "say one"}, {"prompt": "say two"}])
            for name in ("train", "test")
        }
    )
    with pytest.raises(DataError, match=r"'train', 'test'.*dataset\['train'\]"):
        make_trainer(rows=both)


def test_rows_that_are_no_mappings_are_refused_with_how_to_write_them(make_trainer):
    with pytest.raises(DataError, match=r"row 0 of the dataset is 'say one'.*\{'prompt'"):
        make_trainer(rows=["say one", "say two"])


def test_a_pandas_table_is_a_dataset(make_trainer):
    import pandas

    trainer = make_trainer(rows=pandas.DataFrame({"prompt": ["say one", "say two"], "answer": [1, 2]}))
    assert [prompt.row["answer"] for prompt in trainer.prompts] == [1, 2]


def test_messages_of_text_parts_are_joined_and_other_parts_refused(make_trainer):
    parts = [{"type": "text", "text": "say "}, {"type": "text", "text": "one"}]
    trainer = make_trainer(rows=({"prompt": [{"role": "user", "content": parts}]},) * 2)
    assert "say one" in trainer.prompts[0].text
    image = [{"type": "image", "image": "x.png"}]
    with pytest.raises(DataError, match="a part of type 'image'"):
        make_trainer(rows=({"prompt": [{"role": "user", "content": image}]},) * 2)


def test_a_template_that_raises_is_named_with_its_row(make_trainer, tiny):
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    rows = ({"prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]},) * 2
    with pytest.raises(DataError, match=r"row 0 \(roles \['system', 'user'\]\): System role not supported"):
        make_trainer(rows=rows, tokenizer=tokenizer)


def test_options_of_another_class_are_refused_in_one_sentence(tiny):
    from transformers import TrainingArguments

    from dunwu.training.trainer import GRPOTrainer

    with pytest.raises(ConfigError, match="args must be a GRPOConfig, got TrainingArguments"):
        GRPOTrainer(tiny.model(), low, TrainingArguments("out"), [{"prompt": "x"}], processing_class=tiny.tokenizer())  # type: ignore[arg-type]


def test_a_refused_step_keeps_its_rollouts_in_the_one_schema(make_trainer, tmp_path):
    from dunwu.core.metrics import rollout_row
    from dunwu.training.checkpoint import dump_nonfinite_step

    trainer = make_trainer(reward=low)
    pending = trainer._collector.collect_step(trainer.prompts[:2], trainer.model, 0)
    folder = dump_nonfinite_step(tmp_path, 1, pending)
    lines = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    assert lines[0].keys() - {"sampler_logps"} == rollout_row(1, pending.groups[0], 0).keys()
    assert [line["sample"] for line in lines] == [0, 1, 2, 3] * 2


# -- options -------------------------------------------------------------------------------------------------------


def test_a_sequence_ratio_with_a_loss_that_adds_up_tokens_is_warned_of(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="dunwu"):
        GRPOConfig(output_dir=str(tmp_path), loss_type="dapo", importance_sampling_level="sequence")
    assert "a sequence then weighs by its length" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="dunwu"):
        GRPOConfig(output_dir=str(tmp_path), loss_type="gspo")
    assert "weighs by its length" not in caplog.text


def test_options_that_a_loss_does_not_have_are_warned_of(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="dunwu"):
        GRPOConfig(output_dir=str(tmp_path), loss_type="cispo", delta=3.0, epsilon=0.3)
    assert "delta and epsilon do nothing with loss_type='cispo'; its options are cap" in caplog.text


def test_noise_in_the_policy_alone_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="neftune_noise_alpha adds noise in training and not in sampling"):
        GRPOConfig(output_dir=str(tmp_path), neftune_noise_alpha=5.0)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_an_optimizer_whose_package_is_missing_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(ConfigError, match=r"optim='adamw_8bit' needs the package bitsandbytes.*pip install"):
        GRPOConfig(output_dir=str(tmp_path), optim="adamw_8bit")


def test_a_level_of_no_ratio_has_the_policys_gradient(make_trainer, tiny):
    """With a clipped loss it had none: a crash without KL, nothing learned from the reward with one."""
    trainer = make_trainer(reward=low, importance_sampling_level="none", loss_type="grpo", beta=0.0)
    plain = make_trainer(reward=low, loss_type="grpo", beta=0.0)
    assert tiny.far(tiny.backward(trainer), tiny.backward(plain)) < 1e-6
