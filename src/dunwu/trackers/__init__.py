"""Trackers: where a run's figures go (`report_to`), without keys in files, without prompts, and never at its cost.

What it is: `settle` (which trackers, and whether each can reach its server), `guarded` (a tracker that fails is
switched off, the run goes on), `log_completions` (what the model said, as a table), `refuse_keys` and
`warn_of_keys_in` (keys belong in the environment), `settle_environment` (the same for a script that was not written
for Dunwu).
What it is not: a tracker; the callbacks that send figures are transformers' own and the trackers' own.
"""

from dunwu._utils.secrets import masked, refuse_keys, warn_of_keys_in
from dunwu.trackers.completion_tables import log_completions
from dunwu.trackers.guard import guarded
from dunwu.trackers.logins import settle_environment
from dunwu.trackers.report_to import settle, settled

__all__ = [
    "guarded",
    "log_completions",
    "masked",
    "refuse_keys",
    "settle",
    "settle_environment",
    "settled",
    "warn_of_keys_in",
]
