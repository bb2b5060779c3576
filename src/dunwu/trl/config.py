"""`GRPOConfig` as scripts of TRL 0.14 to 1.16 call it: every argument of then, and today's.

What it is: `dunwu.GRPOConfig` with a field for each old argument (`arguments`), settled before the rest is checked,
and with the defaults of the script's time (`eras`).
What it is not: options of its own.
"""

from __future__ import annotations

import os
from dataclasses import MISSING, field, fields, make_dataclass
from typing import Any

from dunwu import config
from dunwu._utils.logging import get_logger
from dunwu.trackers import resolve_report_to
from dunwu.trl.arguments import OLD, SWITCH, Old, Settings
from dunwu.trl.versioned_defaults import DATED, TODAY, defaults_of, era_of

__all__ = ["GRPOConfig"]

_NOT_GIVEN = ("overlong_prompts", "num_generations", "num_completions_to_print", "shuffle_dataset")
"""Options that TRL allows to be None; None then means what is left out means here."""
_BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps")
"""Options that 0.14 had other defaults for; None: not given."""


class _Settled(config.GRPOConfig):
    """Translates, then is a `dunwu.GRPOConfig`."""

    def __post_init__(self) -> None:
        settings = Settings(self)
        _translate(settings)
        _date(settings)
        _fill(self)
        super().__post_init__()
        if self.process_index == 0:
            for sentence in settings.sentences():
                get_logger().info(sentence)

    def to_dict(self) -> dict[str, Any]:
        """Today's options alone: what is saved and sent to trackers says what was done."""
        kept = {f.name for f in fields(config.GRPOConfig)}
        found: dict[str, Any] = super().to_dict()  # type: ignore[no-untyped-call]
        return {name: value for name, value in found.items() if name in kept or name not in OLD}


def _translate(settings: Settings) -> None:
    for name, row in OLD.items():
        if not _asks(settings.config, row):
            continue
        value = getattr(settings.config, name)
        if row.refused:
            raise ValueError(f"{name}={value!r} ({row.when}) does not work here: {row.now}")
        if row.act is None:
            settings.aside(name, row.now)
        else:
            row.act(settings, name, value)


def _asks(made: Any, row: Old) -> bool:
    value = getattr(made, row.name, None)
    return value is not None and value not in row.quiet


def _date(settings: Settings) -> None:
    """What the script leaves out takes the default of the script's time."""
    made = settings.config
    given = {name: row.until for name, row in OLD.items() if row.until and _asks(made, row)}
    if made.max_prompt_length is not None:
        given["max_prompt_length"] = "0.27"
    version, because = era_of(given)
    today, then = defaults_of(TODAY), defaults_of(version)
    if made.use_vllm and version == "0.15":
        then["top_k"] = 0  # vLLM was never told of transformers' own
    taken = {}
    for name in DATED:
        if getattr(made, name) is None:
            settings.put(name, then[name])
            if then[name] != today[name]:
                taken[name] = then[name]
    _batch_of_then(settings, asked=because == "--trl" and version == "0.14")
    if taken:
        settings.say(
            f"what is not given takes the default of TRL {version} ({_reason(because, version)}): "
            f"{', '.join(f'{name}={value!r}' for name, value in taken.items())}; today's: dunwu run --trl {TODAY}"
        )


def _batch_of_then(settings: Settings, *, asked: bool) -> None:
    """0.14 had a batch of 1 and 8 accumulations where none were given, and counted prompts."""
    made = settings.config
    if asked and made.batch_unit == "auto":
        settings.put("batch_unit", "prompts")
    for name, then in zip(_BATCH, (1, 8), strict=True):
        if getattr(made, name) is None:
            today = config.GRPOConfig.__dataclass_fields__[name].default
            settings.put(name, then if asked else today)


def _reason(because: str | None, version: str) -> str:
    return "asked for by --trl" if because == "--trl" else f"the last that used {because}"


def _fill(made: Any) -> None:
    for f in fields(config.GRPOConfig):
        if f.name in _NOT_GIVEN and getattr(made, f.name) is None:
            # TRL cut a prompt that was too long; dropping it is Dunwu's own default.
            setattr(made, f.name, "cut" if f.name == "overlong_prompts" else f.default)
    # A tracker that is not installed costs an old script its curves, not its run.
    made.report_to = resolve_report_to(made.report_to, missing="drop")
    if made.scale_rewards in ("True", "true", "False", "false"):
        made.scale_rewards = made.scale_rewards.lower() == "true"
    if made.top_k == -1:
        made.top_k = 0  # how vLLM writes "all"
    if made.batch_unit == "auto":
        made.batch_unit = os.environ.get("DUNWU_BATCH_UNIT", "auto")


def _field_of(name: str, kind: Any) -> tuple[str, Any, Any]:
    row = OLD.get(name)
    text = f"{row.when}: {row.now}" if row else "None: the default of the script's time."
    flag = kind == SWITCH and row is not None and False in row.quiet  # `--use_vllm` alone must do
    default = False if flag else None
    return name, bool if flag else kind, field(default=default, metadata={"help": text.replace("%", "%%")})


def _old_fields() -> list[tuple[str, Any, Any]]:
    today = {f.name: f for f in fields(config.GRPOConfig)}
    assert all(today[name].default is not MISSING for name in _NOT_GIVEN)
    added = [_field_of(name, row.kind) for name, row in OLD.items() if name not in today]
    kinds = {name: str(today[name].type).removesuffix(" | None") + " | None" for name in (*DATED, *_NOT_GIVEN)}
    kinds["scale_rewards"] = "str | None"  # the command line has one type an option
    kinds |= dict.fromkeys(_BATCH, "int | None")
    return added + [_field_of(name, kind) for name, kind in kinds.items()]


GRPOConfig = make_dataclass(
    "GRPOConfig",
    _old_fields(),
    bases=(_Settled,),
    namespace={"__module__": __name__, "__doc__": "Options of a GRPO run, by today's names or those of TRL 0.14 on."},
)
