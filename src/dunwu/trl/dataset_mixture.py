"""`DatasetMixtureConfig` and `get_dataset`: several datasets as one, as TRL's own scripts read them from YAML."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dunwu.errors import ConfigError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = ["DatasetConfig", "DatasetMixtureConfig", "get_dataset", "init_zero_verbose"]


@dataclass
class DatasetConfig:
    """One dataset of a mixture: arguments of `datasets.load_dataset`, and what is taken of it.

    Example: `DatasetConfig(path="openai/gsm8k", name="main", columns=["question", "answer"])`
    """

    path: str
    """Hub name, folder or file format."""
    name: str | None = None
    """Configuration."""
    data_dir: str | None = None
    """Folder inside of it."""
    data_files: str | list[str] | dict[str, str] | None = None
    """Files of it."""
    split: str = "train"
    """Split."""
    columns: list[str] | None = None
    """Columns to keep; None: all."""
    fraction: float | None = None
    """Share in the mixture, relative to the others'; None: all rows."""


@dataclass
class DatasetMixtureConfig:
    """Which datasets, one after the other.

    Example: `DatasetMixtureConfig(datasets=[DatasetConfig(path="trl-lib/tldr")], test_split_size=0.1)`

    Raises:
        ConfigError: for a dataset with an unknown key, or without a path.
    """

    datasets: list[DatasetConfig] = field(default_factory=list, metadata={"help": "In YAML: a list of mappings."})
    streaming: bool = field(default=False, metadata={"help": "Read them as streams."})
    test_split_size: float | None = field(default=None, metadata={"help": "Share of rows for a split `test`."})

    def __post_init__(self) -> None:
        self.datasets = [_config(one) if isinstance(one, Mapping) else one for one in self.datasets]


def get_dataset(mixture_config: DatasetMixtureConfig) -> DatasetDict:
    """The rows of all datasets as split `train`, and some of them as `test` where `test_split_size` says so.

    Raises:
        ConfigError: for no dataset, or fractions for some of them only, or of streams.
    """
    import datasets

    wanted = mixture_config.datasets
    if not wanted:
        raise ConfigError("the mixture has no datasets: give `datasets` with a `path` each, or --dataset_name")
    found = [_loaded(one, streaming=mixture_config.streaming) for one in wanted]
    together = datasets.concatenate_datasets(_cut(found, wanted, streaming=mixture_config.streaming))
    if mixture_config.test_split_size is None:
        return datasets.DatasetDict({"train": together})
    split: DatasetDict = together.train_test_split(test_size=mixture_config.test_split_size)
    return split


def init_zero_verbose() -> None:
    """Log errors only, and warnings as log lines: what a script asks for that wants a quiet terminal."""
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    logging.captureWarnings(True)


def _config(given: Mapping[str, Any]) -> DatasetConfig:
    try:
        return DatasetConfig(**given)
    except TypeError as error:
        known = ", ".join(DatasetConfig.__dataclass_fields__)
        raise ConfigError(f"datasets: {dict(given)!r} does not work; each has a path and may have {known}") from error


def _loaded(wanted: DatasetConfig, *, streaming: bool) -> Dataset:
    import datasets

    found = datasets.load_dataset(
        wanted.path,
        name=wanted.name,
        data_dir=wanted.data_dir,
        data_files=wanted.data_files,
        split=wanted.split,
        streaming=streaming,
    )
    return found if wanted.columns is None else found.select_columns(wanted.columns)


def _cut(found: Sequence[Dataset], wanted: Sequence[DatasetConfig], *, streaming: bool) -> list[Dataset]:
    """The first rows of each, in the proportions asked for: as many as there are without repeating any."""
    fractions = [one.fraction for one in wanted if one.fraction is not None]
    if not fractions:
        return list(found)
    if len(fractions) < len(wanted) or streaming or sum(fractions) <= 0 or min(fractions) < 0:
        raise ConfigError(
            "fraction: give one of 0 or more to every dataset of the mixture or to none, and none with streaming; "
            f"got {[one.fraction for one in wanted]}"
        )
    shares = [fraction / sum(fractions) for fraction in fractions]
    total = min(len(rows) / share for rows, share in zip(found, shares, strict=True) if share)
    return [rows.select(range(round(share * total))) for rows, share in zip(found, shares, strict=True)]
