"""A call that names an argument that there is not gets a sentence with what to do, and keeps its signature."""

from __future__ import annotations

import dataclasses
import inspect
import pickle

import pytest

from dunwu import GRPOConfig, GRPOTrainer
from dunwu._utils.known_arguments import unknown_arguments
from dunwu.config.foreign_options import FOREIGN_OPTIONS
from dunwu.errors import ConfigError
from dunwu.trl import GRPOConfig as OldConfig
from dunwu.trl import GRPOTrainer as OldTrainer
from dunwu.trl import TrlParser
from dunwu.trl.arguments import LEGACY_ARGUMENTS


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"use_vllm": True},
            "no argument 'use_vllm': from TRL .* `dunwu run script.py`, or put `import dunwu.compat`",
        ),
        ({"use_vllm": True, "vllm_mode": "server"}, "no argument 'use_vllm' and 'vllm_mode': from TRL"),
        (
            {"vllm_gpu_memory_utilisation": 0.3},
            r"'vllm_gpu_memory_utilisation' \(vllm_gpu_memory_utilization\): from",
        ),
        ({"max_prompt_lenght": 9}, r"no argument 'max_prompt_lenght'; did you mean 'max_prompt_length'\?$"),
        ({"warmup_ratio": 0.1}, "'warmup_ratio': from TRL or an earlier transformers"),
        ({"lerning_rate": 1.0, "use_vllm": True}, r"did you mean 'learning_rate'\? And no 'use_vllm': from TRL"),
        ({"zzzzzz": 1}, r"no argument 'zzzzzz'; help\(GRPOConfig\) lists what it has"),
    ],
    ids=str,
)
def test_an_unknown_option_is_a_sentence(tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        GRPOConfig(output_dir=str(tmp_path), **options)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tokenizer": None}, "GRPOTrainer has no argument 'tokenizer': give it as processing_class"),
        ({"tools": []}, r"no argument 'tools': run them in the `reply` of GRPOTrainer\(environment=…\)"),
        ({"rollout_func": print}, r"'rollout_func': for several turns: .* GRPOTrainer\(engine=…\)"),
        ({"train_datset": []}, r"'train_datset'; did you mean 'train_dataset'\?"),
    ],
    ids=str,
)
def test_an_unknown_argument_of_the_trainer_is_a_sentence(tiny, arguments, words):
    with pytest.raises(ConfigError, match=words):
        GRPOTrainer(tiny.model(), print, **arguments)


def test_the_names_of_trl_have_the_same_sentences(tiny, tmp_path):
    with pytest.raises(ConfigError, match="'max_prompt_lenght'; did you mean 'max_prompt_length'"):
        OldConfig(output_dir=str(tmp_path), max_prompt_lenght=9)
    with pytest.raises(ConfigError, match="'observers': take GRPOTrainer from dunwu, which has it"):
        OldTrainer(tiny.model(), print, observers=[])


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("_generate_and_score_completions", r"would never be called: completions come from an engine"),
        ("_compute_loss", "the loss of a token is a function"),
        ("_calculate_rewards", "give functions as reward_funcs"),
    ],
)
def test_a_subclass_that_changes_how_trl_trains_is_refused(method, words):
    """It would train without the change, and nothing would show it."""
    with pytest.raises(ConfigError, match=rf"Own\.{method} .*{words}"):
        type("Own", (OldTrainer,), {method: lambda self: None})
    assert issubclass(type("Own", (OldTrainer,), {"log": lambda self, logs: None}), OldTrainer)


def test_the_names_from_elsewhere_are_those_that_the_scripts_options_lack_here():
    own = {field.name for field in dataclasses.fields(GRPOConfig)}
    assert set(FOREIGN_OPTIONS) - own == set(LEGACY_ARGUMENTS) - own


def test_signatures_and_copies_are_as_without_it(tmp_path):
    parameters = inspect.signature(GRPOConfig).parameters
    assert list(parameters) == [field.name for field in dataclasses.fields(GRPOConfig) if field.init]
    assert list(inspect.signature(GRPOTrainer).parameters)[:3] == ["model", "reward_funcs", "args"]
    made = GRPOConfig(str(tmp_path), max_completion_length=9, report_to="none")
    assert pickle.loads(pickle.dumps(made)).max_completion_length == 9
    (parsed,) = TrlParser(OldConfig).parse_args_and_config(["--output_dir", str(tmp_path), "--beta", "1"])
    assert parsed.beta == 1.0


def test_a_function_of_few_arguments_names_the_nearest():
    assert (
        unknown_arguments("f", ["colour"], ["color", "self"], {})
        == "f has no argument 'colour'; did you mean 'color'?"
    )
