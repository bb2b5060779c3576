"""The registry, and `validate` on rewards that are wrong."""

from typing import Any

import pytest

from dunwu.core.protocols import Task
from dunwu.tasks import TASKS, get_task, validate

OPTIONS: dict[str, dict[str, Any]] = {"own": {"source": "x.jsonl"}}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_keeps_the_protocol_and_its_name(name: str) -> None:
    task = get_task(name, **OPTIONS.get(name, {}))
    assert isinstance(task, Task)
    assert task.name == name


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("countdwon", {}, "did you mean 'countdown'"),
        ("chess", {}, "known: countdown, gsm8k, own, tldr"),
        ("countdown", {"stlye": "tiny"}, "no option 'stlye'; did you mean 'style'"),
        ("own", {}, "needs the option source"),
    ],
)
def test_an_unknown_task_or_option_names_the_nearest(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        get_task(name, **options)


def halved(completions: Any, **columns: Any) -> list[float]:
    """0.5 whatever comes."""
    return [0.5] * len(completions)


async def late(completions: Any, **columns: Any) -> list[float | None]:
    """Async, and applies to the first row only."""
    return [2.0, *[None] * (len(completions) - 1)]


def short(completions: Any, **columns: Any) -> list[float]:
    """Forgets a row."""
    return [2.0] * (len(completions) - 1)


def test_a_gold_answer_that_falls_short_is_named_with_its_rewards() -> None:
    task = get_task("countdown", rewards=(halved,), max_reward=1.0)
    with pytest.raises(ValueError, match=r"row 0: the gold answer earns 0.5 of 1; halved fell short \(halved=0.5\)"):
        validate(task, task.rows("test")[:3])
    report = validate(task, task.rows("test")[:3], strict=False)
    assert [failure.row for failure in report.failures] == [0, 1, 2]


def test_an_async_reward_is_awaited_and_none_counts_nothing() -> None:
    task = get_task("countdown", rewards=(late,))
    report = validate(task, task.rows("test")[:2], strict=False)
    assert [(failure.row, failure.got) for failure in report.failures] == [(1, 0.0)]


def test_a_reward_that_forgets_a_row_is_named() -> None:
    task = get_task("countdown", rewards=(short,))
    with pytest.raises(ValueError, match=r"'short' failed .*returned 1 values for 2 completions"):
        validate(task, task.rows("test")[:2])


def test_rows_all_without_gold_are_counted_as_excluded() -> None:
    report = validate(get_task("countdown"), [{"nums": [1, 1], "target": 50}])
    assert (report.checked, report.excluded, report.failures) == (0, 1, ())
