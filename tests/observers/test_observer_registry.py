"""Observers by name: the built-in ones, your own, and what is said of a name that nothing listens to."""

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from dunwu.core.protocols import Observer
from dunwu.core.records import StepResult
from dunwu.errors import ConfigError
from dunwu.observers import OBSERVERS, Console, resolve_observer

FOREIGN = """
from dunwu import Observer

class Watch(Observer):
    def __init__(self, every=1):
        self.every = every

class Plain:
    seen = []
    def on_step(self, step):
        self.seen.append(step.index)

class Typo(Observer):
    def on_rollout(self, step, groups):
        pass

class Deaf:
    def step(self, step):
        pass

def make(every):
    return Watch(every)

made = Watch(7)
"""


@pytest.fixture
def foreign(tmp_path: Path) -> str:
    path = tmp_path / "watching.py"
    path.write_text(FOREIGN, encoding="utf-8")
    return str(path)


def test_every_built_in_name_makes_its_observer() -> None:
    for name, kind in OBSERVERS.items():
        assert type(resolve_observer(name)) is kind
    assert resolve_observer("console", {"every": 3}).every == 3  # type: ignore[attr-defined]


def test_an_observer_stays_what_it_is_and_a_class_is_called() -> None:
    console = Console()
    assert resolve_observer(console) is console
    assert isinstance(resolve_observer(Console), Console)


@pytest.mark.parametrize(
    ("name", "options", "every"), [("Watch", {}, 1), ("Watch", {"every": 4}, 4), ("made", {}, 7)]
)
def test_an_observer_of_ones_own_is_found_by_name(
    foreign: str, name: str, options: dict[str, Any], every: int
) -> None:
    observer: Any = resolve_observer(f"{foreign}:{name}", options)
    assert isinstance(observer, Observer) and observer.every == every


def test_a_function_that_makes_an_observer_is_called(foreign: str) -> None:
    made: Any = resolve_observer(f"{foreign}:make", {"every": 5})
    assert made.every == 5


def test_an_object_with_one_of_the_methods_serves(foreign: str) -> None:
    plain: Any = resolve_observer(f"{foreign}:Plain")
    plain.on_step(StepResult(index=3, groups=(), metrics={}))
    assert plain.seen == [3]


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("Typo", {}, r"has a method 'on_rollout', which nothing calls; did you mean 'on_rollouts'"),
        ("Deaf", {}, r"has none of an observer's methods: on_run_start, on_rollouts"),
        ("Wach", {}, r"has no 'Wach'.*did you mean 'Watch'"),
        ("Watch", {"evry": 2}, r"has no option 'evry'; did you mean 'every'"),
        ("make", {}, r"needs the option every"),
        ("made", {"every": 2}, r"is an object already and takes no options, got every"),
    ],
)
def test_a_mistake_in_an_observer_is_named(foreign: str, name: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        resolve_observer(f"{foreign}:{name}", options)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no built-in observer 'rollouts_log'; did you mean 'rollout_log'"):
        resolve_observer("rollouts_log")


def test_an_observer_may_be_a_callback_of_transformers_as_well() -> None:
    class Both(TrainerCallback, Observer):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pass

    both = Both()
    assert resolve_observer(both) is both
