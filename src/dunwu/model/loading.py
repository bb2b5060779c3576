"""The policy and its tokenizer: loaded with weights that small steps can move, and checked before anything runs."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import nn

from dunwu._utils.commands import install_command
from dunwu._utils.logging import get_logger
from dunwu._utils.quiet import quiet_dependencies
from dunwu.errors import ConfigError, DunwuError, HubError, ModelError
from dunwu.hub import explain_error, locate
from dunwu.hub.sources import looks_like_missing_path, missing_path
from dunwu.model.architectures import unwrap_model, unwrap_parallel
from dunwu.model.dropout import disable_dropout

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "TOKENIZER_FILES",
    "checkpoint_bytes",
    "eval_mode",
    "is_adapted",
    "load_model",
    "load_tokenizer",
    "prepare_policy",
    "require_peft",
    "to_best_device",
    "tokenizer_of",
    "trainable_parameters",
    "without_progress_bars",
]

Model = TypeVar("Model", bound=nn.Module)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_ADAM_BYTES = 8
"""Adam's two float32 numbers for a trained weight."""


def load_model(
    name_or_path: str | os.PathLike[str], *, source: str = "auto", **init_kwargs: object
) -> PreTrainedModel:
    """A causal language model, in float32 unless a dtype is asked for.

    float32 master weights because a step of lr 1e-6 moves under 2 % of bf16 weights: the others round back to where
    they were. Mixed precision comes from autocast, not from the weights.

    Args:
        name_or_path: a folder with config.json and weights, or a hub's name.
        source: where a name is looked up: `auto`, `hf`, `modelscope` or `local`; a folder always wins.
        init_kwargs: passed to `from_pretrained`.

    Raises:
        HubError: where a hub does not give the model.
        ModelError: where there is no model, or one whose weights do not fit its config.json.
    """
    from transformers import AutoModelForCausalLM

    if "torch_dtype" in init_kwargs:
        init_kwargs.setdefault("dtype", init_kwargs.pop("torch_dtype"))
    init_kwargs.setdefault("dtype", torch.float32)
    name, where = _locate(name_or_path, source, init_kwargs)
    try:
        with without_progress_bars() if Path(where).is_dir() else contextlib.nullcontext():
            loaded = AutoModelForCausalLM.from_pretrained(where, output_loading_info=True, **init_kwargs)
    except Exception as error:  # the hubs' clients have errors of their own, of no common class
        explained = _explained(error, name)
        if explained is None and not isinstance(error, OSError):
            raise
        raise explained or ModelError(
            f"no model could be loaded from {name!r}: {_first_line(error)}. Give a folder with config.json and "
            "weights, or a hub name that this machine can reach"
        ) from error
    model, report = cast("tuple[PreTrainedModel, dict[str, set[str]]]", loaded)
    _refuse_random_weights(model, name, report["missing_keys"], report["unexpected_keys"])
    _make_generation_config_savable(model)
    return model


def prepare_policy(
    model: str | os.PathLike[str] | nn.Module,
    init_kwargs: Mapping[str, Any],
    peft_config: PeftConfig | None = None,
    *,
    dropout: bool = False,
) -> PreTrainedModel:
    """The model to train: loaded if it is a name, wrapped if an adapter is asked for, without dropout unless wanted.

    Raises:
        ConfigError: where an adapter is asked for and `peft` is not installed.
        ModelError: where nothing of the model is trainable, or it could not be saved after training.
    """
    quiet_dependencies()
    policy = load_model(model, **init_kwargs) if isinstance(model, (str, os.PathLike)) else model
    if peft_config is not None:
        require_peft()
        from peft import get_peft_model

        policy = get_peft_model(policy, peft_config)
    trained, total = trainable_parameters(policy)
    if not trained:
        raise ModelError(
            f"none of this model's {total:,} weights is trainable: requires_grad is False for all of them. Load an "
            "adapter with PeftModel.from_pretrained(…, is_trainable=True), give a peft_config for a new one, or call "
            "model.requires_grad_(True)"
        )
    problem = _make_generation_config_savable(policy)
    if problem is not None:
        raise ModelError(
            f"this model could not be saved after training: {problem}. Fix its generation_config.json, or set "
            "model.generation_config = transformers.GenerationConfig()"
        )
    if not dropout:
        disable_dropout(policy)
    return cast("PreTrainedModel", policy)


def load_tokenizer(
    name_or_path: str | os.PathLike[str], *, source: str = "auto", **options: object
) -> PreTrainedTokenizerBase:
    """The tokenizer that lies beside a model; `source` as in `load_model`.

    Raises:
        HubError: where a hub does not give it.
        ModelError: where there is none.
    """
    from transformers import AutoTokenizer

    name, where = _locate(name_or_path, source, options)
    missing = (
        f"no tokenizer was found beside the model in {name!r}; save one there "
        "(tokenizer.save_pretrained), or pass processing_class"
    )
    folder = Path(where).expanduser()
    if folder.is_dir() and not any((folder / file).exists() for file in TOKENIZER_FILES):
        # transformers would make an empty tokenizer of the model's family here, one that knows no token.
        raise ModelError(missing)
    try:
        return cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(where, **options))
    except (OSError, ValueError, KeyError) as error:
        if folder.is_dir():
            raise ModelError(missing) from error
        raise _explained(error, name) or ModelError(
            f"{name!r} could not be read from the hub: {_first_line(error)}; give the folder of a saved model instead"
        ) from error


def tokenizer_of(model: nn.Module) -> PreTrainedTokenizerBase:
    """The tokenizer of a loaded model, from where the model came from.

    Raises:
        ModelError: where the model has no name or path, or there is no tokenizer.
    """
    where = getattr(unwrap_model(model).config, "_name_or_path", "")
    if not where:
        raise ModelError(
            "this model has no name or path, so its tokenizer cannot be found; pass it as processing_class"
        )
    return load_tokenizer(where)


def require_peft(what: str = "an adapter") -> None:
    """Refuse to go on without `peft`, which `what` needs.

    Raises:
        ConfigError: with what to install.
    """
    if importlib.util.find_spec("peft") is None:
        raise ConfigError(f"{what} needs the package peft: {install_command('peft')}")


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """No bars, for files that lie on this machine; a download wants its own."""
    from transformers.utils import logging

    if not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode while the context lasts."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def to_best_device(model: Model) -> Model:
    """The model in evaluation mode on the GPU, if there is one."""
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return model.to(device).eval()


def trainable_parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def is_adapted(model: nn.Module) -> bool:
    """Whether the model has an adapter: PEFT's own wrapper, or one that transformers loaded."""
    model = unwrap_parallel(model)
    return hasattr(model, "peft_config") or bool(getattr(model, "_hf_peft_config_loaded", False))


def checkpoint_bytes(model: nn.Module, *, with_optimizer: bool = False) -> int:
    """Room that a model's weights take on a disk, and Adam's moments of the trained ones.

    Of a model with an adapter only what is trained is saved: the adapter, and `modules_to_save`.
    """
    adapted = is_adapted(model)
    saved = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad or not adapted)
    trained, _ = trainable_parameters(model)
    return int(saved) + (_ADAM_BYTES * trained if with_optimizer else 0)


def _locate(name_or_path: str | os.PathLike[str], source: str, options: dict[str, object]) -> tuple[str, str]:
    """The name as text, and what to hand to transformers; a folder is of one revision already."""
    name = os.fspath(name_or_path)
    if Path(name).expanduser().is_file():
        raise ModelError(f"{name!r} is a file; give the folder with config.json and weights")
    if looks_like_missing_path(name):
        raise ModelError(missing_path(name))
    revision = options.get("revision")
    where = locate(name, source=source, revision=None if revision is None else str(revision))
    if where != name:
        options.pop("revision", None)
    return name, where


def _explained(error: Exception, name: str) -> DunwuError | None:
    """A hub's error with what it means and what to do; None where no hub is involved."""
    sentence = explain_error(error, name)
    return None if sentence is None else HubError(sentence)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _refuse_random_weights(model: nn.Module, name: str, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """transformers draws at random what it does not find, and only prints a table."""
    absent, left_over = sorted(missing), sorted(unexpected)
    if not absent:
        return
    unused = f", while {len(left_over)} others there fit nowhere (such as {left_over[0]})" if left_over else ""
    raise ModelError(
        f"the weights in {name!r} do not fit its config.json (model_type {unwrap_model(model).config.model_type!r}): "
        f"{len(absent)} of {len(model.state_dict())} are missing and would be random ({', '.join(absent[:3])}"
        f"{', …' if len(absent) > 3 else ''}){unused}. Check that config.json belongs to these weights and that no "
        "weight file is missing"
    )


def _make_generation_config_savable(model: nn.Module) -> str | None:
    """Mend what would make `save_pretrained` fail after the last step; otherwise why it would.

    Many published models have a temperature or top_p and no `do_sample`, which is invalid to save once anything in
    the generation config (an end token) was changed.
    """
    config = getattr(unwrap_model(model), "generation_config", None)
    if config is None or not (problem := _invalid_reason(config)):
        return None
    if not config.do_sample:
        config.do_sample = True
        if _invalid_reason(config) is None:
            get_logger().debug(
                "generation_config: do_sample=True was set, which its sampling options need to be saved"
            )
            return None
        config.do_sample = False
    return problem


def _invalid_reason(config: GenerationConfig) -> str | None:
    try:
        config.validate(strict=True)
    except ValueError as error:
        lines = [line.strip("- ") for line in str(error).splitlines() if line.startswith("-")]
        return lines[0] if lines else _first_line(error)
    return None
