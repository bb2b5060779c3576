"""The trainer end to end, on a random model of some 30,000 weights: what it says, learns, keeps and refuses."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import textwrap
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from dunwu._utils.distributed import ParallelContext
from dunwu.config import PRESETS
from dunwu.core.records import SamplingParams
from dunwu.engines import TransformersEngine
from dunwu.errors import NonFiniteError
from dunwu.model.loading import trainable_parameters
from dunwu.model.logprobs import forward_logps
from dunwu.model.reference import ReferenceModel
from dunwu.rollout.micro_batches import make_micro_batches
from dunwu.training.checkpoint import SavedRun, load_run, remove_if_write_fails, save_run

PEFT_WARNS = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft 0.21, our 5.23


def low(completions, **_):
    """Share of letters from a to m: about a sixth at first, so that groups differ and every step has a gradient."""
    return [sum(c in "abcdefghijklm" for c in text) / max(1, len(text)) for text in completions]


def lora(**options: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **options)


def logs_of(trainer: Any, *, after: int = 0) -> list[dict[str, float]]:
    """What was logged after a step, without what a clock said."""
    return [
        {k: v for k, v in log.items() if "time" not in k and "per_second" not in k and k != "train_loss"}
        for log in trainer.state.log_history
        if log["step"] > after
    ]


def same_weights(one: Any, other: Any) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


# -- what is said --------------------------------------------------------------------------------------------------


def test_a_run_logs_a_summary_before_its_first_step(make_trainer, caplog):
    with caplog.at_level(logging.INFO, logger="dunwu"):
        make_trainer(max_steps=1, learning_rate=1e-6).train()
    said = caplog.text
    assert "2 prompts × 4 completions = 8 a step; 3 steps an epoch of 6 prompts, 1 in this run" in said
    assert "parameters train, in float32 on cpu" in said
    assert "the loss does not show progress" in said
    assert "the first prompt, as the model reads it (7 tokens):\n  say one\n  its last ids: " in said
    assert "as the model sees it" not in said and "processes" not in said


def test_a_verbose_run_logs_the_first_prompt_token_by_token(make_trainer, caplog):
    with caplog.at_level(logging.DEBUG, logger="dunwu"):
        make_trainer(max_steps=1).train()
    assert "the first prompt, as the model sees it:\nsay one\n  ids (7): " in caplog.text
    assert "as the model reads it" not in caplog.text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"loss_type": "grpo"}, "the loss will read 0 at every step, by construction"),
        ({"loss_type": "grpo", "num_iterations": 2}, "it hovers around 0. Watch reward and length"),
        ({"num_iterations": 3}, "a step, 3 updates from each"),
    ],
)
def test_a_run_logs_what_its_loss_will_look_like(make_trainer, caplog, options, sentence):
    """A loss of 0 is the first thing people report as a bug."""
    with caplog.at_level(logging.INFO, logger="dunwu"):
        make_trainer(max_steps=1, **options).train()
    assert sentence in caplog.text


def test_the_launch_note_about_grpos_loss_is_true(make_trainer):
    trainer = make_trainer(loss_type="grpo", max_steps=3, learning_rate=1e-2)
    trainer.train()
    assert [log["loss"] for log in logs_of(trainer)[:3]] == pytest.approx([0.0] * 3, abs=1e-6)
    assert all(log["grad_norm"] > 0.01 for log in logs_of(trainer)[:3])


def test_weights_that_small_steps_cannot_move_are_warned_of(tiny, make_trainer, caplog):
    with caplog.at_level(logging.INFO, logger="dunwu"):
        make_trainer(tiny.model().to(torch.bfloat16), max_steps=1, learning_rate=1e-6).train()
    assert "leave most bfloat16 weights where they were" in caplog.text


@PEFT_WARNS
def test_an_adapter_with_a_learning_rate_for_all_weights_is_warned_of(make_trainer, caplog):
    with caplog.at_level(logging.INFO, logger="dunwu"):
        make_trainer(max_steps=1, learning_rate=1e-6, extras={"peft_config": lora()}).train()
    assert "an adapter usually needs 1e-5 to 1e-4" in caplog.text


def test_dropped_prompts_are_logged_when_the_trainer_is_made(make_trainer, caplog):
    with caplog.at_level(logging.WARNING, logger="dunwu"):
        make_trainer(max_prompt_length=7)
    assert "3 of 6 prompts are longer than 7 tokens (the longest has 9)" in caplog.text


def test_completions_are_shown_with_their_rewards_where_that_is_asked_for(make_trainer, caplog):
    with caplog.at_level(logging.INFO, logger="dunwu"):
        make_trainer(reward=low, max_steps=1, log_completions=True, num_completions_to_print=3).train()
    assert caplog.text.count("completion (") == 3
    assert "low" in caplog.text and "advantage" in caplog.text


# -- metrics -------------------------------------------------------------------------------------------------------

TRL_NAMES = {
    "loss",
    "grad_norm",
    "learning_rate",
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "rewards/low/mean",
    "rewards/low/std",
    "completions/mean_length",
    "completions/min_length",
    "completions/max_length",
    "completions/clipped_ratio",
    "completions/mean_terminated_length",
    "completions/min_terminated_length",
    "completions/max_terminated_length",
    "entropy",
    "kl",
    "clip_ratio/low_mean",
    "clip_ratio/high_mean",
    "clip_ratio/region_mean",
    "sampling/sampling_logp_difference/mean",
    "step_time",
    "epoch",
}


def test_metrics_have_trls_names_and_are_those_of_the_rollouts(make_trainer):
    """Dashboards made for TRL keep working; and a mean is over the step's completions."""
    steps = []

    class Keep:
        def on_step(self, step):
            steps.append(step)

    trainer = make_trainer(reward=low, beta=0.1, max_steps=2, extras={"observers": [Keep()]})
    trainer.train()
    for step, log in zip(steps, trainer.state.log_history[:2], strict=True):
        assert log.keys() >= TRL_NAMES
        rollouts = [r for g in step.groups for r in g.rollouts]
        rewards = [r.reward for r in rollouts]
        mean = sum(rewards) / 8
        assert log["reward"] == pytest.approx(mean)
        assert log["reward_std"] == pytest.approx(math.sqrt(sum((r - mean) ** 2 for r in rewards) / 7))
        assert log["rewards/low/mean"] == pytest.approx(mean)
        dead = [len({r.reward for r in g.rollouts}) == 1 for g in step.groups]
        assert log["frac_reward_zero_std"] == pytest.approx(sum(dead) / 2)
        lengths = [len(r.completion.ids) for r in rollouts]
        assert log["completions/mean_length"] == pytest.approx(sum(lengths) / 8)
        assert rewards == low([r.completion.text for r in rollouts])
        assert step.metrics["reward"] == log["reward"]
    assert [step.index for step in steps] == [1, 2]


def test_a_log_of_several_steps_has_their_means(make_trainer):
    each, both = (make_trainer(max_steps=4, logging_steps=n) for n in (1, 2))
    each.train(), both.train()
    singles = [log["reward"] for log in each.state.log_history[:4]]
    pairs = [log["reward"] for log in both.state.log_history[:2]]
    assert pairs == pytest.approx([sum(singles[:2]) / 2, sum(singles[2:]) / 2])


# -- learning ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_learns(tiny, make_trainer, name):
    """The sign of one factor wrong, and the share falls or stays."""
    trainer = make_trainer(
        tiny.model(scale=0.1), low, max_steps=40, loss_type=name, num_generations=8, learning_rate=1e-2
    )
    trainer.train()
    rewards = [log["reward"] for log in trainer.state.log_history if "reward" in log]
    assert sum(rewards[:3]) / 3 < 0.35
    assert sum(rewards[-3:]) / 3 > 0.8


def test_two_updates_from_each_rollout_sample_half_as_often(make_trainer):
    """μ = 2: the second update uses the same completions, and its ratios have moved."""
    steps = []

    class Keep:
        def on_step(self, step):
            steps.append(step)

    trainer = make_trainer(max_steps=4, num_iterations=2, learning_rate=1e-2, extras={"observers": [Keep()]})
    trainer.train()
    assert steps[0].groups == steps[1].groups
    assert steps[2].groups == steps[3].groups
    assert steps[0].groups != steps[2].groups
    ratios = [log["importance_ratio/mean"] for log in logs_of(trainer)[:4]]
    assert [abs(ratio - 1) < 1e-6 for ratio in ratios] == [True, False, True, False]


def test_the_second_update_is_not_the_first_one_again(make_trainer):
    """The clip must see the drift: with a clip range of nothing, a second update has next to no gradient."""
    free, bound = (
        make_trainer(reward=low, max_steps=2, num_iterations=2, learning_rate=1e-2, **options)
        for options in ({"epsilon": 0.99, "epsilon_high": 100.0}, {"epsilon": 0.0})
    )
    free.train(), bound.train()
    assert free.state.log_history[0]["clip_ratio/region_mean"] == 0.0
    assert bound.state.log_history[1]["clip_ratio/region_mean"] > 0.2
    assert bound.state.log_history[1]["grad_norm"] < 0.8 * free.state.log_history[1]["grad_norm"]


# -- KL and the reference ------------------------------------------------------------------------------------------


def test_the_kl_is_zero_at_first_and_grows_as_the_policy_leaves(make_trainer):
    trainer = make_trainer(beta=0.05, max_steps=4, learning_rate=1e-2)
    trainer.train()
    kl = [log["kl"] for log in logs_of(trainer)[:4]]
    assert kl[0] == pytest.approx(0.0, abs=1e-6)
    assert kl[3] > 0.01


@pytest.mark.slow
def test_a_large_beta_keeps_the_policy_at_its_reference(make_trainer):
    """The sign of the KL term: with the wrong one a larger beta drives the policy away."""
    ends = []
    for options in ({"beta": 1e-4}, {"beta": 10.0}, {"beta": 10.0, "kl_in": "reward", "kl_estimator": "k1"}):
        trainer = make_trainer(reward=low, max_steps=25, num_generations=8, learning_rate=5e-3, **options)
        trainer.train()
        ends.append(sum(log["kl"] for log in logs_of(trainer)[20:25]) / 5)
    free, in_loss, in_reward = ends
    assert in_loss < free / 4
    assert in_reward < free / 2


def test_a_kl_in_the_reward_lowers_rewards_by_beta_times_the_kl_to_the_first_policy(tiny, make_trainer):
    """Measured against the first weights, of the completions at hand, before advantages are made."""
    steps = []

    class Keep:
        def on_step(self, step):
            steps.append(step)

    first = tiny.model().eval()
    trainer = make_trainer(
        reward=low,
        beta=0.5,
        kl_in="reward",
        kl_estimator="k1",
        max_steps=2,
        learning_rate=2e-2,
        extras={"observers": [Keep()]},
    )
    trainer.train()
    groups = steps[1].groups
    (batch,) = make_micro_batches(groups, loss_aggregation="token_mean", tokens=100_000)
    before, _ = forward_logps(first, batch)
    kl = ((batch.sampler_logps_BC - before) * batch.mask_BC).sum(1).tolist()
    penalty = dict(zip(batch.rollout_index, kl, strict=True))
    flat = [r for g in groups for r in g.rollouts]
    assert max(abs(p) for p in penalty.values()) > 0.1
    for index, rollout in enumerate(flat):
        assert rollout.reward == pytest.approx(rollout.scores["low"] - 0.5 * penalty[index], abs=1e-4)


def test_a_synchronised_reference_moves_by_its_share_at_its_steps(make_trainer):
    """TR-DPO: π_ref ← α π + (1 − α) π_ref; moved at every step instead, the KL never holds anything."""
    moving = {"sync_ref_model": True, "ref_model_mixup_alpha": 0.25, "ref_model_sync_steps": 2}
    trainer = make_trainer(beta=0.1, max_steps=3, learning_rate=1e-2, **moving)
    name = "model.layers.0.mlp.up_proj.weight"
    seen, policy = [], []

    class Look(TrainerCallback):
        def on_step_begin(self, args, state, control, model, **_):
            seen.append(trainer.reference.state()[name].clone())
            policy.append(model.get_parameter(name).detach().clone())

    trainer.add_callback(Look())
    trainer.train()
    assert torch.equal(seen[0], seen[1])
    torch.testing.assert_close(seen[2], 0.25 * policy[2] + 0.75 * seen[0])
    assert not torch.equal(seen[2], seen[1])


def test_no_reference_is_kept_where_there_is_no_kl(make_trainer):
    """It would double the memory of a run for nothing."""
    assert make_trainer(beta=0.0).reference is None


# -- adapters ------------------------------------------------------------------------------------------------------


@PEFT_WARNS
def test_an_adapter_trains_and_its_base_does_not(tiny, make_trainer):
    model = tiny.model()
    before = tiny.weights(model)
    trainer = make_trainer(
        model, low, beta=0.05, max_steps=3, learning_rate=1e-2, num_generations=8, extras={"peft_config": lora()}
    )
    copied = sum(value.numel() for value in trainer.reference.state().values())
    assert copied == trainable_parameters(trainer.model)[0], "of the base there is no copy"
    trainer.train()
    after = trainer.model.state_dict()
    base = {
        k.removeprefix("base_model.model.").replace("base_layer.", ""): v
        for k, v in after.items()
        if "lora_" not in k
    }
    assert base.keys() == before.keys()
    assert all(torch.equal(base[key], before[key]) for key in before)
    assert all(v.any() for k, v in after.items() if "lora_B" in k)
    assert logs_of(trainer)[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert logs_of(trainer)[2]["kl"] > 1e-5
    with pytest.raises(ValueError, match="does not work with an adapter"):
        ReferenceModel(trainer.model, updatable=True)


@PEFT_WARNS
def test_an_adapters_reference_that_is_asked_to_move_is_refused_before_the_run(make_trainer):
    """Found out at step 512 it would have cost the run."""
    with pytest.raises(ValueError, match="sync_ref_model"):
        make_trainer(beta=0.1, sync_ref_model=True, extras={"peft_config": lora()})


# -- evaluation ----------------------------------------------------------------------------------------------------


def test_two_evaluations_give_the_same_numbers_and_training_changes_them(make_trainer):
    """Fresh random numbers at every evaluation would be noise on the one curve that matters."""
    rows = [{"prompt": "abc"}, {"prompt": "b"}]
    trainer = make_trainer(reward=low, max_steps=4, learning_rate=1e-2)
    first, second = trainer.evaluate(rows), trainer.evaluate(rows)
    assert first == second
    assert first["eval_num_completions"] == 8
    trainer.train()
    assert trainer.evaluate(rows)["eval_reward"] != first["eval_reward"]


def test_several_datasets_are_evaluated_under_their_own_names(make_trainer):
    rows = {"easy": [{"prompt": "abc"}], "hard": [{"prompt": "b"}, {"prompt": "c"}]}
    trainer = make_trainer(extras={"eval_dataset": rows}, num_generations_eval=3)
    found = trainer.evaluate()
    assert (found["eval_easy_num_completions"], found["eval_hard_num_completions"]) == (3, 6)
    assert found["eval_easy_reward"] == trainer.evaluate(rows["easy"])["eval_reward"]


def test_evaluation_between_steps_changes_nothing_of_the_training(make_trainer):
    """Random states, training mode and pending rollouts are as they were."""
    plain = make_trainer(max_steps=4, num_iterations=2)
    watched = make_trainer(
        max_steps=4, num_iterations=2, eval_strategy="steps", eval_steps=1, extras={"eval_dataset": [{"prompt": "b"}]}
    )
    plain.train(), watched.train()
    assert same_weights(plain.model, watched.model)
    assert len([log for log in watched.state.log_history if "eval_reward" in log]) == 4


def test_evaluation_without_rows_is_refused_with_what_is_missing(make_trainer):
    with pytest.raises(ValueError, match="evaluate needs an eval_dataset"):
        make_trainer().evaluate()


# -- rewards -------------------------------------------------------------------------------------------------------


def test_a_reward_of_the_wrong_length_stops_the_run_with_its_name(make_trainer):
    def short(completions, **_):
        return [0.0] * (len(completions) - 1)

    with pytest.raises(ValueError, match=r"'short' failed on the whole batch \(length\): returned 7 values for 8"):
        make_trainer(reward=short).train()


def test_rewards_are_summed_with_their_weights_and_none_is_left_out(make_trainer):
    steps = []

    class Keep:
        def on_step(self, step):
            steps.append(step)

    def sometimes(completions, **_):
        return [None if i % 2 else 1.0 for i in range(len(completions))]

    trainer = make_trainer(
        reward=[low, sometimes], reward_weights=[1.0, -0.5], max_steps=1, extras={"observers": [Keep()]}
    )
    trainer.train()
    flat = [r for g in steps[0].groups for r in g.rollouts]
    shares = low([r.completion.text for r in flat])
    expected = [share - (0.0 if i % 2 else 0.5) for i, share in enumerate(shares)]
    assert [r.reward for r in flat] == pytest.approx(expected)
    assert trainer.state.log_history[0]["rewards/sometimes/mean"] == 1.0


def test_a_reward_model_scores_prompt_and_completion(tiny, make_trainer):
    from transformers import Qwen2ForSequenceClassification

    steps = []

    class Keep:
        def on_step(self, step):
            steps.append(step)

    torch.manual_seed(3)
    tokenizer = tiny.tokenizer()
    scorer = Qwen2ForSequenceClassification(
        tiny.model().config.__class__(**tiny.model().config.to_dict() | {"num_labels": 1})
    )
    trainer = make_trainer(
        reward=scorer, max_steps=1, extras={"reward_processing_classes": tokenizer, "observers": [Keep()]}
    )
    trainer.train()
    rewards = []
    for group in steps[0].groups:
        for rollout in group.rollouts:
            ids = torch.tensor([tokenizer(group.prompt.text + rollout.completion.text)["input_ids"]])
            with torch.no_grad():
                assert rollout.reward == pytest.approx(float(scorer.eval()(ids).logits[0, 0]), abs=1e-5)
            rewards.append(rollout.reward)
    assert len(set(rewards)) > 4


def test_messages_reach_rewards_as_messages(make_trainer):
    seen = []

    def look(prompts, completions, **_):
        seen.extend(zip(prompts, completions, strict=True))
        return [0.0] * len(prompts)

    rows = [{"prompt": [{"role": "user", "content": text}]} for text in "ab"]
    make_trainer(reward=look, rows=rows, max_steps=1).train()
    for prompt, completion in seen:
        assert prompt[0]["content"] in "ab"
        assert [m["role"] for m in completion] == ["assistant"]
        assert isinstance(completion[0]["content"], str)


# -- checkpoints ---------------------------------------------------------------------------------------------------

RESUME = {"max_steps": 7, "learning_rate": 1e-2, "num_iterations": 2, "save_strategy": "steps", "save_steps": 3}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta": 0.1},
        {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 2},
        {"tokens_per_micro_batch": 40},
        {"logging_steps": 2},
        {"max_steps": 13, "save_steps": 9, "prompts_per_step": 4},
    ],
    ids=lambda o: "-".join(o) or "plain",
)
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step:UserWarning")
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tiny, make_trainer, tmp_path, options):
    """The checkpoint falls between two updates of one rollout: what is pending is part of it.

    `logging_steps` 2 with a checkpoint at step 3: the mean that is logged next has a step on either side of it.
    """
    settings = RESUME | options
    whole = make_trainer(reward=low, **settings)
    whole.train()
    at = settings["save_steps"]
    # Where the reference is the first policy, a run must start from it again; else any weights will do.
    seed = 0 if options == {"beta": 0.1} else 99
    resumed = make_trainer(tiny.model(seed=seed), low, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{at}"))
    assert all(log["grad_norm"] > 0 for log in logs_of(whole)[:-1])
    assert same_weights(whole.model, resumed.model)
    assert logs_of(whole, after=at) == logs_of(resumed, after=at)
    mine, theirs = (t.optimizer.state_dict()["state"] for t in (whole, resumed))
    for key in mine:
        assert all(torch.equal(torch.as_tensor(mine[key][n]), torch.as_tensor(theirs[key][n])) for n in mine[key])


def test_resuming_does_not_sample_again_what_is_pending(make_trainer, tiny, tmp_path):
    """New completions for the second update would be off-policy by one step, and the prompts would slip."""
    make_trainer(**RESUME | {"max_steps": 3}).train()
    asked = []

    class Counting(TransformersEngine):
        def generate(self, prompts, sampling):
            asked.append(sampling.step)
            return super().generate(prompts, sampling)

    model = tiny.model(seed=99)
    engine = Counting(model, tiny.tokenizer())
    trainer = make_trainer(model, **RESUME | {"max_steps": 5}, extras={"engine": engine})
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert asked == [4]


def test_a_rank_may_be_first_to_write_into_a_checkpoint(tmp_path):
    folder = tmp_path / "checkpoint-1"  # rank 0 has not made it yet
    two = [ParallelContext(rank=rank, size=2) for rank in (0, 1)]
    for context in reversed(two):
        save_run(folder, SavedRun(pending=None, extra={"mark": 3 + context.rank}), context)
    read = [load_run(folder, context, [], temperature=1.0, weights="") for context in two]
    assert [saved.extra for saved in read] == [{"mark": 3}, {"mark": 4}]
    assert [saved.pending for saved in read] == [None, None]


def test_a_dataset_that_lost_a_pending_row_is_refused(make_trainer, tmp_path):
    make_trainer(**RESUME | {"max_steps": 3}).train()
    trainer = make_trainer(rows=[{"prompt": "abc"}], **RESUME)
    with pytest.raises(ValueError, match="the dataset no longer has that row"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["model", "pending", "scheduler", "trainer_state"])
def test_a_run_killed_while_it_writes_a_checkpoint_resumes_from_the_one_before(tiny, make_trainer, tmp_path, where):
    """kill −9 leaves half a folder: `resume_from_checkpoint=True` takes the newest, which must be a whole one."""
    settings = RESUME | {"save_steps": 2, "max_steps": 6}
    whole = make_trainer(reward=low, **settings, output_dir=str(tmp_path / "whole"))
    whole.train()
    script = f"""
        import os, runpy, sys
        sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
        import conftest, test_trainer, torch, transformers
        import dunwu.training.resumable as hooks
        import dunwu.training.trainer as ours
        from dunwu.config import GRPOConfig

        def die(*_, **__):
            os._exit(9)

        def half_a_model(folder, **_):
            os.makedirs(folder, exist_ok=True)
            open(os.path.join(folder, "config.json"), "w").close()
            die()

        class Killed(ours.GRPOTrainer):
            def arm(self):
                if {where!r} == "model":
                    self._save = half_a_model
                if {where!r} == "pending":
                    hooks.save_run = die
                if {where!r} == "scheduler":
                    self._save_rng_state = die
                if {where!r} == "trainer_state":
                    self.state.__class__.save_to_json = die

        class Arm(transformers.TrainerCallback):
            def on_step_begin(self, args, state, control, **_):
                if state.global_step == 3:
                    trainer.arm()

        settings = {settings | {"output_dir": str(tmp_path / "run")}!r}
        defaults = dict(prompts_per_step=2, num_generations=4, max_completion_length=8, report_to="none")
        rows = [{{"prompt": f"say {{word}}"}} for word in ("one", "two", "three", "four", "five", "six")]
        trainer = Killed(
            conftest.Tiny.model(), test_trainer.low, GRPOConfig(**defaults | settings), rows,
            processing_class=conftest.Tiny.tokenizer(), callbacks=[Arm()],
        )
        trainer.train()
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 9, ended.stderr
    resumed = make_trainer(tiny.model(seed=99), low, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    assert same_weights(whole.model, resumed.model)
    assert logs_of(whole, after=4) == logs_of(resumed, after=4)


def test_a_saved_folder_loads_with_transformers_alone_and_gives_the_same_logits(tiny, make_trainer, tmp_path):
    trainer = make_trainer(tiny.model("llama"), max_steps=1, learning_rate=1e-2)
    trainer.train()
    folder = tmp_path / "saved"
    trainer.save_model(str(folder))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("what is 2+2", return_tensors="pt")["input_ids"]
    assert ids.tolist() == [list(tiny.prompts("what is 2+2")[0].ids)]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, trainer.model.eval()(ids).logits)
    assert tokenizer.chat_template == tiny.tokenizer().chat_template
    assert json.loads((folder / "config.json").read_text())["use_cache"] is True


def test_a_saved_folder_is_a_model_to_start_from_with_its_own_tokenizer(tiny, make_trainer, tmp_path):
    folder = str(tmp_path / "saved")
    trainer = make_trainer(tiny.model("llama"), max_steps=1)
    trainer.save_model(folder)
    from dunwu.config import GRPOConfig
    from dunwu.training.trainer import GRPOTrainer

    args = GRPOConfig(output_dir=folder, max_completion_length=8)
    again = GRPOTrainer(folder, low, args, [{"prompt": "a b"}])
    assert again.prompts[0].ids == tiny.prompts("a b")[0].ids
    assert same_weights(again.model, trainer.model)


def test_a_model_folder_without_a_tokenizer_is_refused_with_what_to_do(tiny, tmp_path):
    from dunwu.config import GRPOConfig
    from dunwu.training.trainer import GRPOTrainer

    folder = str(tmp_path / "bare")
    tiny.model().save_pretrained(folder)
    args = GRPOConfig(output_dir=str(tmp_path / "run"), max_completion_length=8)
    with pytest.raises(ValueError, match=r"no tokenizer was found beside the model.*processing_class"):
        GRPOTrainer(folder, low, args, [{"prompt": "abc"}])
    with pytest.raises(ValueError, match="pass it as processing_class"):
        GRPOTrainer(tiny.model(), low, args, [{"prompt": "abc"}])


def test_a_folder_without_a_model_is_refused_with_what_to_do(make_trainer, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.*check the path"):
        make_trainer(str(tmp_path / "nowhere"))


# -- what goes wrong -----------------------------------------------------------------------------------------------


def test_a_step_whose_gradient_is_not_a_number_is_refused_and_its_batch_kept(tiny, make_trainer, tmp_path):
    """One NaN step makes every weight NaN; skipped silently, it hides the bug that made it."""
    trainer = make_trainer(max_steps=3, reward=low)

    class Spoil(TrainerCallback):
        def on_step_begin(self, args, state, control, model, **_):
            if state.global_step == 1:
                self.before = tiny.weights(model)
                model.lm_head.weight.register_hook(lambda gradient: gradient * torch.nan)

    spoil = Spoil()
    trainer.add_callback(spoil)
    with pytest.raises(
        NonFiniteError, match=r"step 2 was not taken: .*gradient norm nan.*those of step 1.*nonfinite-step-2"
    ):
        trainer.train()
    assert all(torch.equal(value, spoil.before[key]) for key, value in trainer.model.state_dict().items())
    folder = tmp_path / "run" / "nonfinite-step-2"
    lines = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    kept = [r for g in trainer.loop.pending.groups for r in g.rollouts]
    assert [line["completion"] for line in lines] == [r.completion.text for r in kept]
    assert [line["advantage"] for line in lines] == [r.advantage for r in kept]
    batches = torch.load(folder / "batches.pt", weights_only=True)
    assert torch.equal(batches[0]["completion_ids_BC"], trainer.loop.pending.batches[0].completion_ids_BC)


def test_a_loss_that_is_infinite_is_refused_too(tiny, make_trainer):
    trainer = make_trainer(
        max_steps=2,
        reward=lambda completions, **_: [1e38 * (i % 2) for i in range(len(completions))],
        scale_rewards="none",
    )
    before = tiny.weights(trainer.model)
    with pytest.raises(NonFiniteError, match="step 1 was not taken"):
        trainer.train()
    assert all(torch.equal(value, before[key]) for key, value in trainer.model.state_dict().items())


def test_a_full_disk_is_noticed_before_anything_is_written(make_trainer, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    trainer = make_trainer(max_steps=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(
        ValueError, match=r"not enough disk space for .*saved: it needs about .* MB.*save_total_limit"
    ):
        trainer.save_model(str(tmp_path / "saved"))
    assert not (tmp_path / "saved").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device that is always full")
def test_a_disk_that_fills_up_while_writing_leaves_nothing_half_written(tmp_path):
    folder = tmp_path / "checkpoint-1"
    with pytest.raises(ValueError, match="nothing half-written was left") as caught, remove_if_write_fails(folder, 1):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        with open("/dev/full", "w") as full:
            full.write("weights" * 10_000)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert not folder.exists()


def test_a_folder_that_was_there_before_keeps_its_files_when_a_write_fails(tmp_path):
    folder = tmp_path / "outputs"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ZeroDivisionError), remove_if_write_fails(folder, 1):
        raise ZeroDivisionError
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_tensor_file_that_meets_a_full_disk_is_named_as_such(make_trainer, tmp_path):
    """torch and safetensors wrap the system's error in their own: still one sentence, and nothing left behind."""
    folder = tmp_path / "checkpoint-1"
    if not os.path.exists("/dev/full"):
        pytest.skip("needs the device that is always full")
    with pytest.raises(ValueError, match="nothing half-written was left"), remove_if_write_fails(folder, 1):
        folder.mkdir()
        (folder / "pending.pt").symlink_to("/dev/full")
        torch.save({"weights": torch.zeros(100_000)}, folder / "pending.pt")
    assert not folder.exists()


def test_training_without_rows_is_refused_with_what_is_missing(make_trainer):
    with pytest.raises(ValueError, match="training needs a train_dataset"):
        make_trainer(rows=None, max_steps=1).train()


def test_of_a_stream_as_many_rows_are_read_as_the_steps_take(make_trainer):
    taken = []

    def endless():
        while True:
            taken.append(f"say {len(taken)}")
            yield {"prompt": taken[-1]}

    trainer = make_trainer(rows=endless(), max_steps=3, num_iterations=1)
    assert len(taken) == 6, "three steps of two prompts"
    trainer.train()
    assert trainer.state.global_step == 3
    assert len(taken) == 6
    assert len(make_trainer(rows=endless(), max_steps=3, num_iterations=2).prompts) == 4


def test_a_stream_without_a_number_of_steps_is_refused_with_what_to_do(make_trainer):
    with pytest.raises(ValueError, match=r"no length.*set max_steps.*stream\.take"):
        make_trainer(rows=({"prompt": text} for text in "abc"), max_steps=-1)


def test_the_launch_logs_how_the_batch_size_was_read_and_what_else_it_could_mean(make_trainer, caplog):
    caplog.set_level("INFO", logger="dunwu")
    sizes = {"prompts_per_step": None, "num_generations": 4, "max_steps": 1}
    make_trainer(per_device_train_batch_size=2, gradient_accumulation_steps=2, **sizes).train()
    assert "1 prompts × 4 completions = 4 a step" in caplog.text
    assert "read as completions; as prompts it would be 4 × 4 = 16, 1 steps an epoch" in caplog.text
    caplog.clear()
    make_trainer(per_device_train_batch_size=1, gradient_accumulation_steps=2, **sizes).train()
    assert "read as prompts; as completions it would hold no whole group of 4" in caplog.text
    caplog.clear()
    make_trainer(max_steps=1).train()
    assert "read as" not in caplog.text, "prompts_per_step needs no reading"


def test_a_completion_that_fills_the_context_is_refused_before_the_run(make_trainer):
    with pytest.raises(ValueError, match=r"max_completion_length=128 leaves no room.*128 tokens; lower it"):
        make_trainer(max_completion_length=128)


def test_a_dataset_of_the_datasets_library_gives_the_same_run_as_a_list(make_trainer):
    from datasets import Dataset

    rows = [{"prompt": "ab", "n": 1}, {"prompt": "c", "n": 2}]
    one, other = make_trainer(rows=rows, max_steps=2), make_trainer(rows=Dataset.from_list(rows), max_steps=2)
    one.train(), other.train()
    assert same_weights(one.model, other.model)


def test_greedy_text_is_that_of_the_trained_policy(tiny, make_trainer):
    """The engine a trainer leaves behind speaks with the trained weights."""
    trainer = make_trainer(reward=low, max_steps=2, learning_rate=1e-2)
    trainer.train()
    prompts = tiny.prompts("abc")
    greedy = SamplingParams(n=1, max_new_tokens=6, temperature=0.0)
    fresh = TransformersEngine(trainer.model, tiny.tokenizer()).generate(prompts, greedy)
    assert [c.ids for c in trainer.engine.generate(prompts, greedy)[0]] == [c.ids for c in fresh[0]]
    assert fresh != TransformersEngine(tiny.model(), tiny.tokenizer()).generate(prompts, greedy)


def test_a_column_that_a_reward_needs_and_the_data_lacks_is_refused_before_anything_is_sampled(make_trainer):
    """Said at the first reward call it would have cost the loading and the first rollouts."""

    def needs_answer(completions, answer, **_):
        return [0.0 for _ in completions]

    with pytest.raises(ValueError, match=r"'needs_answer' needs \['answer'\]"):
        make_trainer(reward=needs_answer)
