"""What is done with an argument of then: set another option, set it aside, put a key where keys belong.

What it is: small functions `(settings, name, value)`, one for each way in which an argument became something else.
What it is not: the table of arguments (`arguments`).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch

__all__ = [
    "Settings",
    "adafactor",
    "backend",
    "deepspeed",
    "evaluation",
    "hub_key",
    "inverse",
    "logging_folder",
    "model_option",
    "renamed",
    "use_vllm",
]


class Settings:
    """A config in the making, and what there is to say of it.

    Args:
        config: the object whose attributes are the options.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.said: list[str] = []
        self._aside: dict[str, list[str]] = {}

    def put(self, name: str, value: Any) -> None:
        """Set an option."""
        setattr(self.config, name, value)

    def say(self, sentence: str) -> None:
        """Something that the user should know."""
        self.said.append(sentence)

    def aside(self, name: str, why: str) -> None:
        """An argument that is accepted and does nothing; those with the same reason are named together."""
        self._aside.setdefault(why, []).append(name)

    def sentences(self) -> list[str]:
        """All there is to say."""
        return [*self.said, *(f"set aside: {', '.join(names)} ({why})" for why, names in self._aside.items())]


def renamed(new: str) -> Callable[[Settings, str, Any], None]:
    """The same under another name."""

    def act(settings: Settings, name: str, value: Any) -> None:
        settings.put(new, value)
        settings.say(f"{name}={value!r} is now {new}={value!r}")

    return act


def inverse(name_of_switch: str) -> Callable[[Settings, str, Any], None]:
    """A switch that stays off here."""

    def act(settings: Settings, name: str, value: Any) -> None:
        from dunwu.trl.arguments import OLD

        settings.put(name_of_switch, False)
        settings.aside(name, OLD[name].now)

    return act


def model_option(option: str) -> Callable[[Settings, str, Any], None]:
    """Goes to `from_pretrained`, unless `model_init_kwargs` says otherwise."""

    def act(settings: Settings, name: str, value: Any) -> None:
        given = settings.config.model_init_kwargs
        if isinstance(given, str):
            settings.aside(name, "model_init_kwargs is given as text, and decides")
            return
        if option not in (given or {}):
            settings.put("model_init_kwargs", {**(given or {}), option: value})

    return act


def use_vllm(settings: Settings, name: str, value: Any) -> None:
    """The engine of this process takes vLLM's place."""
    settings.say(
        "use_vllm=True: rollouts come from Dunwu's own engine, in this process and on the trainer's weights; no "
        "server and no second device are needed"
    )


def evaluation(settings: Settings, name: str, value: Any) -> None:
    """`evaluation_strategy`; YAML reads a bare `no` as false."""
    settings.put("eval_strategy", "no" if value in (False, "False", "false") else value)
    settings.say(f"{name}={value!r} is now eval_strategy")


def logging_folder(settings: Settings, name: str, value: Any) -> None:
    """TensorBoard's callback reads its folder from the environment since transformers 5."""
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(value))
    settings.say(f"{name}={value!r} is where TensorBoard writes (TENSORBOARD_LOGGING_DIR)")


def adafactor(settings: Settings, name: str, value: Any) -> None:
    """The optimizer by its name."""
    settings.put("optim", "adafactor")
    settings.say(f"{name}={value!r} is now optim='adafactor'")


def hub_key(settings: Settings, name: str, value: Any) -> None:
    """A key is kept where the clients look for it, and nowhere that is saved."""
    os.environ.setdefault("HF_TOKEN", str(value))
    settings.put(name, None)
    settings.say(
        f"{name} holds a key: it was put into HF_TOKEN for this process and kept out of everything that is saved. "
        "Take it out of the script: `hf auth login`, or HF_TOKEN set outside"
    )


def deepspeed(settings: Settings, name: str, value: Any) -> None:
    """Accepted; needs its package."""
    if importlib.util.find_spec("deepspeed") is None:
        settings.put(name, None)
        settings.say("deepspeed is not installed: training goes on without it, with whole weights on each process")


def backend(settings: Settings, name: str, value: Any) -> None:
    """NCCL speaks between GPUs only, and one process has nobody to speak to (accelerate would look for it)."""
    if torch.cuda.is_available():
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        settings.put(name, None)
    elif value == "nccl":
        settings.put(name, "gloo")
        settings.say("ddp_backend='nccl' needs GPUs, and there is none: gloo")
