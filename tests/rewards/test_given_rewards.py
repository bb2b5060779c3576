"""What a trainer accepts as rewards: functions, models, and names of either."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForSequenceClassification

from dunwu.rewards import RewardModel, RewardRunner, reward_functions


def ones(completions: list[Any], **columns: Any) -> list[float]:
    return [1.0 for _ in completions]


def test_one_function_and_a_list_of_callables_stay_as_they_are() -> None:
    scaled = partial(ones, factor=2)
    assert reward_functions(ones) == [ones]
    assert reward_functions([ones, scaled]) == [ones, scaled]


def test_names_become_built_in_rewards_or_your_own() -> None:
    found = reward_functions(["equation_solves", "dunwu.rewards.tutorials:reward_len"])
    assert [function.__name__ for function in found] == ["equation_solves", "reward_len"]  # type: ignore[attr-defined]


def classifier(tiny: Any) -> Qwen2ForSequenceClassification:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=tiny.vocabulary,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_labels=1,
        pad_token_id=0,
    )
    return Qwen2ForSequenceClassification(config)


def test_a_classifier_becomes_a_reward_model_with_its_own_tokenizer(tiny: Any) -> None:
    first, second = reward_functions([ones, classifier(tiny)], [None, tiny.tokenizer()])
    assert first is ones and isinstance(second, RewardModel)
    runner = RewardRunner([first, second])
    scores = runner.score(prompts=["a", "a"], completions=["b", "c"], completion_ids=[[1], [1]], columns={})
    assert scores.values[0][1] != scores.values[1][1]


def test_one_tokenizer_belongs_to_the_only_reward_model(tiny: Any) -> None:
    tokenizer = tiny.tokenizer()
    first, second = reward_functions([ones, classifier(tiny)], tokenizer)
    assert first is ones and isinstance(second, RewardModel) and second.tokenizer is tokenizer
    assert reward_functions(ones, tokenizer) == [ones]


def test_one_tokenizer_for_two_reward_models_is_refused(tiny: Any) -> None:
    with pytest.raises(ValueError, match="is one tokenizer, and 2 of the 3 rewards are models with a tokenizer each"):
        reward_functions([classifier(tiny), ones, classifier(tiny)], tiny.tokenizer())


def test_a_reward_model_goes_to_the_device_that_is_named(tiny: Any, tmp_path: Path) -> None:
    classifier(tiny).save_pretrained(tmp_path / "judge")
    tiny.tokenizer().save_pretrained(tmp_path / "judge")
    for given in (str(tmp_path / "judge"), classifier(tiny)):
        (left,) = reward_functions(given, tiny.tokenizer())
        assert isinstance(left, RewardModel) and left.model.device.type == "cpu"
        (moved,) = reward_functions(given, tiny.tokenizer(), device="meta")
        assert isinstance(moved, RewardModel) and moved.model.device.type == "meta"


def test_a_reward_model_that_is_spread_over_devices_is_left_there(tiny: Any) -> None:
    model = classifier(tiny)
    model.hf_device_map = {"": "cpu"}  # type: ignore[assignment]
    assert RewardModel(model, tiny.tokenizer(), device="meta").model.device.type == "cpu"


@pytest.mark.parametrize(
    ("given", "tokenizers", "said"),
    [
        ([], None, "no reward function"),
        ("think_answer_fromat", None, "did you mean 'think_answer_format'"),
        ([3], None, "must be a function, a reward model or the name of one, got 3"),
        ([ones, ones], [None], "1 reward_processing_classes for 2 reward functions"),
    ],
)
def test_what_is_no_reward_is_refused(given: Any, tokenizers: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        reward_functions(given, tokenizers)
