"""The policy and its reference: loaded, wrapped, frozen.

What it is: loading a policy with weights that small steps can move, its tokenizer, and the frozen reference as a copy
or as the policy with its adapter off.
What it is not: a forward pass (that is `forward`) or sampling (that is an Engine).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dunwu.hub import explain_error, locate

__all__ = [
    "checkpoint_bytes",
    "disable_dropout",
    "load_model",
    "load_tokenizer",
    "prepare_policy",
    "to_best_device",
    "tokenizer_of",
    "trainable_parameters",
    "without_progress_bars",
]


_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


def load_model(name_or_path: str, *, source: str = "auto", **init_kwargs: Any) -> Any:
    """A causal language model, in float32 unless a dtype is asked for.

    `source` says where a name is looked up: `auto`, `hf`, `modelscope` or `local`; a folder always wins.

    float32 master weights because a step of lr 1e-6 moves under 2 % of bf16 weights: the others round back to where
    they were. Mixed precision comes from autocast, not from the weights.
    """
    from transformers import AutoModelForCausalLM

    if "torch_dtype" in init_kwargs:
        init_kwargs.setdefault("dtype", init_kwargs.pop("torch_dtype"))
    init_kwargs.setdefault("dtype", torch.float32)
    if _is_missing_folder(name_or_path):
        raise ValueError(f"there is no folder {name_or_path!r}; give the folder of a saved model, or a hub name")
    where = locate(name_or_path, source=source, revision=init_kwargs.get("revision"))
    if where != name_or_path:
        init_kwargs.pop("revision", None)  # the folder is of this revision
    try:
        with without_progress_bars() if Path(where).is_dir() else contextlib.nullcontext():
            return AutoModelForCausalLM.from_pretrained(where, **init_kwargs)
    except Exception as error:  # the hubs' clients have errors of their own, of no common class
        words = explain_error(error, name_or_path)
        if words is None and not isinstance(error, OSError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            words
            or f"no model could be loaded from {name_or_path!r}: {reason}. Give a folder with config.json and "
            "weights, or a hub name that this machine can reach"
        ) from error


def prepare_policy(model: Any, init_kwargs: dict[str, Any], peft_config: Any = None, *, dropout: bool = False) -> Any:
    """The model to train: loaded if it is a name, wrapped if an adapter is asked for, without dropout unless wanted.

    Raises:
        ValueError: when an adapter is asked for and `peft` is not installed.
    """
    policy = load_model(model, **init_kwargs) if isinstance(model, str) else model
    if peft_config is not None:
        try:
            from peft import get_peft_model
        except ImportError as error:
            raise ValueError("an adapter needs the package peft: pip install 'dunwu[peft]'") from error
        policy = get_peft_model(policy, peft_config)
    if not dropout:
        disable_dropout(policy)
    return policy


def load_tokenizer(name_or_path: str, *, source: str = "auto", **options: Any) -> Any:
    """The tokenizer that lies beside a model; `source` as in `load_model`.

    Raises:
        ValueError: when there is none, or no such folder.
    """
    from transformers import AutoTokenizer

    if _is_missing_folder(name_or_path):
        raise ValueError(f"there is no folder {name_or_path!r}; give the folder of a saved model, or a hub name")
    missing = (
        f"no tokenizer was found beside the model in {name_or_path!r}; save one there "
        "(tokenizer.save_pretrained), or pass processing_class"
    )
    where = locate(name_or_path, source=source, revision=options.get("revision"))
    if where != name_or_path:
        options.pop("revision", None)  # the folder is of this revision
    folder = Path(where).expanduser()
    if folder.is_dir() and not any((folder / name).exists() for name in _TOKENIZER_FILES):
        # transformers would make an empty tokenizer of the model's family here, one that knows no token.
        raise ValueError(missing)
    try:
        return AutoTokenizer.from_pretrained(where, **options)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        away = f"{name_or_path!r} could not be read from the hub: {reason}; give the folder of a saved model instead"
        raise ValueError(missing if folder.is_dir() else explain_error(error, name_or_path) or away) from error


def tokenizer_of(model: Any) -> Any:
    """The tokenizer of a loaded model, from where the model came from.

    Raises:
        ValueError: when the model does not say, or there is none.
    """
    where = getattr(model.config, "_name_or_path", "")
    if not where:
        raise ValueError("this model does not say where it came from; pass its tokenizer as processing_class")
    return load_tokenizer(where)


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout probability to 0, so that training's forward is the sampler's."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Without bars, for files that lie on this machine; a download wants its own."""
    from transformers.utils import logging

    if not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def to_best_device(model: Any) -> Any:
    """The model in evaluation mode on the GPU, if there is one."""
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return model.to(device).eval()


def trainable_parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def checkpoint_bytes(model: nn.Module, *, with_optimizer: bool = False) -> int:
    """Room that a model's weights take on a disk, and Adam's two float32 numbers a trained weight."""
    trains, _ = trainable_parameters(model)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return int(weights) + (8 * trains if with_optimizer else 0)


def _is_missing_folder(name_or_path: str) -> bool:
    """A path that cannot be a hub name (those are NAME or ORG/NAME) and is not there."""
    looks_like_path = name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1
    return looks_like_path and not Path(name_or_path).expanduser().exists()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Dropout off while it lasts."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
