"""`GRPOConfig` with every argument of TRL 0.14 to 1.16.

`dunwu.GRPOConfig` plus a field for each argument it lacks (`arguments`). These are migrated before anything is
checked, and what the script leaves out takes the default of the TRL it was written for (`version_inference`).

The class is generated from that table, so editors do not complete its arguments: those of `dunwu.GRPOConfig` are in
`dunwu.config`, all others in docs/trl_arguments.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields, make_dataclass
from typing import Any, ClassVar, Final, Literal, get_type_hints

from dunwu import config
from dunwu._utils.known_arguments import known_fields
from dunwu._utils.logging import get_logger
from dunwu.errors import ConfigError, DunwuError
from dunwu.trl.arguments import LEGACY_ARGUMENTS, SWITCH, LegacyArgument
from dunwu.trl.migrations import ConfigMigration
from dunwu.trl.options import get_options
from dunwu.trl.version_inference import FIRST_VERSIONS, Evidence, InferredVersion, infer_trl_version
from dunwu.trl.versioned_defaults import CURRENT, OLDEST, VERSIONED, Release, defaults_of, release_of

__all__ = ["GRPOConfig"]

_MAY_BE_NONE = ("overlong_prompts", "num_generations", "num_completions_to_print", "shuffle_dataset")
"""Options that TRL allows to be None; None then means Dunwu's default."""
_BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps")
"""Options that had other defaults in 0.14; None: not given."""
_OBJECTIVE = ("beta", "loss_type", "temperature")
"""Options that every launch names, with where they came from."""


class _NotGiven:
    """Default of `max_prompt_length`, for which None is a value of its own."""

    def __repr__(self) -> str:
        return "the default of the script's TRL"


_NOT_GIVEN: Final = _NotGiven()


class _MigratedConfig(config.GRPOConfig):
    """Migrates its arguments, then is a `dunwu.GRPOConfig`."""

    # A tracker that is not installed costs a script its curves, not its run.
    _missing_tracker: ClassVar[Literal["raise", "drop"]] = "drop"

    def __post_init__(self) -> None:
        migration = ConfigMigration(self)
        _migrate_arguments(migration)
        _apply_versioned_defaults(migration)
        _fill_missing(migration)
        try:
            super().__post_init__()
        except DunwuError:
            raise
        except ValueError as error:  # transformers' own checks: a name that it does not know, a wrong combination
            raise ConfigError(str(error)) from error
        for sentence in migration.sentences():
            get_logger().info(sentence)

    def to_dict(self) -> dict[str, Any]:
        """Today's options only: what is saved and sent to trackers is what is in effect."""
        current = {f.name for f in fields(config.GRPOConfig)}
        found: dict[str, Any] = super().to_dict()  # type: ignore[no-untyped-call]
        return {name: value for name, value in found.items() if name in current or name not in LEGACY_ARGUMENTS}


def _migrate_arguments(migration: ConfigMigration) -> None:
    for name, row in LEGACY_ARGUMENTS.items():
        if not _asks_for_something(migration, row):
            continue
        value = migration.get(name)
        if row.refused:
            raise ConfigError(f"{name}={value!r} ({row.versions}) is not supported: {row.note}")
        if row.migrate is None:
            migration.ignore(name, row.note)
        else:
            row.migrate(migration, name, value)


def _asks_for_something(migration: ConfigMigration, row: LegacyArgument) -> bool:
    value = migration.get(row.name)
    return value is not None and value not in row.silent_values


def _apply_versioned_defaults(migration: ConfigMigration) -> None:
    """What the script leaves out takes the default of the TRL it was written for."""
    evidence = _evidence(migration)
    inferred = infer_trl_version(evidence)
    defaults = defaults_of(inferred.version, use_vllm=bool(migration.get("use_vllm")))
    given = [name for name in VERSIONED if _is_given(migration, name)]
    for name in VERSIONED:
        if name not in given:
            migration.set(name, defaults[name])
    if migration.get("top_k") is None:
        migration.set("top_k", 0)
    _apply_batch_defaults(migration, evidence, release_of(inferred.version))
    _describe_objective(migration, given, inferred)


def _is_given(migration: ConfigMigration, name: str) -> bool:
    value = migration.get(name)
    return value is not _NOT_GIVEN if name == "max_prompt_length" else value is not None


def _evidence(migration: ConfigMigration) -> Evidence:
    options = get_options()
    legacy = [row for row in LEGACY_ARGUMENTS.values() if _asks_for_something(migration, row)]
    last = {row.name: row.last_version for row in legacy if row.last_version is not None}
    if migration.get("max_prompt_length") not in (None, _NOT_GIVEN):
        last["max_prompt_length"] = "0.27"
    first = {name: since for name, since in FIRST_VERSIONS.items() if _differs(migration, name)}
    for row in legacy:
        if known := re.match(r"TRL (\d+\.\d+)–", row.versions):
            first[row.name] = known[1]
    return Evidence(
        asked=options.trl_version,
        pinned=options.pinned_version,
        last=last,
        first=first,
        partial_batch=_partial_batch(migration),
    )


def _differs(migration: ConfigMigration, name: str) -> bool:
    """Whether the script gives an option, as far as its value shows."""
    default = config.GRPOConfig.__dataclass_fields__[name].default
    value = migration.get(name)
    return value is not None and (name in VERSIONED or value != default)


def _partial_batch(migration: ConfigMigration) -> str | None:
    """A description of the batch where, counted as completions, it holds no whole group."""
    options = migration.config
    if options.prompts_per_step is not None or options.batch_unit != "auto" or get_options().batch_unit != "auto":
        return None
    batch, accumulation = (
        value if isinstance(value := migration.get(name), int) else default
        for name, default in zip(_BATCH, _batch_defaults(), strict=True)
    )
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    group = options.num_generations or config.GRPOConfig.num_generations
    if batch * accumulation * processes % group == 0:
        return None
    shape = f"{batch} × {accumulation}" + (f" × {processes} processes" if processes > 1 else "")
    return f"a batch of {shape} completions holds no whole group of {group}"


def _batch_defaults() -> list[int]:
    return [int(str(config.GRPOConfig.__dataclass_fields__[name].default)) for name in _BATCH]


def _apply_batch_defaults(migration: ConfigMigration, evidence: Evidence, release: Release) -> None:
    """0.14 had a batch of 1 and 8 accumulations by default, and counted prompts; all others count completions."""
    is_first = release == release_of(OLDEST)
    for name, default, first in zip(_BATCH, _batch_defaults(), (1, 8), strict=True):
        if migration.get(name) is None:
            migration.set(name, first if is_first else default)
    if migration.config.batch_unit == "auto":
        migration.set("batch_unit", get_options().batch_unit)
    if migration.config.batch_unit == "auto" and is_first:
        migration.set("batch_unit", "prompts")
    elif migration.config.batch_unit == "auto" and evidence.needs_completions:
        migration.set("batch_unit", "completions")


def _describe_objective(migration: ConfigMigration, given: list[str], inferred: InferredVersion) -> None:
    """Name what decides about learning, where it comes from, and the command for another version's defaults."""

    def values(names: list[str], found: Mapping[str, object]) -> str:
        return ", ".join(f"{name}={found[name]!r}" for name in names)

    effective: dict[str, object] = {name: migration.get(name) for name in VERSIONED}
    today = defaults_of(CURRENT)
    named = [
        name for name in VERSIONED if name in _OBJECTIVE or (name not in given and effective[name] != today[name])
    ]
    ours, theirs = [name for name in named if name in given], [name for name in named if name not in given]
    parts = []
    if ours:
        parts.append(f"given by the script: {values(ours, effective)}")
    if theirs:
        other = CURRENT if release_of(inferred.version) != release_of(CURRENT) else OLDEST
        parts.append(
            f"default of TRL {inferred.version} ({inferred.reason}): {values(theirs, effective)}; "
            f"for another version's: dunwu run --trl {other} ({values(theirs, defaults_of(other))})"
        )
    if not effective["beta"]:
        parts.append("beta=0 means no reference model and no `kl` metric")
    migration.note("; ".join(parts))


def _fill_missing(migration: ConfigMigration) -> None:
    for f in fields(config.GRPOConfig):
        if f.name in _MAY_BE_NONE and migration.get(f.name) is None:
            # TRL cut a prompt that was too long; dropping it is Dunwu's own default.
            migration.set(f.name, "cut" if f.name == "overlong_prompts" else f.default)
    options = migration.config
    if options.scale_rewards in ("True", "true", "False", "false"):
        options.scale_rewards = str(options.scale_rewards).lower() == "true"
    if options.top_k == -1:
        options.top_k = 0  # how vLLM writes "all"
    if options.loss_type == "luspo" and options.importance_sampling_level is None:
        migration.note(
            "loss_type='luspo' takes importance_sampling_level='sequence', as its paper does; TRL would take "
            "'token', and warn"
        )


def _legacy_field(name: str, kind: object) -> tuple[str, object, Field[object]]:
    row = LEGACY_ARGUMENTS.get(name)
    text = f"{row.versions}: {row.note}" if row else "None: the default of the script's TRL."
    is_flag = kind == SWITCH and row is not None and False in row.silent_values  # `--use_vllm` alone must work
    default: Any = _NOT_GIVEN if name == "max_prompt_length" else False if is_flag else None
    return name, "bool" if is_flag else kind, field(default=default, metadata={"help": text.replace("%", "%%")})


def _legacy_fields() -> list[tuple[str, object, Field[object]]]:
    today = {f.name: f for f in fields(config.GRPOConfig)}
    assert all(today[name].default is not MISSING for name in _MAY_BE_NONE)
    added = [_legacy_field(name, row.kind) for name, row in LEGACY_ARGUMENTS.items() if name not in today]
    hints = get_type_hints(config.GRPOConfig)
    kinds = {name: hints[name] | None for name in (*VERSIONED, *_MAY_BE_NONE, *_BATCH)}
    kinds["scale_rewards"] = str | None  # the command line has one type an option
    return added + [_legacy_field(name, kind) for name, kind in kinds.items()]


GRPOConfig: type[config.GRPOConfig] = known_fields({})(
    make_dataclass(
        "GRPOConfig",
        _legacy_fields(),
        bases=(_MigratedConfig,),
        namespace={
            "__module__": __name__,
            "__doc__": "Options of a GRPO run, by today's names or those of TRL 0.14 on.",
        },
    )
)
