"""Functions that turn an argument of earlier TRL versions into today's options, one for each way it changed.

Which argument takes which is in `arguments`.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable
from typing import TypeAlias

import torch

from dunwu.config import GRPOConfig
from dunwu.errors import ConfigError

__all__ = [
    "ConfigMigration",
    "Migration",
    "adafactor",
    "ddp_backend",
    "deepspeed",
    "evaluation",
    "hub_key",
    "logging_folder",
    "loss_option",
    "model_option",
    "renamed",
    "switched_off",
    "vllm",
    "warmup_ratio",
]


class ConfigMigration:
    """A config whose arguments of earlier versions are being replaced, and what to log about it.

    Args:
        config: the object whose attributes are the options.
    """

    def __init__(self, config: GRPOConfig) -> None:
        self.config = config
        self._notes: list[str] = []
        self._ignored: dict[str, list[str]] = {}

    def get(self, name: str) -> object:
        """The value of an option, None where the config does not have it."""
        return getattr(self.config, name, None)

    def set(self, name: str, value: object) -> None:
        """Set an option."""
        setattr(self.config, name, value)

    def note(self, sentence: str) -> None:
        """Log something that the user should know."""
        self._notes.append(sentence)

    def ignore(self, name: str, why: str) -> None:
        """Log that an argument has no effect; arguments with the same reason are named together."""
        self._ignored.setdefault(why, []).append(name)

    def sentences(self) -> list[str]:
        """All there is to log."""
        return [*self._notes, *(f"ignored: {', '.join(names)} ({why})" for why, names in self._ignored.items())]


Migration: TypeAlias = Callable[[ConfigMigration, str, object], None]
"""Called with the config, the argument's name and its value."""


def renamed(new: str) -> Migration:
    """The same under another name."""

    def migrate(migration: ConfigMigration, name: str, value: object) -> None:
        migration.set(new, value)
        migration.note(f"{name}={value!r} is now {new}={value!r}")

    return migrate


def warmup_ratio(migration: ConfigMigration, name: str, value: object) -> None:
    """Became `warmup_steps` with a value below 1; an explicit `warmup_steps` won then and wins now.

    Raises:
        ConfigError: for a share outside 0 to 1.
    """
    steps = migration.config.warmup_steps
    if not (isinstance(value, int | float) and 0 <= value <= 1):
        raise ConfigError(f"warmup_ratio={value!r} does not work: it must be a share of all steps, from 0 to 1")
    if steps:
        migration.ignore(name, f"warmup_steps={steps!r} is given and wins, as it always did")
        return
    # `warmup_steps=1` is one step, so all steps are the largest share below 1.
    share = math.nextafter(1.0, 0.0) if value == 1 else value
    migration.set("warmup_steps", share)
    migration.note(f"{name}={value!r} is now warmup_steps={share!r}")


def switched_off(switch: str) -> Migration:
    """A switch that stays off."""

    def migrate(migration: ConfigMigration, name: str, value: object) -> None:
        from dunwu.trl.arguments import LEGACY_ARGUMENTS

        migration.set(switch, False)
        migration.ignore(name, LEGACY_ARGUMENTS[name].note)

    return migrate


def model_option(option: str) -> Migration:
    """Passed to `from_pretrained`, unless `model_init_kwargs` has it."""

    def migrate(migration: ConfigMigration, name: str, value: object) -> None:
        given = migration.config.model_init_kwargs
        if isinstance(given, str):
            migration.ignore(name, "model_init_kwargs is given as text and wins")
        elif option not in (given or {}):
            migration.set("model_init_kwargs", {**(given or {}), option: value})

    return migrate


def loss_option(loss_type: str, option: str) -> Migration:
    """An option of one policy loss: in `loss_options`, unless those have it; with another loss it does nothing."""

    def migrate(migration: ConfigMigration, name: str, value: object) -> None:
        given = migration.config.loss_options
        if migration.get("loss_type") != loss_type:
            migration.ignore(name, f"only loss_type={loss_type!r} reads it")
        elif isinstance(given, str):
            migration.ignore(name, "loss_options is given as text and wins")
        else:
            migration.set("loss_options", {option: value, **(given or {})})
            migration.note(f"{name}={value!r} is now loss_options[{option!r}]")

    return migrate


def vllm(migration: ConfigMigration, name: str, value: object) -> None:
    """The engine of this process takes vLLM's place."""
    migration.note(
        "use_vllm=True: completions come from Dunwu's own engine, in this process; no server and no second device "
        "are needed"
    )


def evaluation(migration: ConfigMigration, name: str, value: object) -> None:
    """`evaluation_strategy`; YAML reads a bare `no` as false."""
    migration.set("eval_strategy", "no" if value in (False, "False", "false") else value)
    migration.note(f"{name}={value!r} is now eval_strategy")


def logging_folder(migration: ConfigMigration, name: str, value: object) -> None:
    """TensorBoard's callback reads its folder from the environment since transformers 5."""
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(value))
    migration.note(f"{name}={value!r} is now TensorBoard's folder (TENSORBOARD_LOGGING_DIR)")


def adafactor(migration: ConfigMigration, name: str, value: object) -> None:
    """The optimizer by its name."""
    migration.set("optim", "adafactor")
    migration.note(f"{name}={value!r} is now optim='adafactor'")


def hub_key(migration: ConfigMigration, name: str, value: object) -> None:
    """A key goes where the hub's clients look for it, and out of the options that are saved."""
    os.environ.setdefault("HF_TOKEN", str(value))
    migration.set(name, None)
    migration.note(
        f"{name} contains a key: it was moved to HF_TOKEN for this process and is not saved with the options. Remove "
        "it from the script: use `hf auth login`, or set HF_TOKEN outside"
    )


def deepspeed(migration: ConfigMigration, name: str, value: object) -> None:
    """Kept if its package is installed."""
    if importlib.util.find_spec("deepspeed") is None:
        migration.set(name, None)
        migration.note("deepspeed is not installed: training continues without it, each process with all weights")


def ddp_backend(migration: ConfigMigration, name: str, value: object) -> None:
    """NCCL connects GPUs only; a single process needs no backend, and accelerate would try to load it."""
    if torch.cuda.is_available():
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        migration.set(name, None)
    elif value == "nccl":
        migration.set(name, "gloo")
        migration.note("ddp_backend='nccl' needs GPUs, and there are none: gloo is used instead")
