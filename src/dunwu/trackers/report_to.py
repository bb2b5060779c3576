"""Validate `report_to`, and decide for each tracker whether it goes online or stays offline.

This happens before transformers reads the option and makes its callbacks.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Literal

from dunwu._utils.commands import install_command
from dunwu._utils.logging import get_logger
from dunwu._utils.reachability import reachable
from dunwu._utils.secrets import redact
from dunwu._utils.suggest import did_you_mean
from dunwu.errors import ConfigError
from dunwu.trackers.offline import SERVICES

__all__ = ["resolve_report_to"]

_PACKAGES = {
    "azure_ml": ("azureml",),
    "dagshub": ("dagshub", "mlflow"),
    "flyte": ("flytekit",),
    "kubeflow": (),
}
"""Where the package is not called as the tracker is."""
_EXTRA = ("wandb", "swanlab", "tensorboard", "trackio", "mlflow")


def resolve_report_to(
    report_to: str | Iterable[str] | None, *, missing: Literal["raise", "drop"] = "raise"
) -> list[str]:
    """The trackers of `report_to`, each ready to record.

    A tracker with a server (wandb, SwanLab) that has no key, or whose server does not answer within seconds, is put
    offline, with a sentence that names the command that uploads later. A mode that the user has set (`WANDB_MODE`,
    `SWANLAB_MODE`) is left alone.

    Args:
        report_to: as transformers takes it: a name, several, `"all"` (those installed) or `"none"`.
        missing: a tracker that is not installed: `raise`, or `drop` it with a sentence.

    Raises:
        ConfigError: for a name that no tracker has, and (with `raise`) a tracker that is not installed.
    """
    found = [name for name in _names(report_to) if _is_wanted(name, missing)]
    for name in found:
        if name in SERVICES:
            SERVICES[name].choose_mode()
    if "mlflow" in found:
        _choose_mlflow_store()
    return found


def _is_wanted(name: str, missing: Literal["raise", "drop"]) -> bool:
    if name == "wandb" and os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on"):
        get_logger().once("wandb: WANDB_DISABLED is set; the run goes on without it")
        return False
    if _is_installed(name):
        return True
    absent = f"report_to={name!r}, and {name} is not installed"
    if missing == "raise":
        raise ConfigError(f"{absent}: {_install_hint(name)}; or report_to='none'")
    get_logger().warning_once(f"{absent}: the run goes on without it ({_install_hint(name)})")
    return False


def _names(report_to: str | Iterable[str] | None) -> list[str]:
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    given = [report_to] if isinstance(report_to, str) else list(report_to or [])
    names: list[str] = []
    for name in given:
        if name == "all":
            names += get_available_reporting_integrations()  # type: ignore[no-untyped-call]
        elif name not in ("none", "None", None, False):
            if name not in INTEGRATION_TO_CALLBACK:
                known = [*INTEGRATION_TO_CALLBACK, "all", "none"]
                raise ConfigError(f"report_to={name!r} is not a tracker{did_you_mean(str(name), known)}")
            names.append(name)
    return list(dict.fromkeys(names))


def _is_installed(name: str) -> bool:
    if name == "tensorboard":
        return _has_package("tensorboard") or _has_package("tensorboardX")
    return all(_has_package(package) for package in _PACKAGES.get(name, (name,)))


def _has_package(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a module that a test or a script has put in the way
        return False


def _install_hint(name: str) -> str:
    return install_command("trackers") if name in _EXTRA else install_command(package=name)


def _choose_mlflow_store() -> None:
    """MLflow retries an absent server for minutes, and without database packages its own default store fails."""
    uri = _mlflow_uri()
    if uri is None:
        if _local_mlflow_store().startswith("file:"):
            _use_local_mlflow_store()
        get_logger().once(
            "mlflow: no MLFLOW_TRACKING_URI is set; this run is recorded on this machine. View it with: mlflow ui"
        )
    elif uri.startswith(("http://", "https://")) and not reachable(uri):
        _use_local_mlflow_store()
        look = f"mlflow ui --backend-store-uri {_local_mlflow_store()}"
        get_logger().warning_once(
            f"mlflow: the server {redact(uri)} does not answer; this run is recorded on this machine. View it with: "
            f"{look}"
        )


def _use_local_mlflow_store() -> None:
    os.environ["MLFLOW_TRACKING_URI"] = store = _local_mlflow_store()
    if store.startswith("file:"):
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(store)


def _mlflow_uri() -> str | None:
    mlflow: ModuleType | None = sys.modules.get("mlflow")
    if mlflow is not None and mlflow.is_tracking_uri_set():
        return str(mlflow.get_tracking_uri())
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def _local_mlflow_store() -> str:
    """MLflow's own default where its database parts are installed, plain files otherwise."""
    here = Path.cwd()
    if _has_package("sqlalchemy") and _has_package("alembic"):
        return f"sqlite:///{here / 'mlflow.db'}"
    return (here / "mlruns").as_uri()
