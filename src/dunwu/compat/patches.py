"""Patches for scripts written for earlier versions of TRL, transformers and torch.

Small changes to transformers', torch's and datasets' entry points, made once, in a process that runs such a script;
each is logged the first time it has an effect. Who uses Dunwu without `dunwu run` or `import dunwu.compat` gets none.
"""

from __future__ import annotations

import functools
import importlib.util
import multiprocessing
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

from dunwu._utils.import_hooks import on_import
from dunwu._utils.logging import get_logger
from dunwu.hub import locate
from dunwu.trackers import patch_tracker_logins

__all__ = ["apply_patches"]

Call: TypeAlias = tuple[tuple[object, ...], dict[str, object]]
"""Positional and keyword arguments."""
Change: TypeAlias = Callable[[tuple[object, ...], dict[str, object]], Call]

_SEED = 42
"""A split without a seed draws from numpy's global state: the same on every process now, and after a resume."""
_FILE_FORMATS = {"json", "csv", "parquet", "text", "arrow", "generator", "imagefolder"}
_FLASH_PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}


def apply_patches() -> None:
    """Patch each package once it is imported; `dunwu.compat.install` calls this once."""
    patch_tracker_logins()
    if not _is_worker():
        random.seed(_SEED)
        on_import("numpy", lambda numpy: numpy.random.seed(_SEED))
    on_import("torch", _patch_torch)
    on_import("transformers", _patch_transformers)
    on_import("datasets", _patch_datasets)


def _is_worker() -> bool:
    """Whether `multiprocessing` is just starting this process: workers that all draw the same would be a surprise."""
    return getattr(multiprocessing.current_process(), "_inheriting", False)


def _patch_torch(torch: ModuleType) -> None:
    if not torch.cuda.is_available():
        for owner in (torch.nn.Module, torch.Tensor):
            _wrap(owner, "to", _to_available_device)
            _wrap(owner, "cuda", _cuda_to_available_device, original="to")


def _patch_transformers(transformers: ModuleType) -> None:
    from transformers.models.auto import modeling_auto

    from dunwu.trl.parser import TrlParser

    # transformers gives each Auto class a `from_pretrained` of its own.
    autos = [kind for kind in vars(modeling_auto).values() if isinstance(kind, type) and kind.__name__[:4] == "Auto"]
    for owner in (*(kind for kind in autos if "from_pretrained" in vars(kind)), transformers.PreTrainedModel):
        _wrap_class_method(owner, "from_pretrained", _model_call)
    for owner in (transformers.AutoTokenizer, transformers.AutoConfig):
        _wrap_class_method(owner, "from_pretrained", _located)
    # Its own refuses two dataclasses that share a name, as `project` and `trust_remote_code` now do.
    vars(transformers)["HfArgumentParser"] = TrlParser
    _wrap(transformers.PreTrainedTokenizerBase, "apply_chat_template", _list_of_ids)
    if not _has_cuda():
        _wrap(transformers.BatchEncoding, "to", _to_available_device)


def _patch_datasets(datasets: ModuleType) -> None:
    original = datasets.load_dataset

    @functools.wraps(original)
    def load_dataset(path: str, *args: object, **kwargs: object) -> object:
        kwargs.pop("trust_remote_code", None)  # datasets 4 has dropped it, with the scripts it was for
        is_local = path in _FILE_FORMATS or Path(path).exists()
        return original(path if is_local else locate(path, kind="dataset"), *args, **kwargs)

    vars(datasets)["load_dataset"] = load_dataset


def _wrap(owner: type, name: str, change: Change, *, original: str | None = None) -> None:
    """Have a method change its arguments first; or, with `original`, stand for that method."""
    method = getattr(owner, original or name)

    @functools.wraps(method)
    def wrapped(self: object, *args: object, **kwargs: object) -> object:
        args, kwargs = change(args, kwargs)
        return method(self, *args, **kwargs)

    setattr(owner, name, wrapped)


def _wrap_class_method(owner: type, name: str, change: Change) -> None:
    method = vars(owner)[name].__func__

    @functools.wraps(method)
    def wrapped(cls: type, /, *args: object, **kwargs: object) -> object:
        args, kwargs = change(args, kwargs)
        return method(cls, *args, **kwargs)

    setattr(owner, name, classmethod(wrapped))


def _model_call(args: tuple[object, ...], kwargs: dict[str, object]) -> Call:
    if "torch_dtype" in kwargs:
        kwargs.setdefault("dtype", kwargs.pop("torch_dtype"))
    wanted = str(kwargs.get("attn_implementation"))
    if wanted.startswith("flash_attention") and not _has_flash(wanted):
        get_logger().once(f"attn_implementation={wanted!r} is not installed: using sdpa, which computes the same")
        kwargs["attn_implementation"] = "sdpa"
    if "cuda" in str(kwargs.get("device_map")) and not _has_cuda():
        get_logger().once("device_map asks for cuda, and there is none: the model goes where training runs")
        kwargs["device_map"] = None
    return _located(args, kwargs)


def _has_flash(wanted: str) -> bool:
    package = _FLASH_PACKAGES.get(wanted)
    return _has_cuda() and package is not None and importlib.util.find_spec(package) is not None


def _located(args: tuple[object, ...], kwargs: dict[str, object]) -> Call:
    """A name becomes a folder if the source gives one; what cannot be found is one sentence, at once."""
    name = args[0] if args else kwargs.get("pretrained_model_name_or_path")
    if not isinstance(name, str) or Path(name).exists() or kwargs.get("subfolder"):
        return args, kwargs
    revision = kwargs.get("revision")
    place = locate(name, revision=None if revision is None else str(revision))
    if place == name:
        return args, kwargs
    kwargs.pop("revision", None)  # the folder is that revision
    return ((place, *args[1:]), kwargs) if args else (args, {**kwargs, "pretrained_model_name_or_path": place})


def _list_of_ids(args: tuple[object, ...], kwargs: dict[str, object]) -> Call:
    # transformers 5 answers with a dict of ids and mask where 4 answered with the ids.
    return args, {"return_dict": False, **kwargs}


def _to_available_device(args: tuple[object, ...], kwargs: dict[str, object]) -> Call:
    if args and _is_cuda(args[0]):
        args = (_available_device(args[0]), *args[1:])
    elif _is_cuda(kwargs.get("device")):
        kwargs = {**kwargs, "device": _available_device(kwargs["device"])}
    return args, kwargs


def _cuda_to_available_device(args: tuple[object, ...], kwargs: dict[str, object]) -> Call:
    return (_available_device("cuda"),), {}


def _is_cuda(device: object) -> bool:
    # A torch.device has its name in `type`; a dtype or another tensor may stand here too.
    return (isinstance(device, str) and device.startswith("cuda")) or getattr(device, "type", None) == "cuda"


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _available_device(device: object) -> str:
    import torch

    place = "mps" if torch.backends.mps.is_available() else "cpu"
    get_logger().once(f"there is no {str(device)!r}: using {place}")
    return place
