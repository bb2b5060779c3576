"""What the hub tells its client about keys is not for somebody who downloads one model."""

from __future__ import annotations

from typing import Any

import pytest

UNAUTHENTICATED = (
    "unauthenticated; Warning: You are sending unauthenticated requests to the HF Hub. Please set a HF_TOKEN to "
    "enable higher rate limits and faster downloads."
)


@pytest.mark.slow
def test_the_advice_to_log_in_is_not_shown_and_other_warnings_are(home: Any) -> None:
    home.server.misbehaviour.warning = UNAUTHENTICATED
    done = home.run("-m", "dunwu", "fetch", "openai/gsm8k", "--to", "one")
    assert "every hash right" in done.stdout and "unauthenticated" not in done.stderr + done.stdout
    home.server.misbehaviour.warning = "maintenance; The hub closes in an hour."
    assert "The hub closes in an hour." in home.run("-m", "dunwu", "fetch", "openai/gsm8k", "--to", "two").stderr
