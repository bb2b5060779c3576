"""Trackers: where a run's figures go (`report_to`), without keys in files, without prompts, and never at its cost.

The callbacks that send figures are transformers' own and the trackers' own. Here are the choice of trackers, the
guards around their callbacks, tables of completions, and logins that never ask or hang.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from dunwu._utils.secrets import redact, reject_secrets, warn_of_secrets_in
from dunwu.trackers.guard import guard_callbacks
from dunwu.trackers.offline import patch_tracker_logins
from dunwu.trackers.report_to import resolve_report_to

if TYPE_CHECKING:
    from dunwu.trackers.completion_tables import CompletionTables

__all__ = [
    "CompletionTables",
    "guard_callbacks",
    "patch_tracker_logins",
    "redact",
    "reject_secrets",
    "resolve_report_to",
    "warn_of_secrets_in",
]


def __getattr__(name: str) -> object:
    """Tables of completions need torch, which a recipe with a key in it is refused without."""
    if name != "CompletionTables":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module("dunwu.trackers.completion_tables"), name)
    return found
