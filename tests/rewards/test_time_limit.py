"""A reward function runs in the thread that calls it, and is interrupted there when its time is up."""

import asyncio
import contextlib
import inspect
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dunwu.core.records import RewardScores
from dunwu.rewards import RewardError, RewardRunner, time_limit
from dunwu.rewards.time_limit import TimedOut, TimeLimit


def scored(runner: RewardRunner, texts: list[str]) -> RewardScores:
    ids = [[7]] * len(texts)
    return runner.score(prompts=["p"] * len(texts), completions=texts, completion_ids=ids, columns={})


def verified(text: str, *, seconds: int = 5) -> float:
    """As math-verify does it: a limit of its own by `signal.alarm`, which works in the main thread only."""

    def too_long(number: int, frame: Any) -> None:
        raise TimeoutError("the verifier's own limit")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try:
        if text == "slow":
            time.sleep(30)
        return float(text == "right")
    finally:
        signal.alarm(0)


@pytest.fixture(autouse=True)
def alarm_as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, before)


def test_a_reward_that_uses_signal_alarm_works_with_the_default_time_limit() -> None:
    def verify(completions: list[str], **columns: Any) -> list[float]:
        return [verified(text) for text in completions]

    async def verify_async(completions: list[str], **columns: Any) -> list[float]:
        return [verified(text) for text in completions]

    runner = RewardRunner([verify, verify_async])
    assert runner.timeout == 60
    assert scored(runner, ["right", "wrong"]).values == ((1.0, 1.0), (0.0, 0.0))


def test_a_reward_that_catches_all_exceptions_gives_its_true_value() -> None:
    def careless(completions: list[str], **columns: Any) -> list[float]:
        values = []
        for text in completions:
            try:
                values.append(verified(text, seconds=1))
            except Exception:
                values.append(-1.0)  # outside of the main thread: every row, without a word
        return values

    assert scored(RewardRunner(careless), ["right", "wrong", "slow"]).values == ((1.0,), (0.0,), (-1.0,))


def busy() -> None:
    while True:
        pass


def patient() -> None:
    while True:
        time.sleep(0.01)


HANGS: list[Callable[[], object]] = [
    lambda: time.sleep(60),
    busy,
    patient,
    lambda: re.match(r"(a+)+$", "a" * 40 + "b"),
    lambda: threading.Event().wait(60),
    lambda: subprocess.run(["sleep", "60"], check=True),
]


@pytest.mark.parametrize("hang", HANGS, ids=["sleep", "loop", "sleeps", "regular expression", "lock", "process"])
def test_a_reward_that_hangs_ends_in_an_error_with_function_and_row(hang: Callable[[], object]) -> None:
    def hanging(completions: list[str], **columns: Any) -> list[float]:
        for text in completions:
            if text == "bad":
                hang()
        return [1.0 for _ in completions]

    start = time.monotonic()
    with pytest.raises(RewardError, match=r"'hanging' failed on row 1 \(timeout\): no answer within 0.4 s"):
        scored(RewardRunner(hanging, timeout=0.4), ["good", "bad"])
    assert time.monotonic() - start < 5


def test_skip_gives_none_to_the_row_that_hangs_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def hanging(completions: list[str], **columns: Any) -> list[float]:
        if "bad" in completions:
            busy()
        return [1.0 for _ in completions]

    scores = scored(RewardRunner(hanging, timeout=0.5, on_error="skip"), ["good", "bad", "good"])
    assert scores.values == ((1.0,), (None,), (1.0,))
    failure = "reward function 'hanging' failed on row 1 (timeout): no answer within 0.5 s. "
    assert len([message for message in caplog.messages if message.startswith(failure)]) == 1


@pytest.mark.parametrize("caught", [Exception, BaseException])
def test_a_reward_that_catches_the_interruption_is_timed_out_all_the_same(caught: type[BaseException]) -> None:
    def sure(completions: list[str], **columns: Any) -> list[float]:
        try:
            time.sleep(60)
        except caught:
            return [-1.0]
        return [1.0]

    scores = scored(RewardRunner(sure, timeout=0.2, on_error="skip"), ["a"])
    assert scores.values == ((None,),) and scores.failures[0].kind == "timeout"


def in_another_thread(work: Callable[[], Any]) -> Any:
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    return results[0]


@pytest.mark.parametrize("hang", [busy, patient])
def test_a_reward_is_interrupted_in_a_thread_that_is_not_the_main_one(hang: Callable[[], object]) -> None:
    threads: list[threading.Thread] = []

    def hanging(completions: list[str], **columns: Any) -> list[float]:
        threads.append(threading.current_thread())
        hang()
        return []

    def work() -> bool:
        with pytest.raises(RewardError, match="'hanging' failed on row 0"):
            scored(RewardRunner(hanging, timeout=0.2), ["a"])
        return threading.current_thread() is threads[0]

    assert in_another_thread(work) is True


def ends_at_the_limit() -> None:
    """Calls that take as long as they may, or a little more, each followed by code that nothing may interrupt."""
    limit, dice = TimeLimit(0.002), random.Random(0)
    for _ in range(200):
        until = time.monotonic() + 0.002 + dice.uniform(0, 0.001)

        def work(until: float = until) -> int:
            while time.monotonic() < until:
                pass
            return 7

        with contextlib.suppress(TimedOut):
            assert limit.run(work, "'work'") == 7
        for _ in range(2000):
            pass


@pytest.mark.parametrize("main", [True, False])
def test_a_call_that_ends_as_its_time_is_up_leaves_no_exception_behind(main: bool) -> None:
    if main:
        ends_at_the_limit()
        time.sleep(0.05)
    else:
        assert in_another_thread(ends_at_the_limit) is None


def test_a_signal_that_is_handled_after_the_call_has_ended_raises_nothing() -> None:
    interrupter = time_limit._SignalInterrupter(0.001)
    assert interrupter.run(lambda: 7, lambda: None) == 7
    time.sleep(0.002)
    interrupter._handle(signal.SIGURG, inspect.currentframe())
    with pytest.raises(TimedOut):
        interrupter.run(lambda: interrupter._handle(signal.SIGURG, inspect.currentframe()), lambda: None)


def test_an_exception_that_is_asked_for_after_the_call_has_ended_is_not_raised() -> None:
    interrupter = time_limit._ExceptionInterrupter()
    assert interrupter.run(lambda: 7, lambda: None) == 7
    in_another_thread(interrupter.interrupt)
    patient_until = time.monotonic() + 0.05
    while time.monotonic() < patient_until:
        pass
    assert not interrupter.has_interrupted


def test_ctrl_c_in_a_reward_is_ctrl_c() -> None:
    def interrupted(completions: list[str], **columns: Any) -> list[float]:
        signal.raise_signal(signal.SIGINT)
        return [1.0]

    with pytest.raises(KeyboardInterrupt):
        scored(RewardRunner(interrupted, on_error="skip"), ["a"])


def test_handlers_and_timers_of_the_user_stay_as_they_are() -> None:
    received = []

    def mine(number: int, frame: Any) -> None:
        received.append(number)

    def raising(completions: list[str], **columns: Any) -> list[float]:
        signal.raise_signal(signal.SIGURG)
        return [1.0]

    before = signal.signal(signal.SIGURG, mine)
    signal.signal(signal.SIGALRM, mine)
    signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        assert scored(RewardRunner(raising), ["a"]).values == ((1.0,),)
        assert received == [signal.SIGURG], "a signal that is not the watchdog's goes to its owner"
        assert signal.getsignal(signal.SIGURG) is mine and signal.getsignal(signal.SIGALRM) is mine
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 90 and signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGURG, before)


def test_a_sync_reward_keeps_its_event_loop_beside_async_ones() -> None:
    loop = asyncio.new_event_loop()

    async def one() -> float:
        return 1.0

    async def judged(completions: list[str], **columns: Any) -> list[float]:
        return [await one()]

    def old_style(completions: list[str], **columns: Any) -> list[float]:
        return [asyncio.get_event_loop().run_until_complete(one())]

    asyncio.set_event_loop(loop)
    try:
        runner = RewardRunner([judged, old_style])
        assert [scored(runner, ["a"]).values for _ in range(2)] == [((1.0, 1.0),)] * 2
    finally:
        asyncio.set_event_loop(None)
        loop.close()


STUCK = """
import ctypes
from dunwu.rewards import RewardRunner

def stuck(completions, **columns):
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):  # the second time it waits for itself, in C, for ever
        ctypes.CDLL(None).pthread_mutex_lock(mutex)

RewardRunner(stuck, timeout=0.1).score(prompts=["p"], completions=["c"], completion_ids=[[1]], columns={})
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the deadlock is made with Linux's threads")
def test_a_reward_that_cannot_be_interrupted_is_named_and_ends_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout.count("reward function 'stuck' has been running for") == 9
    assert "reward function 'stuck' has hung for 10 limits; this process ends" in done.stdout
