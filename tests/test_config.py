"""Options: what a batch means, what is refused and how, and what a machine without a GPU makes of it."""

from __future__ import annotations

import dataclasses
import logging
import warnings

import pytest
from transformers import TrainingArguments

from dunwu._utils.suggest import did_you_mean
from dunwu.config import PRESETS, GRPOConfig


@pytest.fixture
def config(tmp_path):
    def make(**options):
        return GRPOConfig(output_dir=str(tmp_path), **options)

    return make


# -- the batch -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "prompts"),
    [
        # The tutorials that say 1 × 4 with 16 generations mean four prompts; those that say 16 × 4 mean completions.
        ({"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "num_generations": 16}, 4),
        ({"per_device_train_batch_size": 16, "gradient_accumulation_steps": 4, "num_generations": 16}, 4),
        ({"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16, "num_generations": 16}, 16),
        ({"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "num_generations": 8}, 1),
        ({"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_generations": 4}, 4),
        ({"per_device_train_batch_size": 3, "gradient_accumulation_steps": 1, "num_generations": 8}, 3),
        ({"per_device_train_batch_size": 16, "num_generations": 8, "batch_unit": "prompts"}, 16),
        ({"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16, "batch_unit": "completions"}, 2),
        ({"per_device_train_batch_size": 16, "num_generations": 16, "prompts_per_step": 7}, 7),
        ({"per_device_train_batch_size": 3, "batch_unit": "completions", "prompts_per_step": 5}, 5),
    ],
    ids=str,
)
def test_a_batch_is_counted_as_its_options_mean(config, options, prompts):
    """The unit changed between TRL versions: read wrongly, a run is 16 times smaller or larger than intended."""
    made = config(**options)
    assert made.prompts_per_step == prompts
    assert made.gradient_accumulation_steps == 1


def test_completions_that_are_no_whole_number_of_groups_are_refused(config):
    with pytest.raises(
        ValueError, match=r"6 completions a step are not a whole number of groups of 4; set prompts_per_step"
    ):
        config(per_device_train_batch_size=6, num_generations=4, batch_unit="completions")


# -- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [
        ("num_generations", 1, "at least 2"),
        ("num_generations_eval", 0, "at least 1"),
        ("prompts_per_step", 0, "at least 1"),
        ("num_iterations", 0, "at least 1"),
        ("tokens_per_micro_batch", 0, "at least 1"),
        ("max_prompt_length", 0, "at least 1, or None"),
        ("max_completion_length", 0, "at least 1"),
        ("temperature", 0.0, "above 0"),
        ("temperature", -1.0, "above 0"),
        ("top_k", -1, "0 \\(off\\) or more"),
        ("top_p", 0.0, "above 0 and at most 1"),
        ("top_p", 1.1, "above 0 and at most 1"),
        ("min_p", -0.1, "between 0 and 1"),
        ("min_p", 1.1, "between 0 and 1"),
        ("repetition_penalty", 0.0, "above 0; 1 is off"),
        ("reward_timeout", 0.0, "above 0 seconds"),
        ("epsilon", -0.1, "between 0 and 1"),
        ("epsilon", 1.0, "between 0 and 1"),
        ("epsilon_high", -0.5, "above 0, or None for epsilon"),
        ("delta", 1.2, "above 1 \\+ epsilon"),
        ("beta", -0.1, "0 or more"),
        ("off_policy_mask_threshold", 0.0, "above 0, or None"),
        ("ref_model_mixup_alpha", 1.5, "between 0 and 1"),
        ("ref_model_sync_steps", 0, "at least 1"),
    ],
)
def test_an_option_out_of_its_range_is_named_with_its_rule(config, option, value, remedy):
    with pytest.raises(ValueError, match=f"{option}={value!r} does not work: it must be {remedy}"):
        config(**{option: value})


@pytest.mark.parametrize(
    ("option", "value", "hint"),
    [
        ("loss_type", "drgrpo", "did you mean 'dr_grpo'"),
        ("loss_type", "ppo_", "known: bnpo, cispo, dapo, dr_grpo, gspo, grpo, reinforce|did you mean|known: "),
        ("scale_rewards", "groups", "did you mean 'group'"),
        ("advantage_baseline", "leave-one-out", "did you mean 'leave_one_out'"),
        ("importance_sampling_level", "sequences", "did you mean 'sequence'"),
        ("kl_estimator", "k4", "k3|k2|k1"),
        ("kl_in", "rewards", "did you mean 'reward'"),
        ("batch_unit", "prompt", "did you mean 'prompts'"),
        ("overlong_prompts", "dropp", "did you mean 'drop'"),
        ("on_reward_error", "skipp", "did you mean 'skip'"),
    ],
)
def test_an_unknown_choice_is_named_with_the_nearest_known_one(config, option, value, hint):
    with pytest.raises(ValueError, match=f"{option}={value!r} is unknown; .*({hint})"):
        config(**{option: value})


def test_a_value_like_no_other_gets_the_whole_list():
    assert did_you_mean("zzz", ["b", "a"]) == "; known: a, b"
    assert did_you_mean("aple", ["apple", "pear"]) == "; did you mean 'apple'?"


def test_auto_find_batch_size_is_refused_with_what_to_do(config):
    with pytest.raises(ValueError, match="lower tokens_per_micro_batch"):
        config(auto_find_batch_size=True)


# -- presets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_fills_the_algorithm_config_and_an_explicit_option_wins(config, name):
    plain = config(loss_type=name).algorithm()
    for field, value in PRESETS[name].items():
        assert getattr(plain, field) == value
    told = config(loss_type=name, scale_rewards="batch", importance_sampling_level="token", epsilon_high=0.9)
    objective = told.algorithm()
    assert (objective.scale_rewards, objective.importance_sampling_level) == ("batch", "token")
    upper = {"clip": "epsilon_high", "cispo": "cap"}.get(plain.policy_loss)
    assert upper is None or objective.loss_options[upper] == 0.9
    assert (objective.policy_loss, objective.loss_aggregation) == (plain.policy_loss, plain.loss_aggregation)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss_type": "luspo"}, None),
        ({"loss_type": "gspo"}, None),
        ({"loss_type": "vespo"}, None),
        ({"loss_type": "luspo", "importance_sampling_level": "token"}, "LUSPO takes one ratio a sequence"),
        ({"loss_type": "vespo", "importance_sampling_level": "sequence"}, "does nothing with loss_type='vespo'"),
        ({"loss_type": "dapo", "importance_sampling_level": "sequence"}, "weighs by its length"),
        ({"loss_type": "sapo", "epsilon": 0.3}, "its options are temperature_pos, temperature_neg"),
    ],
    ids=str,
)
def test_a_ratio_or_a_bound_that_the_loss_has_no_use_for_is_warned_of(config, caplog, options, words):
    with caplog.at_level(logging.WARNING, logger="dunwu"):
        config(**options, use_cpu=True)
    assert words in caplog.text if words else caplog.records == []


def test_the_upper_clip_is_epsilon_unless_it_is_given(config):
    """TRL's meaning: raising `epsilon` alone widens both sides."""
    assert config(epsilon=0.3).algorithm().loss_options["epsilon_high"] == 0.3
    both = config(epsilon=0.3, epsilon_high=0.4).algorithm()
    assert (both.loss_options["epsilon_low"], both.loss_options["epsilon_high"]) == (0.3, 0.4)
    assert config(loss_type="cispo", epsilon=0.3).algorithm().loss_options == {}


@pytest.mark.parametrize(("given", "meant"), [(True, "group"), (False, "none"), ("none", "none"), ("batch", "batch")])
def test_scale_rewards_takes_the_names_and_the_older_booleans(config, given, meant):
    assert config(scale_rewards=given).algorithm().scale_rewards == meant


def test_the_kl_options_reach_the_algorithm_config(config):
    made = config(beta=0.04, kl_estimator="k2", kl_in="reward", use_bias_correction_kl=False, delta=4.0)
    objective = made.algorithm()
    assert (objective.beta, objective.kl_estimator, objective.kl_in) == (0.04, "k2", "reward")
    assert (objective.kl_importance_weighted, objective.loss_options["delta"]) == (False, 4.0)


def test_there_are_at_most_55_options_of_our_own_and_each_has_a_help_text():
    inherited = {f.name for f in dataclasses.fields(TrainingArguments)}
    own = [f.name for f in dataclasses.fields(GRPOConfig) if f.init and f.name not in inherited]
    assert 20 < len(own) <= 55
    helps = {name: field.metadata.get("help") for name, field in GRPOConfig.__dataclass_fields__.items()}
    assert all(helps[name] for name in own)


def test_dictionaries_may_come_as_json_as_a_command_line_gives_them(config):
    made = config(model_init_kwargs='{"revision": "main"}', chat_template_kwargs='{"enable_thinking": false}')
    assert made.model_init_kwargs == {"revision": "main"}
    assert made.chat_template_kwargs == {"enable_thinking": False}


# -- a machine without a GPU ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["bf16", "fp16", "tf32"])
def test_what_only_a_gpu_has_is_warned_of_and_left_out_on_a_cpu(config, caplog, option):
    """The tutorials' scripts all say bf16=True: on a laptop they must run, and say in what they compute."""
    with caplog.at_level(logging.WARNING, logger="dunwu"):
        made = config(**{option: True}, use_cpu=True)
    assert not getattr(made, option)
    assert [record.name for record in caplog.records] == ["dunwu"]
    assert option in caplog.text


def test_no_warning_about_precision_where_none_was_asked_for(config, caplog):
    made = config(use_cpu=True)
    assert made.bf16 is False
    assert caplog.records == []


def test_gradient_checkpointing_is_taken_under_both_names_without_a_warning(config, make_trainer):
    """Renamed in transformers 5.2x: the old name warns there, and warnings are errors here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = config(gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False})
    name = "activation_checkpointing" if hasattr(made, "activation_checkpointing") else "gradient_checkpointing"
    assert getattr(made, name) is True
    assert getattr(made, f"{name}_kwargs") == {"use_reentrant": False}


def test_gradient_checkpointing_is_really_on_in_training(make_trainer):
    """An option that is accepted and does nothing is worse than one that is refused."""
    trainer = make_trainer(gradient_checkpointing=True, max_steps=1)
    trainer.train()
    assert any(getattr(module, "gradient_checkpointing", False) for module in trainer.model.modules())
