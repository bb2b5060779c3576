"""A sandboxed reward runs in a process of its own, which is killed when its time is up."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dunwu.rewards import RewardError, RewardRunner, get_reward, sandboxed, tutorials
from dunwu.rewards.sandbox import SandboxedReward

CHECKER = """
import os, re, subprocess, sys


def whose(completions, answer):
    print("a line that must not get between the replies")
    return [float(os.getpid() if text == right else 0) for text, right in zip(completions, answer)]


def matches(completions, **columns):
    return [float(re.match(r"(a+)+$", text) is not None) for text in completions]


def breaks(completions, **columns):
    if "crash" in completions:
        os._exit(9)
    return [1 / len(text) for text in completions]


async def later(completions, **columns):
    return [2.0 for _ in completions]


def runs(completions, folder):
    program = subprocess.Popen(["sleep", "60"])
    with open(folder[0] + "/pid", "w") as file:
        file.write(str(program.pid))
    program.wait()


class Odd(float):
    def __reduce__(self):
        return unreadable, (os.getpid(),)


def unreadable(pid):
    if pid != os.getpid():
        raise ValueError("only where it was made")
    return Odd()


def odd(completions):
    return [Odd()]


def torch_is_loaded(completions, **columns):
    return [float("torch" in sys.modules) for _ in completions]


class Judge:
    def __call__(self, completions, **columns):
        return [3.0 for _ in completions]
"""


@pytest.fixture
def checker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "a_checker.py").write_text(CHECKER, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    import a_checker  # type: ignore[import-not-found]

    yield a_checker
    del sys.modules["a_checker"]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not (status.exists() and "State:\tZ" in status.read_text(encoding="utf-8"))  # dead, and not yet reaped


def ends(pid: int) -> bool:
    """Whether a process is gone within five seconds; it is killed otherwise."""
    for _ in range(100):
        if not is_alive(pid):
            return True
        time.sleep(0.05)
    os.kill(pid, 9)
    return False


def given(texts: list[str], **columns: Any) -> dict[str, Any]:
    return {
        "prompts": ["p"] * len(texts),
        "completions": texts,
        "completion_ids": [[1]] * len(texts),
        "columns": columns,
    }


def test_a_sandboxed_reward_has_its_name_its_columns_and_another_process(checker: Any) -> None:
    reward = sandboxed(checker.whose)
    runner = RewardRunner([reward, sandboxed(tutorials.reward_longer)])
    assert runner.names == ("whose", "reward_longer")
    first, second = (runner.score(**given(["x", "yy"], answer=["x", "x"], more=[1, 2])).values for _ in range(2))
    pid = int(first[0][0] or 0)
    assert pid != os.getpid() and first[1] == (0.0, 2.0)
    assert second == first, "the process is kept"
    reward.close()
    assert not is_alive(pid)


def test_a_regular_expression_that_hangs_is_killed_at_the_limit_and_the_next_call_works(checker: Any) -> None:
    reward = sandboxed(checker.matches)
    assert reward(completions=["aa", "b"]) == [1.0, 0.0]
    assert reward._worker is not None
    process = reward._worker.process
    with pytest.raises(RewardError, match=r"'matches' failed on row 0 \(timeout\)"):
        RewardRunner(reward, timeout=0.5).score(**given(["a" * 60 + "b"]))
    assert process.poll() is not None, "the process that hung is dead"
    assert reward(completions=["aa"]) == [1.0]
    reward.close()


def test_what_a_sandboxed_reward_raises_and_how_its_process_ends_is_reported(checker: Any) -> None:
    runner = RewardRunner(sandboxed(checker.breaks), on_error="skip")
    scores = runner.score(**given(["xx", "", "crash"]))
    assert scores.values == ((0.5,), (None,), (None,))
    assert [failure.detail for failure in scores.failures] == [
        "ZeroDivisionError: division by zero",
        "RuntimeError: its process ended with exit code 9",
    ]


def test_programs_that_a_reward_has_started_are_killed_with_it(checker: Any, tmp_path: Path) -> None:
    runner = RewardRunner(sandboxed(checker.runs), timeout=2, on_error="skip")
    assert runner.score(**given(["x"], folder=[str(tmp_path)])).failures[0].kind == "timeout"
    assert ends(int((tmp_path / "pid").read_text()))


def test_a_value_that_only_the_worker_can_read_is_reported_and_does_not_hang(checker: Any) -> None:
    reward = sandboxed(checker.odd)
    with pytest.raises(RuntimeError, match="cannot be read in this process"):
        reward(completions=["x"])
    reward.close()


def test_async_functions_objects_and_names_can_be_sandboxed(checker: Any, tmp_path: Path) -> None:
    rewards: list[Any] = [
        sandboxed(checker.later),
        sandboxed(checker.Judge()),
        get_reward(f"sandboxed({tmp_path / 'a_checker.py'}:Judge)"),
        get_reward("sandboxed(reward_longer)"),
    ]
    assert all(isinstance(reward, SandboxedReward) for reward in rewards)
    assert [reward(completions=["four"]) for reward in rewards] == [[2.0], [3.0], [3.0], [4.0]]


def test_a_function_that_another_process_cannot_import_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"cannot be sent to another process .*write it into a module"):
        sandboxed(lambda completions: [])

    def of_main(completions: list[str]) -> list[float]:
        return []

    of_main.__qualname__, of_main.__module__ = "of_main", "__main__"
    main = sys.modules["__main__"]
    main.of_main = of_main  # type: ignore[attr-defined]
    try:
        with pytest.raises(ValueError, match="belongs to the script or notebook"):
            sandboxed(of_main)
    finally:
        del main.of_main  # type: ignore[attr-defined]


def test_the_worker_process_starts_without_torch(checker: Any) -> None:
    assert sandboxed(checker.torch_is_loaded)(completions=["x"]) == [0.0]


ORPHAN = """
import os, sys, threading, time
sys.path.insert(0, sys.argv[1])
import a_checker
from dunwu.rewards import sandboxed

reward = sandboxed(a_checker.matches)
reward(completions=["aa"])
threading.Thread(target=reward, kwargs={"completions": ["a" * 60 + "b"]}).start()
time.sleep(0.3)
print(reward._worker.process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be asked to kill a process with its parent")
def test_a_worker_process_that_hangs_dies_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "a_checker.py").write_text(CHECKER, encoding="utf-8")
    command = [sys.executable, "-c", ORPHAN, str(tmp_path)]
    pid = int(subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=False).stdout)
    assert ends(pid), "the worker process goes on without its parent"
