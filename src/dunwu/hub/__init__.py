"""Where models and data come from: a folder, the Hugging Face hub or a mirror of it, or ModelScope.

The one place that decides on a source, notices at once that a hub cannot be reached, explains what went wrong with
it, and downloads whole repositories that are checked against the hub's hashes. The requests are those of
huggingface_hub, datasets and modelscope, with their caches, logins and progress bars.
"""

from __future__ import annotations

from dunwu.hub.download import FetchReport, fetch
from dunwu.hub.errors import explain_error
from dunwu.hub.lookup import locate
from dunwu.hub.offline import offline_if_unreachable
from dunwu.hub.sources import SOURCES, resolve_source
from dunwu.hub.upload import check_push_to_hub

__all__ = [
    "SOURCES",
    "FetchReport",
    "check_push_to_hub",
    "explain_error",
    "fetch",
    "locate",
    "offline_if_unreachable",
    "resolve_source",
]
