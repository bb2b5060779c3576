"""What the program computes stays the same to the bit: a committed curve of twenty steps."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from quickstart_20_steps import ENVIRONMENT

HERE = Path(__file__).parent
DRAWN_WITH = {"torch": "2.13.0", "transformers": "5.23.0"}
"""The last digit belongs to a version of the libraries; with others, losses are compared by the other tests."""


@pytest.mark.slow
@pytest.mark.skipif(
    platform.machine() != "x86_64"
    or any(version(name).partition("+")[0] != wanted for name, wanted in DRAWN_WITH.items()),
    reason=f"the curve was drawn on x86_64 with {DRAWN_WITH}",
)
def test_twenty_steps_are_what_they_were_to_the_bit() -> None:
    """Loss, rewards, gradient norm, KL and entropy of each step, every sampled token, and the weights at the end.

    A change that is meant to alter what is computed draws the curve anew (see the script) and says so in CHANGELOG.
    """
    done = subprocess.run(
        [sys.executable, str(HERE / "quickstart_20_steps.py")],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    pinned = json.loads((HERE / "quickstart_20_steps.json").read_text(encoding="utf-8"))
    for now, then in zip(found["steps"], pinned["steps"], strict=True):
        assert now == then
    assert found["weights"] == pinned["weights"]
