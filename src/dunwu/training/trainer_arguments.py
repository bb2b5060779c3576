"""Arguments of TRL's trainer that `GRPOTrainer` does not have, and what to give in their place."""

from __future__ import annotations

from typing import Final

from dunwu._utils.known_arguments import known_arguments

__all__ = ["TRL_ARGUMENTS", "trainer_arguments"]

_ENVIRONMENT: Final = "GRPOTrainer(environment=…), an object that fits dunwu.core.protocols.Environment"

TRL_ARGUMENTS: Final = {
    "tokenizer": "give it as processing_class",
    "tools": f"run them in the `reply` of {_ENVIRONMENT}",
    "environment_factory": f"give one environment instead: {_ENVIRONMENT}",
    "rollout_func": f"for several turns: {_ENVIRONMENT}; for completions made elsewhere: GRPOTrainer(engine=…)",
    "quantization_config": "load the model quantised and give it as `model`, with a peft_config",
}
"""Name to what to do instead."""

trainer_arguments = known_arguments("GRPOTrainer", TRL_ARGUMENTS)
"""Decorates a trainer's constructor: an argument that it does not have is a `ConfigError`."""
