"""Suggestions, the logger, hooks for imports; and the buffer of metrics."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dunwu._utils.logging import get_logger
from dunwu._utils.suggest import did_you_mean
from dunwu.core.metrics import MetricsBuffer


def test_the_nearest_known_name_is_suggested_or_all_are_listed() -> None:
    assert did_you_mean("learning_rat", ["learning_rate", "beta"]) == "; did you mean 'learning_rate'?"
    assert did_you_mean("zzz", ["b", "a"]) == "; known: a, b"


def test_the_logger_prints_without_any_set_up_and_obeys_its_level(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script without logging set up would otherwise train in silence."""
    logger = logging.getLogger("dunwu")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    get_logger().info("4 prompts")
    assert capsys.readouterr().out == "4 prompts\n"
    logger.setLevel(logging.WARNING)
    get_logger().info("not said")
    assert capsys.readouterr().out == ""


def test_the_logger_leaves_a_users_own_logging_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("dunwu")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])
    assert get_logger().logger.handlers == []


def test_token_means_divide_once_by_all_tokens_of_the_step() -> None:
    """The mean of two micro-batches' means would weigh their tokens unequally."""
    ledger = MetricsBuffer()
    ledger.start_step()
    ledger.add_token_sums({"tokens": torch.tensor(1.0), "entropy": torch.tensor(2.0)})
    ledger.add_token_sums({"tokens": torch.tensor(3.0), "entropy": torch.tensor(1.0)})
    assert ledger.token_means(lambda sums: sums) == {"entropy": 0.75}
    # Two ranks with the same sums: twice the tokens, twice the entropy.
    assert ledger.token_means(lambda sums: 2 * sums) == {"entropy": 0.75}
    ledger.start_step()
    ledger.add_token_sums({"tokens": torch.tensor(0.0), "entropy": torch.tensor(0.0)})
    assert ledger.token_means(lambda sums: sums) == {"entropy": 0.0}


def test_means_are_of_the_steps_since_the_last_log_also_across_a_checkpoint() -> None:
    ledger = MetricsBuffer()
    ledger.record({"reward": 1.0})
    ledger.record({"reward": 2.0, "kl": 4.0})
    resumed = MetricsBuffer()
    resumed.load_state(ledger.state())
    assert resumed.latest() == {"reward": 2.0, "kl": 4.0}
    assert resumed.pop_means() == ledger.pop_means() == {"reward": 1.5, "kl": 4.0}
    assert resumed.pop_means() == {}


def test_what_waits_for_an_import_is_done_once_and_after_it(tmp_path: Path) -> None:
    (tmp_path / "slow_package.py").write_text(
        "import os, sys\nvalue = os.environ['SAID_FIRST']\n"
        "sys.modules[__name__] = type('Other', (), {'value': value})\n",
        encoding="utf-8",
    )
    code = (
        "import importlib.util, os, sys\n"
        "from dunwu._utils.import_hooks import on_import\n"
        "seen = []\n"
        "on_import('slow_package', lambda module: seen.append(module.value))\n"
        "on_import('slow_package', lambda module: seen.append('second'))\n"
        "on_import('never_there', seen.append)\n"
        "assert importlib.util.find_spec('slow_package') is not None and not seen\n"
        "os.environ['SAID_FIRST'] = 'by the script'\n"
        "import slow_package\n"
        "assert seen == ['by the script', 'second'], seen\n"
        "assert 'never_there' not in sys.modules and importlib.util.find_spec('never_there') is None\n"
        "on_import('slow_package', lambda module: seen.append('at once'))\n"
        "assert seen[-1] == 'at once'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
