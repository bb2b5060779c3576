"""TRL's functions for rows and messages give what TRL 1.16's give."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, IterableDataset

from dunwu.errors import ConfigError, DataError
from dunwu.trl import DatasetConfig, DatasetMixtureConfig, TrlParser, data_utils, get_dataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("trl", minversion="1.16.0")
    import trl as theirs
    from trl.scripts.utils import DatasetConfig as TheirDatasetConfig

USER = {"role": "user", "content": "2+2?"}
SYSTEM = {"role": "system", "content": "think"}
FOUR, FIVE = ({"role": "assistant", "content": text} for text in ("4", "45"))

ROWS: list[dict[str, Any]] = [
    {"prompt": "2+2?"},
    {"prompt": [USER]},
    {"prompt": [SYSTEM, USER], "answer": 4},
    {"prompt": [USER, FOUR]},
    {"prompt": [USER, FOUR, {"role": "tool", "content": "4"}]},
    {"prompt": [USER], "completion": [FOUR]},
    {"prompt": [USER], "chosen": [FOUR], "rejected": [FIVE]},
    {"chosen": [USER, FOUR], "rejected": [USER, FIVE]},
    {"prompt": [USER], "completion": [FOUR], "label": True},
    {"messages": [USER, FOUR]},
    {"messages": [USER], "chat_template_kwargs": {"shout": True}},
    {"conversations": [{"from": "user", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
    {"text": "2+2"},
    {"chosen": "2+2 is 4", "rejected": "2+2 is 5"},
    {"chosen": "2+2=4", "rejected": "2+2=4, no"},
    {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
]
TEMPLATE = (
    "{% if shout is defined %}LOUD{% endif %}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }};{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% if plain is not defined %}<tool>{% endif %}{% endif %}"
)


@pytest.mark.parametrize(
    "name",
    ["is_conversational", "is_conversational_from_value", "maybe_convert_to_chatml", "maybe_extract_prompt"],
)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row))
def test_a_row_is_read_as_trl_reads_it(name: str, row: dict[str, Any]) -> None:
    before = copy.deepcopy(row)
    assert getattr(data_utils, name)(row) == getattr(theirs, name)(copy.deepcopy(row))
    assert row == before, "the row itself stays as it is"


def test_a_prompt_that_is_text_beside_answers_that_are_messages_is_taken_from_the_answers() -> None:
    row = {"prompt": "2+2?", "chosen": [USER, FOUR], "rejected": [USER, FIVE]}
    expected = {"prompt": [USER], "chosen": [FOUR], "rejected": [FIVE]}
    assert data_utils.maybe_extract_prompt(row) == theirs.maybe_extract_prompt(row) == expected


@pytest.mark.parametrize("more", [{}, {"plain": True}], ids=str)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row))
def test_a_template_makes_of_a_row_what_it_makes_in_trl(tiny: Any, row: dict[str, Any], more: dict[str, Any]) -> None:
    """The template begins an answer with `<tool>`, which a whole conversation lacks (DeepSeek-R1's does so)."""
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = TEMPLATE
    expected = theirs.maybe_apply_chat_template(row, tokenizer, **more)
    assert data_utils.maybe_apply_chat_template(row, tokenizer, **more) == expected


@pytest.mark.parametrize(
    ("row", "words"),
    [({"chosen": [USER]}, "no known kind"), ({"prompt": [SYSTEM]}, "its last is of 'system'")],
)
def test_a_row_that_no_template_fits_is_refused(tiny: Any, row: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        data_utils.apply_chat_template(row, tiny.tokenizer())


PAIRS = {"prompt": ["a", "b"], "chosen": ["c", "d"], "rejected": ["e", "f"], "n": [1, 2]}


@pytest.mark.parametrize("columns", [PAIRS, {"prompt": ["a"], "completion": ["b"]}], ids=lambda c: "-".join(c))
def test_pairs_are_unpaired_as_in_trl(columns: dict[str, Any]) -> None:
    dataset = Dataset.from_dict(columns)
    for rows in (dataset, DatasetDict({"train": dataset, "test": dataset})):
        ours, expected = (module.maybe_unpair_preference_dataset(rows) for module in (data_utils, theirs))
        if isinstance(rows, Dataset):
            ours, expected = {"all": ours}, {"all": expected}
        assert {name: list(part) for name, part in ours.items()} == {n: list(part) for n, part in expected.items()}
    stream = IterableDataset.from_generator(lambda: iter([{"chosen": "c", "rejected": "e"}]))
    assert list(data_utils.unpair_preference_dataset(stream)) == [
        {"completion": "c", "label": True},
        {"completion": "e", "label": False},
    ]


# -- mixtures ------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    paths = []
    for letter, size in (("a", 12), ("b", 8)):
        folder = tmp_path / letter
        Dataset.from_list([{"prompt": f"{letter}{i}", "n": i} for i in range(size)]).to_json(folder / "rows.jsonl")
        paths.append(str(folder))
    return paths


@pytest.mark.parametrize("fractions", [(None, None), (0.5, 0.5), (0.9, 0.1), (1.0, 0.0), (1, 3)], ids=str)
def test_a_mixture_has_the_rows_that_trl_s_has(
    files: list[str], fractions: tuple[float | None, float | None]
) -> None:
    def mixed(config: Any, mixture: Any, get: Any) -> list[str]:
        parts = [
            config(path=path, columns=["prompt"], fraction=share)
            for path, share in zip(files, fractions, strict=True)
        ]
        found = get(mixture(datasets=parts))
        assert found.column_names == {"train": ["prompt"]}
        return list(found["train"]["prompt"])

    ours = mixed(DatasetConfig, DatasetMixtureConfig, get_dataset)
    assert ours == mixed(TheirDatasetConfig, theirs.DatasetMixtureConfig, theirs.get_dataset)


def test_a_mixture_comes_from_yaml_and_may_be_split(files: list[str], tmp_path: Any) -> None:
    path = tmp_path / "mixture.yaml"
    path.write_text(
        f"datasets:\n  - path: {files[0]}\n    columns: [prompt]\n  - {{path: {files[1]}, columns: [prompt]}}\n"
        "test_split_size: 0.25\n",
        encoding="utf-8",
    )
    (config,) = TrlParser(DatasetMixtureConfig).parse_args_and_config(["--config", str(path)])
    found = get_dataset(config)
    assert {name: rows.num_rows for name, rows in found.items()} == {"train": 15, "test": 5}


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        ([], "the mixture has no datasets"),
        ([{"path": "a", "fraction": 1.0}, {"path": "b"}], r"to every dataset of the mixture .* got \[1.0, None\]"),
        ([{"path": "a", "fraction": -1.0}], "one of 0 or more"),
        ([{"pth": "a"}], "datasets: {'pth': 'a'} does not work; each has a path and may have path, name"),
    ],
    ids=str,
)
def test_a_mixture_that_cannot_be_made_is_refused(
    monkeypatch: pytest.MonkeyPatch, datasets: list[dict[str, Any]], words: str
) -> None:
    monkeypatch.setattr("datasets.load_dataset", lambda path, **_: Dataset.from_dict({"prompt": [path]}))
    with pytest.raises(ConfigError, match=words):
        get_dataset(DatasetMixtureConfig(datasets=datasets))
