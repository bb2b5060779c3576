"""Trackers: where a run's figures go (`report_to`), without keys in files, without prompts, and never at its cost.

What it is: `settle` (which trackers, and whether each can reach its server), `guarded` (a tracker that fails is
switched off, the run goes on), `log_completions` (what the model said, as a table), `reject_secrets` and
`warn_of_secrets_in` (keys belong in the environment), `patch_tracker_logins` (the same for a script that was not
written for Dunwu).
What it is not: a tracker; the callbacks that send figures are transformers' own and the trackers' own.
"""

from dunwu._utils.secrets import redact, reject_secrets, warn_of_secrets_in
from dunwu.trackers.completion_tables import log_completions
from dunwu.trackers.guard import guarded
from dunwu.trackers.logins import patch_tracker_logins
from dunwu.trackers.report_to import settle, settled

__all__ = [
    "guarded",
    "log_completions",
    "patch_tracker_logins",
    "redact",
    "reject_secrets",
    "settle",
    "settled",
    "warn_of_secrets_in",
]


from typing import Any  # TEMPORARY
from dunwu.core.protocols import Observer

guard_callbacks = guarded


class CompletionTables(Observer):
    def __init__(self, callbacks: Any, *, every: int = 1) -> None: ...
