"""Dataclasses, YAML and the command line are read as TRL's scripts expect."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dunwu.errors import ConfigError
from dunwu.trl import GRPOConfig, ModelConfig, TrlParser

YAML = """
env: {DUNWU_TEST_OF_ENV: "7"}
model_name_or_path: some/model
torch_dtype: bfloat16
attn_implementation: flash_attention_2
dataset_id_or_path: some/data
swanlab: true
workspace: ours
project: mine
experiment_name: first
output_dir: {folder}
max_steps: 450
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
gradient_checkpointing: true
gradient_checkpointing_kwargs: {use_reentrant: false}
learning_rate: 5e-7
warmup_ratio: 0.03
beta: 0.001
max_prompt_length: 256
num_generations: 8
use_vllm: true
vllm_device: auto
report_to: none
"""


@dataclass
class DatasetArguments:
    """A script's own."""

    dataset_id_or_path: str = "nothing"


@dataclass
class SwanlabArguments:
    """A script's own, with a field that TrainingArguments has too."""

    swanlab: bool
    workspace: str
    project: str
    experiment_name: str


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DUNWU_TEST_OF_ENV", "before")
    path = tmp_path / "recipe.yaml"
    path.write_text(YAML.replace("{folder}", str(tmp_path / "out")), encoding="utf-8")
    return path


def test_four_dataclasses_are_filled_and_the_command_line_wins(recipe: Path) -> None:
    import os

    parser = TrlParser((ModelConfig, DatasetArguments, GRPOConfig, SwanlabArguments))
    model, data, training, tracker = parser.parse_args_and_config(["--config", str(recipe), "--max_steps", "2"])
    assert (model.model_name_or_path, model.torch_dtype) == ("some/model", "bfloat16")
    assert data.dataset_id_or_path == "some/data"
    assert (training.max_steps, training.learning_rate, training.warmup_steps) == (2, 5e-7, 0.03)
    assert training.prompts_per_step == 8
    assert training.gradient_checkpointing_kwargs == {"use_reentrant": False}
    assert tracker == SwanlabArguments(swanlab=True, workspace="ours", project="mine", experiment_name="first")
    assert training.project == "mine", "the name is in two classes, and both get it"
    assert os.environ["DUNWU_TEST_OF_ENV"] == "7"


def test_the_order_of_the_classes_is_the_order_of_the_answers(recipe: Path) -> None:
    found = TrlParser((SwanlabArguments, GRPOConfig, ModelConfig, DatasetArguments)).parse_args_and_config(
        [f"--config={recipe}"]
    )
    assert [type(part) for part in found] == [SwanlabArguments, GRPOConfig, ModelConfig, DatasetArguments]


def test_a_switch_may_stand_alone_or_with_a_value(tmp_path: Path) -> None:
    words = ["--output_dir", str(tmp_path), "--use_vllm", "--log_completions", "--bf16", "--shuffle_dataset", "false"]
    (config,) = TrlParser(GRPOConfig).parse_args_and_config([*words, "--report_to", "none"])
    assert config.log_completions is True
    assert config.shuffle_dataset is False


def test_unknown_arguments_are_named(recipe: Path, tmp_path: Path) -> None:
    parser = TrlParser((ModelConfig, GRPOConfig))
    with pytest.raises(ValueError, match=r"'--lerning_rate'.*did you mean 'learning_rate'"):
        parser.parse_args_and_config(["--lerning_rate", "1"])
    with pytest.raises(ValueError, match="has the key 'dataset_id_or_path', which is not an option"):
        TrlParser((ModelConfig, GRPOConfig)).parse_args_and_config(["--config", str(recipe)])
    lenient = TrlParser((ModelConfig, GRPOConfig))
    words = ["--config", str(recipe), "--more", "3"]
    *_, rest = lenient.parse_args_and_config(words, return_remaining_strings=True)
    assert rest[:2] == ["--dataset_id_or_path", "some/data"]
    assert rest[-2:] == ["--more", "3"]


def test_a_bad_file_is_one_sentence(tmp_path: Path) -> None:
    parser = TrlParser(ModelConfig)
    with pytest.raises(ValueError, match="is not a file"):
        parser.parse_args_and_config(["--config", str(tmp_path / "none.yaml")])
    for text, words in (
        ("- a\n- b\n", "must contain keys and values"),
        ("a: [1\n", "not valid YAML"),
        ("1: 2\n", "has the key 1"),
    ):
        (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=words):
            parser.parse_args_and_config(["--config", str(tmp_path / "bad.yaml")])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("learning_rate: abc", "'abc' does not work; it must be a number"),
        ("learning_rate: [1]", "it must be a number"),
        ("num_generations: 2.5", "it must be a whole number"),
        ("max_steps: 2.0", "it must be a whole number"),
        ("seed: null", "it must be a whole number"),
        ("output_dir: [a]", "it must be text"),
        ("gradient_checkpointing: 3", "it must be true or false"),
        ("beta: true", "it must be a number"),
        ("reward_weights: 1", "it must be a list of numbers"),
        ("reward_weights: [a]", "it must be a list of numbers"),
        ("model_init_kwargs: [1]", "it must be keys and values"),
        ("lora_r: a", "it must be a whole number"),
        ("use_vllm: maybe", "it must be true or false"),
        ("lr_scheduler_type: cosin", "cosin is not a valid SchedulerType"),
    ],
)
def test_a_wrong_value_in_a_file_is_one_sentence(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"report_to: none\n{line}\n", encoding="utf-8")
    words = words if "cosin" in words else f"recipe.yaml, {line.partition(':')[0]}: .*{words}"
    with pytest.raises(ConfigError, match=words):
        TrlParser((GRPOConfig, ModelConfig)).parse_args_and_config(["--config", str(path)])


def test_values_that_yaml_reads_otherwise_than_they_were_meant_work(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    lines = ("output_dir: 5", "learning_rate: 5e-7", "eval_strategy: no", "report_to: none", "run_name: 2025-01-01")
    lines += ("lora_target_modules: all-linear", 'model_init_kwargs: \'{"dtype": "auto"}\'', "bf16: 'no'")
    path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    config, model = TrlParser((GRPOConfig, ModelConfig)).parse_args_and_config(["--config", str(path)])
    assert (config.output_dir, config.learning_rate, config.run_name) == ("5", 5e-7, "2025-01-01")
    assert (config.eval_strategy, config.bf16, config.model_init_kwargs) == ("no", False, {"dtype": "auto"})
    assert model.lora_target_modules == "all-linear"


def test_a_script_s_own_class_gets_its_values_as_the_file_has_them(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("dataset_id_or_path: [a, b]\n", encoding="utf-8")
    (data,) = TrlParser(DatasetArguments).parse_args_and_config(["--config", str(tmp_path / "own.yaml")])
    assert data.dataset_id_or_path == ["a", "b"]


def test_a_wrong_value_on_the_command_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        TrlParser((GRPOConfig, ModelConfig)).parse_args_and_config(["--max_steps", "x"])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert "invalid int value: 'x'" in printed and printed.count("\n") == 1


@dataclass
class OwnConfig(GRPOConfig):  # type: ignore[misc, valid-type]
    """A script's own options on top, as open-r1 has."""

    beta: float = 0.1
    benchmarks: list[str] = field(default_factory=list)


def test_a_script_may_add_options_to_the_config(tmp_path: Path) -> None:
    parser = TrlParser((OwnConfig, ModelConfig))
    words = ["--output_dir", str(tmp_path), "--report_to", "none", "--benchmarks", "a", "b", "--trust_remote_code"]
    training, model = parser.parse_args_and_config(words)
    assert (training.beta, training.benchmarks) == (0.1, ["a", "b"])
    assert training.model_init_kwargs == {"trust_remote_code": True}
    assert model.trust_remote_code is True, "both classes have it, and both get it"


def test_reading_a_command_line_leaves_the_classes_as_they_were() -> None:
    from dunwu.config import GRPOConfig as Today

    before = {name: field.type for name, field in Today.__dataclass_fields__.items()}
    TrlParser((GRPOConfig, ModelConfig))
    assert {name: field.type for name, field in Today.__dataclass_fields__.items()} == before
