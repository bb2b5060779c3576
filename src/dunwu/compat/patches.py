"""What an old script expects around it: cuda, flash attention, lists of ids from a template, a hub that answers.

What it is: small changes to transformers' and torch's entry points, made once, in a process that runs an old script;
each says so the first time it does something.
What it is not: active for anybody who uses Dunwu without `dunwu run` or `import dunwu.compat`.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dunwu._utils.import_hooks import on_import
from dunwu._utils.logging import get_logger
from dunwu.hub import locate
from dunwu.trackers import patch_tracker_logins

__all__ = ["surround"]

_SEED = 42
"""A split without a seed draws from numpy's global state: the same on every process now, and after a resume."""


def surround() -> None:
    """Have the changes made to each package once it is imported; `dunwu.compat.install` calls this once."""
    patch_tracker_logins()
    random.seed(_SEED)
    on_import("numpy", lambda numpy: numpy.random.seed(_SEED))
    on_import("torch", _torch)
    on_import("transformers", _transformers)
    on_import("datasets", _datasets)


def _torch(torch: Any) -> None:
    if not torch.cuda.is_available():
        for owner in (torch.nn.Module, torch.Tensor):
            _wrap(owner, "to", _to_what_is_here)
            _wrap(owner, "cuda", _cuda_is_not_here, becomes="to")


def _transformers(transformers: Any) -> None:
    from transformers.models.auto import modeling_auto

    from dunwu.trl.parser import TrlParser

    # transformers gives each Auto class a `from_pretrained` of its own.
    autos = [kind for kind in vars(modeling_auto).values() if isinstance(kind, type) and kind.__name__[:4] == "Auto"]
    for owner in (*(kind for kind in autos if "from_pretrained" in vars(kind)), transformers.PreTrainedModel):
        _wrap_class_method(owner, "from_pretrained", _model_call)
    for owner in (transformers.AutoTokenizer, transformers.AutoConfig):
        _wrap_class_method(owner, "from_pretrained", _found)
    # Its own refuses two dataclasses that share a name, which `project` and `trust_remote_code` have come to do.
    transformers.HfArgumentParser = TrlParser
    _wrap(transformers.PreTrainedTokenizerBase, "apply_chat_template", _list_of_ids)
    if not _has_cuda():
        _wrap(transformers.BatchEncoding, "to", _to_what_is_here)


def _datasets(datasets: Any) -> None:
    original = datasets.load_dataset

    @functools.wraps(original)
    def load_dataset(path: str, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("trust_remote_code", None)  # datasets 4 has dropped it, with the scripts it was for
        packaged = path in {"json", "csv", "parquet", "text", "arrow", "generator", "imagefolder"}
        place = path if packaged or Path(path).exists() else locate(path, kind="dataset", source=_source())
        return original(place, *args, **kwargs)

    datasets.load_dataset = load_dataset


Call = tuple[tuple[Any, ...], dict[str, Any]]


def _wrap(owner: Any, name: str, change: Callable[..., Call], *, becomes: str | None = None) -> None:
    original = getattr(owner, becomes or name)

    @functools.wraps(original)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = change(args, kwargs)
        return original(self, *args, **kwargs)

    setattr(owner, name, wrapped)


def _wrap_class_method(owner: Any, name: str, change: Callable[..., Call]) -> None:
    original = owner.__dict__[name].__func__

    @functools.wraps(original)
    def wrapped(cls: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = change(args, kwargs)
        return original(cls, *args, **kwargs)

    setattr(owner, name, classmethod(wrapped))


def _model_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    if "torch_dtype" in kwargs:
        kwargs.setdefault("dtype", kwargs.pop("torch_dtype"))
    wanted = str(kwargs.get("attn_implementation"))
    if wanted.startswith("flash_attention") and not _has_flash(wanted):
        _say_once(f"attn_implementation={wanted!r} is not installed here: sdpa, which computes the same")
        kwargs["attn_implementation"] = "sdpa"
    if "cuda" in str(kwargs.get("device_map")) and not _has_cuda():
        _say_once("device_map asks for cuda, and there is none here: the model goes where training runs")
        kwargs["device_map"] = None
    return _found(args, kwargs)


def _has_flash(wanted: str) -> bool:
    package = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}.get(wanted)
    return _has_cuda() and package is not None and importlib.util.find_spec(package) is not None


def _found(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """A name becomes a folder where the source says so; what is missing is said in words, at once."""
    name = args[0] if args else kwargs.get("pretrained_model_name_or_path")
    if not isinstance(name, str) or Path(name).exists() or kwargs.get("subfolder"):
        return args, kwargs
    place = locate(name, source=_source(), revision=kwargs.get("revision"))
    if place == name:
        return args, kwargs
    kwargs.pop("revision", None)  # the folder is that revision
    return ((place, *args[1:]), kwargs) if args else (args, {**kwargs, "pretrained_model_name_or_path": place})


def _list_of_ids(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    # transformers 5 answers with a dict of ids and mask where 4 answered with the ids.
    return args, {"return_dict": False, **kwargs}


def _to_what_is_here(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    if args and _is_cuda(args[0]):
        args = (_here(args[0]), *args[1:])
    elif _is_cuda(kwargs.get("device")):
        kwargs = {**kwargs, "device": _here(kwargs["device"])}
    return args, kwargs


def _cuda_is_not_here(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    return (_here("cuda"),), {}


def _is_cuda(device: Any) -> bool:
    # A torch.device says its name as text; a dtype or another tensor may stand here too.
    return (isinstance(device, str) and device.startswith("cuda")) or getattr(device, "type", None) == "cuda"


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _here(device: Any) -> str:
    import torch

    place = "mps" if torch.backends.mps.is_available() else "cpu"
    _say_once(f"{str(device)!r} is not here: {place}")
    return place


def _source() -> str:
    return os.environ.get("DUNWU_SOURCE", "auto")


@functools.cache
def _say_once(sentence: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        get_logger().info(sentence)
