"""Where models and data come from: a folder, the Hugging Face hub or a mirror of it, or ModelScope.

What it is: the one place that decides on a source, notices at once that a hub cannot be reached, says what went wrong
with it in words, and downloads whole repositories that are checked against the hub's hashes.
What it is not: a client. The requests are those of huggingface_hub, datasets and modelscope, with their caches, their
logins and their progress bars.
"""

from __future__ import annotations

from dunwu.hub.download import FetchReport, fetch
from dunwu.hub.errors import in_words
from dunwu.hub.lookup import locate
from dunwu.hub.offline import offline_if_unreachable
from dunwu.hub.sources import SOURCES
from dunwu.hub.sources import chosen as resolve_source

__all__ = ["SOURCES", "FetchReport", "fetch", "in_words", "locate", "offline_if_unreachable", "resolve_source"]
