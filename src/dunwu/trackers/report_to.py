"""`report_to`, settled: which trackers a run has, each named right, installed, and online or offline.

What it is: what happens to `report_to` before transformers reads it.
What it is not: a callback, or a login.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from dunwu._utils.reachability import reachable
from dunwu._utils.secrets import redact, reject_secrets
from dunwu._utils.suggest import did_you_mean
from dunwu.trackers.offline import SERVICES, say

__all__ = ["settle", "settled"]

Args = TypeVar("Args")

_PACKAGES = {
    "azure_ml": ("azureml",),
    "dagshub": ("dagshub", "mlflow"),
    "flyte": ("flytekit",),
    "kubeflow": (),
}
"""Where the package is not called as the tracker is."""
_EXTRA = ("wandb", "swanlab", "tensorboard", "trackio", "mlflow")


def settled(args: Args) -> Args:
    """The same options with `report_to` settled.

    Raises:
        ValueError: for an unknown or missing tracker, and for a key among the options: `training_args.bin`, which is
            saved with every checkpoint, would hold it.
    """
    options: Any = args
    given = {name: getattr(options, name, None) for name in ("hub_token", "model_init_kwargs")}
    reject_secrets(given, "the options (training_args.bin, saved with every checkpoint, would hold it)")
    options.report_to = settle(options.report_to)
    return args


def settle(report_to: str | Iterable[str] | None, *, missing: Literal["raise", "drop"] = "raise") -> list[str]:
    """The trackers of `report_to`, each ready to record.

    A tracker with a server (wandb, SwanLab) that has no key, or whose server takes no connection within 2 seconds, is
    put offline, with a sentence that names the command that uploads later. A mode that the user has set
    (`WANDB_MODE`, `SWANLAB_MODE`) is left alone.

    Args:
        report_to: as transformers takes it: a name, several, `"all"` (those installed) or `"none"`.
        missing: a tracker that is not installed: `raise`, or `drop` it with a sentence.

    Raises:
        ValueError: for a name that no tracker has, and (with `raise`) a tracker that is not installed.
    """
    found = []
    for name in _names(report_to):
        if name == "wandb" and os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on"):
            say("wandb: WANDB_DISABLED is set; the run goes on without it", warning=False)
        elif _installed(name):
            found.append(name)
        elif missing == "raise":
            raise ValueError(f"report_to={name!r}, and {name} is not installed: {_cure(name)}; or report_to='none'")
        else:
            say(f"report_to={name!r}, and {name} is not installed: the run goes on without it ({_cure(name)})")
    for name in found:
        if name in SERVICES:
            SERVICES[name].settle()
    if "mlflow" in found:
        _settle_mlflow()
    return found


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
                raise ValueError(f"report_to={name!r} names no tracker{did_you_mean(str(name), known)}")
            names.append(name)
    return list(dict.fromkeys(names))


def _installed(name: str) -> bool:
    if name == "tensorboard":
        return _there("tensorboard") or _there("tensorboardX")
    return all(_there(package) for package in _PACKAGES.get(name, (name,)))


def _there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a module that a test or a script has put in the way
        return False


def _cure(name: str) -> str:
    return "pip install 'dunwu[trackers]'" if name in _EXTRA else f"pip install {name}"


def _settle_mlflow() -> None:
    """MLflow retries an absent server for minutes, and without database packages its own default store fails."""
    uri = _mlflow_uri()
    if uri is None:
        if _local_store().startswith("file:"):
            _keep_mlflow_here()
        say("mlflow: no MLFLOW_TRACKING_URI is set; this run is kept here. Look at it with: mlflow ui", warning=False)
    elif uri.startswith(("http://", "https://")) and not reachable(uri):
        _keep_mlflow_here()
        look = f"mlflow ui --backend-store-uri {_local_store()}"
        say(f"mlflow: the server {redact(uri)} does not answer; this run is kept here. Look at it with: {look}")


def _keep_mlflow_here() -> None:
    os.environ["MLFLOW_TRACKING_URI"] = store = _local_store()
    if store.startswith("file:"):
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(store)


def _mlflow_uri() -> str | None:
    mlflow: Any = sys.modules.get("mlflow")
    if mlflow is not None and mlflow.is_tracking_uri_set():
        return str(mlflow.get_tracking_uri())
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def _local_store() -> str:
    """MLflow's own default where its database parts are installed, plain files otherwise."""
    here = Path.cwd()
    if _there("sqlalchemy") and _there("alembic"):
        return f"sqlite:///{here / 'mlflow.db'}"
    return (here / "mlruns").as_uri()
