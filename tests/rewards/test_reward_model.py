"""A reward model scores a row alone as it does in a batch; one with several labels is refused."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from dunwu.rewards import RewardModel, RewardRunner

WORDS = ["<pad>", "<end>", "<unk>", "<user>", "<assistant>", "what", "is", "two", "plus", "four", "five", "."]
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end>{% endfor %}"


def made_model(labels: int = 1, **options: object) -> Qwen2ForSequenceClassification:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, num_labels=labels, bos_token_id=None, eos_token_id=1, **options,
    )  # fmt: skip
    return Qwen2ForSequenceClassification(config)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")
    made.chat_template = TEMPLATE
    return made


PROMPTS = ["what is two plus two ", "what is ", "two "]
COMPLETIONS = ["four .", "five five five five five .", "."]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_row_alone_scores_as_in_a_batch(tokenizer: PreTrainedTokenizerFast, batch_size: int) -> None:
    model = made_model()
    reward = RewardModel(model, tokenizer, batch_size=batch_size)
    expected = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        ids = torch.tensor([tokenizer(prompt + completion)["input_ids"]])
        hidden = model.model(input_ids=ids).last_hidden_state[0, -1]
        expected.append(float(model.score(hidden).detach()))
    assert reward(prompts=PROMPTS, completions=COMPLETIONS) == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 3, "a model that scores all the same would prove nothing"


def test_messages_are_scored_through_the_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    reward = RewardModel(made_model(), tokenizer)
    prompt, answer = [{"role": "user", "content": "what is two"}], [{"role": "assistant", "content": "four"}]
    written = "<user> what is two <end><assistant> four <end>"
    assert reward([prompt], [answer]) == pytest.approx(reward([written[:10]], [written[10:]]))


def test_only_the_end_is_kept_where_a_length_is_given(tokenizer: PreTrainedTokenizerFast) -> None:
    reward = RewardModel(made_model(), tokenizer, max_length=2)
    assert reward(["what is "], ["four ."]) == pytest.approx(reward(["four "], ["."]))


def test_a_saved_model_is_loaded_by_name_and_named_after_its_folder(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = tmp_path / "judge-0.1B"
    # Qwen3 here: for a Qwen2 configuration AutoTokenizer replaces a generic tokenizer by Qwen2's own splitting.
    torch.manual_seed(0)
    config = Qwen3Config(**made_model().config.to_dict() | {"model_type": "qwen3", "head_dim": 8})
    model = Qwen3ForSequenceClassification(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    reward = RewardModel(str(folder))
    runner = RewardRunner([reward])
    scores = runner.score(prompts=PROMPTS, completions=COMPLETIONS, completion_ids=[[1]] * 3, columns={})
    assert runner.names == ("judge-0.1B",)
    assert [row[0] for row in scores.values] == pytest.approx(
        RewardModel(model, tokenizer)(PROMPTS, COMPLETIONS), abs=1e-5
    )


def test_a_model_with_two_labels_is_refused_with_the_reason(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="must have one label"):
        RewardModel(made_model(labels=2), tokenizer)


def test_a_model_without_a_name_needs_a_tokenizer() -> None:
    with pytest.raises(ValueError, match="pass tokenizer"):
        RewardModel(made_model())
