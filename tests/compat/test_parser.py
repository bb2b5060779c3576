"""Dataclasses, YAML and the command line are read as TRL's scripts expect."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

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


def test_words_that_no_option_takes_are_named(recipe: Path, tmp_path: Path) -> None:
    parser = TrlParser((ModelConfig, GRPOConfig))
    with pytest.raises(ValueError, match=r"'--lerning_rate'.*did you mean 'learning_rate'"):
        parser.parse_args_and_config(["--lerning_rate", "1"])
    with pytest.raises(ValueError, match="the YAML file has '--dataset_id_or_path'"):
        TrlParser((ModelConfig, GRPOConfig)).parse_args_and_config(["--config", str(recipe)])
    lenient = TrlParser((ModelConfig, GRPOConfig))
    words = ["--config", str(recipe), "--more", "3"]
    *_, rest = lenient.parse_args_and_config(words, return_remaining_strings=True)
    assert rest[:2] == ["--dataset_id_or_path", "some/data"]
    assert rest[-2:] == ["--more", "3"]


def test_a_bad_file_is_said_in_a_sentence(tmp_path: Path) -> None:
    parser = TrlParser(ModelConfig)
    with pytest.raises(ValueError, match="is no file"):
        parser.parse_args_and_config(["--config", str(tmp_path / "none.yaml")])
    for text, words in (("- a\n- b\n", "must hold keys and values"), ("a: [1\n", "not valid YAML")):
        (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=words):
            parser.parse_args_and_config(["--config", str(tmp_path / "bad.yaml")])


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
