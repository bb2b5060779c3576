"""`push_to_hub` is checked before a run, not found wanting after it."""

from __future__ import annotations

from typing import Any

CHECK = """
import time
from types import SimpleNamespace
from dunwu.hub import check_push_to_hub
args = SimpleNamespace(push_to_hub=True, hub_token=None, hub_model_id="me/mine", output_dir="runs/one")
start = time.monotonic()
try:
    check_push_to_hub(args)
    print("FINE")
except ValueError as error:
    print(type(error).__name__, error)
args.push_to_hub = False
check_push_to_hub(args)
"""
KEY = "hf_" + "k" * 34


def test_a_run_that_cannot_push_is_refused_in_a_sentence(home: Any, dead: str) -> None:
    away = home.run(CHECK, HF_ENDPOINT=dead, HF_TOKEN=KEY).stdout
    assert f"HubError push_to_hub=True, and {dead} cannot be reached from here; or set push_to_hub=False" in away
    assert "hf upload NAME runs/one" in away
    assert "HubError push_to_hub=True, and HF_HUB_OFFLINE is set" in home.run(CHECK, HF_HUB_OFFLINE="1").stdout
    without = home.run(CHECK).stdout
    assert "HubError push_to_hub=True, and there is no key: `" in without
    assert "hf auth login`, or set HF_TOKEN" in without
    home.server.misbehaviour.down = 401
    refused = home.run(CHECK, HF_TOKEN=KEY)
    assert "does not take the key (401)" in refused.stdout and KEY not in refused.stdout + refused.stderr
    home.server.misbehaviour.down = 503
    assert "the hub is down (it answers 503)" in home.run(CHECK, HF_TOKEN=KEY).stdout


def test_a_run_that_can_push_is_let_through_and_one_that_does_not_asks_nobody(home: Any) -> None:
    assert home.run(CHECK, HF_TOKEN=KEY).stdout.strip() == "FINE"
    assert len(home.server.asked("whoami")) == 1
    home.server.requests.clear()
    other = home.run(CHECK, HF_TOKEN=KEY, RANK="1").stdout.strip()
    assert other == "FINE" and home.server.requests == [], "the main process asks for all"
