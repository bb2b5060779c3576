"""The embedded model and its tokenizer: what lies in the package is what users load."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dunwu.embedded import EMBEDDED_MODEL, embedded_model_path, quickstart_task
from dunwu.embedded.build import STAGES, Stage, make
from dunwu.embedded.synthetic_traces import TraceConfig, trace
from dunwu.embedded.tokenizer import END, PAD, TAGS, make_tokenizer
from dunwu.recipes.recipe import load_recipe
from dunwu.tasks import get_task
from dunwu.tasks.countdown import draw_puzzle, split_of

COMPLETION = "<think>17-14=3, 17-3=14 no\n17-14=3, 17*3=51 yes\n</think>\n<answer>17*(17-14)</answer>"
MESSAGES = [{"role": "user", "content": "3 14 17 = 51"}]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(embedded_model_path())


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(embedded_model_path()).eval()


def test_the_package_is_at_most_two_megabytes_and_readable_by_all() -> None:
    files = list(EMBEDDED_MODEL.iterdir())
    assert sum(file.stat().st_size for file in files) <= 2_000_000
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    } <= {file.name for file in files}
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in files)


ODD = ["", "让我们逐步解决这个问题。\n<think>", "naïve  spaces\t\n and 1234567 % 🙂", " yes\n no\n, ,", "100 yes no"]


def test_transformers_reads_the_shipped_tokenizer_as_the_one_that_the_code_makes(tokenizer: Any) -> None:
    # AutoTokenizer swaps in Qwen2's class, which has a splitting rule of its own; the model must not notice.
    made, rng = make_tokenizer(), random.Random(0)
    config = TraceConfig(insight=0.1, give_up=0.2)
    for row in quickstart_task().rows("train")[:200]:
        prompt = made.apply_chat_template(quickstart_task().prompt(row), tokenize=False, add_generation_prompt=True)
        text = prompt + trace(tuple(row["nums"]), row["target"], 99, config, rng) + END
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == made.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
    for text in ODD:
        assert tokenizer.encode(text) == made.encode(text)
    assert len(tokenizer) == len(made)


@pytest.mark.parametrize(
    "text",
    [COMPLETION, "让我们逐步解决这个问题。\n<think>", "naïve  spaces\t\n and 1234567 % 🙂", "", " yes\n no\n, ,"],
)
def test_any_text_comes_back_unchanged(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text


def test_tags_survive_decoding_and_are_single_tokens(tokenizer: Any) -> None:
    for tag in TAGS:
        ids = tokenizer.encode(tag)
        assert len(ids) == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == tag


def test_numbers_up_to_99_are_single_tokens_of_their_own(tokenizer: Any) -> None:
    ids = [tokenizer.encode(str(n)) for n in range(100)]
    assert all(len(one) == 1 for one in ids)
    assert len({one[0] for one in ids}) == 100


def test_a_trial_has_twelve_tokens(tokenizer: Any) -> None:
    assert len(tokenizer.encode("17-14=3, 17-3=14 no\n")) == 12


def test_end_and_padding_are_special_and_not_the_same(tokenizer: Any) -> None:
    assert (tokenizer.eos_token, tokenizer.pad_token) == (END, PAD)
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert tokenizer.decode(tokenizer.encode(f"51{END}{PAD}"), skip_special_tokens=True) == "51"


def test_the_template_opens_the_assistants_turn(tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>3 14 17 = 51<|end|><|assistant|>"
    system = [{"role": "system", "content": "Be brief."}, *MESSAGES]
    assert (
        tokenizer.apply_chat_template(system, tokenize=False)
        == "<|system|>Be brief.<|end|><|user|>3 14 17 = 51<|end|>"
    )


def test_the_template_continues_a_begun_answer(tokenizer: Any) -> None:
    begun = [*MESSAGES, {"role": "assistant", "content": "Let us see.\n<think>"}]
    text = tokenizer.apply_chat_template(begun, tokenize=False, continue_final_message=True)
    assert text == "<|user|>3 14 17 = 51<|end|><|assistant|>Let us see.\n<think>"


def test_the_model_fits_its_tokenizer(model: Any, tokenizer: Any) -> None:
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert sum(weight.numel() for weight in model.parameters()) < 300_000


@torch.no_grad()
def test_the_model_can_do_arithmetic_but_gives_up_early(model: Any, tokenizer: Any) -> None:
    task = quickstart_task()
    rows = task.rows("validation")[:200]
    texts = [
        tokenizer.apply_chat_template(task.prompt(row), tokenize=False, add_generation_prompt=True) for row in rows
    ]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    ids = model.generate(**batch, do_sample=False, max_new_tokens=96)
    said = tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    right = sum(task.grade(row, text).strict for row, text in zip(rows, said, strict=True)) / len(rows)
    assert 0.10 <= right <= 0.40


@torch.no_grad()
def test_a_sound_thought_is_likelier_to_the_model_than_a_false_one(model: Any, tokenizer: Any) -> None:
    prompt = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)

    def loss(said: str) -> float:
        ids = tokenizer(prompt + said, return_tensors="pt")["input_ids"]
        return float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)

    true = loss("<think>17-14=3, 17+3=20 no\n")
    assert true + 2 < loss("<think>17-14=4, 17+4=21 no\n")
    assert true + 2 < loss("<think>17-14=3, 17+3=20 yes\n")


def test_training_reads_only_puzzles_of_the_training_split() -> None:
    rng, task = random.Random(0), quickstart_task()
    drawn = [puzzle for _ in range(300) if (puzzle := draw_puzzle(task, "train", rng)) is not None]
    assert len(drawn) > 100
    assert {split_of(nums) for nums, _ in drawn} == {"train"}
    assert trace(*drawn[0], 99, STAGES[0].traces, rng)


def test_the_same_seed_makes_the_same_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = [Stage(steps=3, rate=1e-3, traces=TraceConfig(insight=0.1, give_up=0.5))]
    scores = [make(tmp_path / name, seed, stages, eval_rows=4) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]
    assert scores[0] == scores[1]
    assert {"sampled right", "greedy right", "greedy arithmetic right"} <= scores[0].keys()
    assert "loss" in capsys.readouterr().out
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "a").num_parameters() < 300_000
    assert not (tmp_path / "a.new").exists()


def test_the_models_task_is_that_of_the_quickstart_recipe() -> None:
    options = load_recipe("quickstart").task
    assert quickstart_task() == get_task(options.pop("name"), **options)
    assert (quickstart_task().style, quickstart_task().limit) == ("tiny", 99)
