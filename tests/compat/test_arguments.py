"""Every argument of TRL 0.14 to 1.16 has an answer, and the answers are those the page prints."""

import inspect
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from packaging.version import Version
from transformers import TrainingArguments

from dunwu.core.policy_losses import POLICY_LOSSES
from dunwu.errors import ConfigError
from dunwu.trl import GRPOConfig, ModelConfig, ScriptArguments
from dunwu.trl.arguments import LEGACY_ARGUMENTS
from dunwu.trl.docs_page import page
from dunwu.trl.options import set_options
from dunwu.trl.version_inference import FIRST_VERSIONS
from dunwu.trl.versioned_defaults import VERSIONED, defaults_of

HERE = Path(__file__).parent
PUBLISHED = json.loads((HERE / "trl_argument_versions.json").read_text(encoding="utf-8"))
"""Fields and defaults of the published packages, by version."""

T1 = {
    "learning_rate": 5e-6,
    "warmup_ratio": 0.1,
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 4,
    "num_generations": 16,
    "max_prompt_length": 256,
    "max_completion_length": 200,
    "log_on_each_node": False,
    "use_vllm": False,
    "vllm_gpu_memory_utilization": 0.3,
    "vllm_device": "cuda:0",
}


@pytest.fixture(autouse=True)
def _clean_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("TENSORBOARD_LOGGING_DIR", "HF_TOKEN"):
        monkeypatch.setenv(name, "x")  # so that what a test sets in the environment is taken back
        monkeypatch.delenv(name)
    set_options()
    yield
    set_options()


def made(tmp_path: Path, **options: Any) -> Any:
    return GRPOConfig(output_dir=str(tmp_path), **{"report_to": "none", **options})


@pytest.mark.parametrize("kind", ["GRPOConfig", "TrainingArguments"])
def test_every_field_of_any_version_is_a_field_now(kind: str) -> None:
    here = Version(transformers.__version__)
    known = {
        name for name, span in PUBLISHED[kind].items() if kind == "GRPOConfig" or Version(span.split("..")[0]) <= here
    }
    missing = known - set(GRPOConfig.__dataclass_fields__)
    assert missing == set(), f"no answer to {sorted(missing)}"


def test_every_field_of_the_model_config_that_ever_was_is_a_field_now() -> None:
    assert set(PUBLISHED["ModelConfig"]) <= set(ModelConfig.__dataclass_fields__)


def test_every_entry_is_about_an_argument_that_existed() -> None:
    ever = {**PUBLISHED["GRPOConfig"], **PUBLISHED["ModelConfig"], **PUBLISHED["TrainingArguments"]}
    assert set(LEGACY_ARGUMENTS) <= set(ever), set(LEGACY_ARGUMENTS) - set(ever)


@pytest.mark.parametrize("name", [name for name in LEGACY_ARGUMENTS if name in PUBLISHED["GRPOConfig"]])
def test_an_entry_names_the_first_and_the_last_trl_that_had_the_argument(name: str) -> None:
    first, last = (version.rsplit(".", 1)[0] for version in PUBLISHED["GRPOConfig"][name].split(".."))
    if LEGACY_ARGUMENTS[name].versions.startswith("TRL"):
        assert LEGACY_ARGUMENTS[name].versions == f"TRL {first}–{last if last != '1.16' else ''}"


@pytest.mark.parametrize("version", list(PUBLISHED["defaults"]))
def test_defaults_of_a_version_are_the_published_ones(version: str) -> None:
    published = PUBLISHED["defaults"][version]
    ours = defaults_of(version)
    for name, value in published.items():
        if name == "top_k":
            value = value or 0  # None and 0 are both "all"
        if name == "use_bias_correction_kl" or name in ours:
            assert ours[name] == value, name
    assert set(ours) == set(VERSIONED)


def test_the_page_is_what_the_code_prints() -> None:
    text = (HERE.parents[1] / "docs" / "trl_arguments.md").read_text(encoding="utf-8")
    assert text == page(), "run: python -m dunwu.trl.docs_page > docs/trl_arguments.md"


def test_the_course_s_config_becomes_what_its_text_describes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="dunwu")
    config = made(tmp_path, **T1)
    assert (config.prompts_per_step, config.num_generations) == (4, 16)
    assert config.warmup_steps == 0.1
    assert (config.beta, config.loss_type, config.temperature) == (0.04, "grpo", 0.9)
    assert config.overlong_prompts == "cut"
    logged = caplog.text
    assert "warmup_ratio=0.1 is now warmup_steps=0.1" in logged
    assert (
        "default of TRL 0.14 (a batch of 1 × 4 completions holds no whole group of 16, which every later version "
        "refuses): beta=0.04, loss_type='grpo', temperature=0.9, top_k=50, use_bias_correction_kl=False; for "
        "another version's: dunwu run --trl 1.16 (beta=0.0, loss_type='dapo', temperature=1.0, top_k=0, "
        "use_bias_correction_kl=True)" in logged
    )
    assert "ignored: vllm_device, vllm_gpu_memory_utilization" in logged


def test_what_is_given_wins_over_versioned_defaults(tmp_path: Path) -> None:
    config = made(tmp_path, vllm_device="auto", beta=0.0, temperature=0.7, loss_type="dapo")
    assert (config.beta, config.temperature, config.loss_type) == (0.0, 0.7, "dapo")


@pytest.mark.parametrize("version", [None, "0.14", "0.14.0", "0.15", "0.15.2"])
def test_vllm_never_got_transformers_top_k(tmp_path: Path, version: str | None) -> None:
    set_options(trl_version=version)
    assert made(tmp_path, vllm_device="auto").top_k == 50
    assert made(tmp_path, vllm_device="auto", use_vllm=True).top_k == 0


def test_vllm_got_top_k_from_0_16_on(tmp_path: Path) -> None:
    set_options(trl_version="0.16.1")
    assert made(tmp_path, use_vllm=True).top_k == 50


def test_a_script_of_an_unknown_version_gets_the_current_defaults_and_a_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="dunwu")
    config = made(tmp_path)
    assert {name: getattr(config, name) for name in VERSIONED} == defaults_of("1.16")
    assert (
        "default of TRL 1.16 (nothing in the script tells its version): beta=0.0, loss_type='dapo', temperature=1.0; "
        "for another version's: dunwu run --trl 0.14 (beta=0.04, loss_type='grpo', temperature=0.9); "
        "beta=0 means no reference model and no `kl` metric" in caplog.text
    )


def test_what_the_script_gives_is_named_as_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="dunwu")
    made(tmp_path, beta=0.1, temperature=0.7)
    assert "given by the script: beta=0.1, temperature=0.7; default of TRL 1.16" in caplog.text
    assert "no `kl` metric" not in caplog.text
    caplog.clear()
    made(tmp_path, beta=0.1, temperature=0.7, loss_type="grpo")
    assert "given by the script: beta=0.1, loss_type='grpo', temperature=0.7" in caplog.text
    assert "default of TRL" not in caplog.text


@pytest.mark.parametrize("name", sorted(FIRST_VERSIONS))
def test_the_first_version_of_an_option_is_the_published_one(name: str) -> None:
    assert PUBLISHED["GRPOConfig"][name].startswith(f"{FIRST_VERSIONS[name]}.")


def test_an_explicit_none_is_not_replaced_by_the_versioned_default(tmp_path: Path) -> None:
    assert made(tmp_path, vllm_device="auto").max_prompt_length == 512
    assert made(tmp_path, vllm_device="auto", max_prompt_length=None).max_prompt_length is None


def test_explicit_warmup_steps_win_over_a_ratio(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="dunwu")
    assert made(tmp_path, warmup_ratio=0.1, warmup_steps=20).get_warmup_steps(1000) == 20
    assert "ignored: warmup_ratio (warmup_steps=20 is given and wins" in caplog.text


@pytest.mark.parametrize("steps", [1, 3, 100, 7473])
def test_a_warmup_over_the_whole_run_is_not_one_step(tmp_path: Path, steps: int) -> None:
    assert made(tmp_path, warmup_ratio=1.0).get_warmup_steps(steps) == steps


@pytest.mark.parametrize("ratio", [-0.1, 1.5])
def test_a_warmup_ratio_is_a_share(tmp_path: Path, ratio: float) -> None:
    with pytest.raises(ConfigError, match="must be a share of all steps, from 0 to 1"):
        made(tmp_path, warmup_ratio=ratio)


def test_the_batch_unit_asked_for_is_taken_and_the_script_s_own_wins(tmp_path: Path) -> None:
    batch = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 4, "num_generations": 16}
    assert made(tmp_path, **batch).prompts_per_step == 4
    set_options(batch_unit="prompts")
    assert made(tmp_path, **batch).prompts_per_step == 64
    assert made(tmp_path, batch_unit="completions", **batch).prompts_per_step == 4


def test_a_script_newer_than_0_14_counts_completions_even_with_a_batch_of_one(tmp_path: Path) -> None:
    batch = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16, "num_generations": 8}
    assert made(tmp_path, **batch).prompts_per_step == 16
    assert made(tmp_path, num_iterations=2, **batch).prompts_per_step == 2


def test_what_transformers_refuses_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cosin is not a valid"):
        made(tmp_path, lr_scheduler_type="cosin")


@pytest.mark.parametrize("version", ["0.14", "0.14.0"])
def test_the_version_can_be_asked_for(tmp_path: Path, version: str) -> None:
    set_options(trl_version=version)
    config = made(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4, num_generations=8)
    assert config.beta == 0.04
    assert config.prompts_per_step == 8, "0.14 counted prompts"
    assert (made(tmp_path).prompts_per_step, made(tmp_path, gradient_accumulation_steps=2).prompts_per_step) == (8, 2)
    with pytest.raises(ConfigError, match=r"--trl '0\.3' is not a version of TRL between 0\.14 and 1\.16"):
        set_options(trl_version="0.3")


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"no_cuda": True}, "use_cpu", True),
        ({"evaluation_strategy": "steps", "eval_steps": 5}, "eval_strategy", "steps"),
        ({"evaluation_strategy": False}, "eval_strategy", "no"),
        ({"per_gpu_train_batch_size": 16}, "per_device_train_batch_size", 16),
        ({"adafactor": True}, "optim", "adafactor"),
        ({"push_to_hub_model_id": "me/mine"}, "hub_model_id", "me/mine"),
        ({"trust_remote_code": True}, "model_init_kwargs", {"trust_remote_code": True}),
        ({"use_liger_kernel": True}, "use_liger_kernel", False),
        ({"remove_unused_columns": True}, "remove_unused_columns", False),
        ({"deepspeed": "zero3.json"}, "deepspeed", None),
        ({"ddp_backend": "nccl"}, "ddp_backend", None),
        ({"scale_rewards": "False"}, "scale_rewards", "none"),
        ({"top_k": -1}, "top_k", 0),
        ({"num_completions_to_print": None}, "num_completions_to_print", 2),
    ],
)
def test_an_old_argument_becomes_today_s(tmp_path: Path, given: dict[str, Any], name: str, value: Any) -> None:
    assert getattr(made(tmp_path, **given), name) == value


def test_options_given_to_the_model_directly_win(tmp_path: Path) -> None:
    config = made(tmp_path, trust_remote_code=True, model_init_kwargs={"trust_remote_code": False, "dtype": "auto"})
    assert config.model_init_kwargs == {"trust_remote_code": False, "dtype": "auto"}


def test_the_logging_folder_is_where_tensorboard_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    made(tmp_path, logging_dir="logs/here")
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == "logs/here"


def test_a_key_among_the_arguments_reaches_the_environment_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import os

    caplog.set_level("INFO", logger="dunwu")
    key = "hf_" + "a1b2c3d4" * 4
    config = made(tmp_path, hub_token=key)
    assert os.environ["HF_TOKEN"] == key
    assert config.hub_token is None
    assert "hub_token contains a key" in caplog.text
    assert key not in caplog.text
    assert key.encode() not in pickle.dumps(config)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"entropy_coef": 0.01}, "there is no entropy bonus"),
        ({"vllm_structured_outputs_regex": "<think>.*"}, "reward the format instead"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "rewards are summed, then normalised"),
        ({"max_tool_calling_iterations": 3}, "tools are an environment"),
        ({"loss_type": "sappo"}, "loss_type='sappo' is unknown"),
    ],
)
def test_what_would_change_the_run_is_refused_with_its_reason(
    tmp_path: Path, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        made(tmp_path, **given)


def test_options_of_trl_s_losses_become_those_of_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="dunwu")
    sapo = made(tmp_path, loss_type="sapo", sapo_temperature_pos=0.7, sapo_temperature_neg=1.05)
    assert sapo.algorithm().loss_options == {"temperature_pos": 0.7}, "1.05 is the default"
    assert "sapo_temperature_pos=0.7 is now loss_options['temperature_pos']" in caplog.text
    vespo = made(tmp_path, loss_type="vespo", vespo_k_pos=1.0, vespo_lambda_pos=1.5, vespo_k_neg=2.0)
    assert vespo.algorithm().loss_options == {"k_pos": 1.0, "lambda_pos": 1.5, "k_neg": 2.0}
    own = made(tmp_path, loss_type="vespo", vespo_k_pos=1.0, loss_options={"k_pos": 4.0})
    assert own.algorithm().loss_options == {"k_pos": 4.0}
    caplog.clear()
    other = made(tmp_path, loss_type="dapo", sapo_temperature_pos=0.7)
    assert set(other.algorithm().loss_options) == {"epsilon_low", "epsilon_high", "delta"}
    assert "ignored: sapo_temperature_pos (only loss_type='sapo' reads it)" in caplog.text


@pytest.mark.parametrize("name", [name for name in LEGACY_ARGUMENTS if name.startswith(("sapo_", "vespo_"))])
def test_a_loss_has_the_option_and_the_default_that_trl_has(name: str) -> None:
    loss, _, option = name.partition("_")
    default = inspect.signature(POLICY_LOSSES[loss]).parameters[option].default
    assert LEGACY_ARGUMENTS[name].silent_values == (default,)


def test_luspo_s_level_is_the_paper_s_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="dunwu")
    assert made(tmp_path, loss_type="luspo").algorithm().importance_sampling_level == "sequence"
    assert "loss_type='luspo' takes importance_sampling_level='sequence', as its paper does" in caplog.text
    assert made(tmp_path, loss_type="luspo", importance_sampling_level="token").importance_sampling_level == "token"


@pytest.mark.parametrize(
    "name", [name for name, row in LEGACY_ARGUMENTS.items() if row.refused and row.silent_values]
)
def test_a_harmless_value_of_a_refused_argument_is_fine(tmp_path: Path, name: str) -> None:
    for value in LEGACY_ARGUMENTS[name].silent_values:
        made(tmp_path, **{name: value})


def test_what_is_saved_has_today_s_options_alone(tmp_path: Path) -> None:
    saved = made(tmp_path, **T1).to_dict()
    assert saved["warmup_steps"] == 0.1
    assert not {name for name in LEGACY_ARGUMENTS if name not in TrainingArguments.__dataclass_fields__} & set(saved)
    again = pickle.loads(pickle.dumps(made(tmp_path, **T1)))
    assert again.prompts_per_step == 4


def test_a_model_config_answers_to_both_names_of_its_dtype() -> None:
    assert ModelConfig(torch_dtype="bfloat16").dtype == "bfloat16"
    assert ModelConfig(dtype="float16").torch_dtype == "float16"
    assert ModelConfig(lora_target_modules=["all-linear"]).lora_target_modules == "all-linear"
    with pytest.raises(ValueError, match="exclude each other"):
        ModelConfig(load_in_4bit=True, load_in_8bit=True)
    assert ScriptArguments(dataset_name="x").dataset_train_split == "train"


def test_an_adapter_is_made_of_the_model_s_arguments() -> None:
    from dunwu.trl import get_kbit_device_map, get_peft_config, get_quantization_config

    assert get_peft_config(ModelConfig()) is None
    made = get_peft_config(ModelConfig(use_peft=True, lora_r=8, lora_target_modules=["q_proj", "v_proj"]))
    assert (made.r, made.lora_alpha, made.target_modules) == (8, 32, {"q_proj", "v_proj"})
    assert get_quantization_config(ModelConfig()) is None
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        get_quantization_config(ModelConfig(load_in_4bit=True))
    assert get_kbit_device_map() is None


def test_a_tracker_that_is_not_installed_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = made(tmp_path, report_to=["comet_ml", "tensorboard"])
    assert config.report_to == ["tensorboard"]
    assert "comet_ml is not installed: the run goes on without it" in caplog.text
