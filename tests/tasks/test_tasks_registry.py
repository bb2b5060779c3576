"""The registry, and `validate` on rewards that are wrong."""

from pathlib import Path
from typing import Any

import pytest

from dunwu.core.protocols import Task
from dunwu.recipes.recipe import load_recipe
from dunwu.recipes.wiring import make_task
from dunwu.tasks import TASKS, Countdown, get_task, validate, with_rewards

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


def test_a_task_without_any_gold_answer_is_refused_and_not_passed_with_nothing_checked() -> None:
    with pytest.raises(ValueError, match="'countdown' has no gold answer in any of 1 rows"):
        validate(get_task("countdown"), [{"nums": [1, 1], "target": 50}])
    report = validate(get_task("countdown"), [{"nums": [1, 1], "target": 50}, {"nums": [1, 1], "target": 2}])
    assert (report.checked, report.excluded) == (1, 1)


MINE = """
from dunwu.core.records import Grade


def doubled(completions, answer, **columns):
    return [2.0 * (text == right) for text, right in zip(completions, answer)]


class Capitals:
    name, max_reward, rewards = "capitals", 2.0, (doubled,)

    def __init__(self, *, continent="Europe", limit):
        self.continent, self.limit = continent, limit

    def rows(self, split):
        return [{"country": "France", "answer": "Paris"}, {"country": "Italy", "answer": "Rome"}][: self.limit]

    def prompt(self, row):
        return f"The capital of {row['country']}?"

    def gold_completion(self, row):
        return row["answer"]

    def max_reward_of(self, row):
        return 2.0

    def grade(self, row, text):
        return Grade(strict=text == row["answer"], lenient=row["answer"] in text, formatted=True)


def of_two(**options):
    return Capitals(limit=2, **options)


ready = Capitals(limit=1)
number = 3


def broken():
    return "no task"
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "capitals.py").write_text(MINE, encoding="utf-8")
    return str(tmp_path / "capitals.py")


@pytest.mark.parametrize(
    ("name", "options", "rows"),
    [("Capitals", {"limit": 1, "continent": "Asia"}, 1), ("of_two", {"continent": "Asia"}, 2), ("ready", {}, 1)],
)
def test_a_task_from_outside_is_a_class_a_factory_or_an_object(
    mine: str, name: str, options: dict[str, Any], rows: int
) -> None:
    task = get_task(f"{mine}:{name}", **options)
    assert isinstance(task, Task)
    assert validate(task).checked == rows


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("Capitals", {"limit": 1, "contintent": "Asia"}, "no option 'contintent'; did you mean 'continent'"),
        ("Capitals", {}, "needs the option limit"),
        ("ready", {"limit": 2}, "is an object already and takes no options, got limit"),
        ("broken", {}, "gives str, which is not a task: it has no name, rewards, max_reward"),
        ("number", {}, "gives int, which is not a task"),
        ("Capitols", {}, "did you mean 'Capitals'"),
    ],
)
def test_a_task_from_outside_that_does_not_fit_is_refused_with_the_reason(
    mine: str, name: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        get_task(f"{mine}:{name}", **options)


def test_any_task_can_be_given_other_rewards(mine: str) -> None:
    foreign = get_task(f"{mine}:of_two")
    changed = with_rewards(foreign, [halved], 0.5)
    assert isinstance(changed, Task) and (changed.name, changed.rewards, changed.max_reward) == (
        "capitals",
        (halved,),
        0.5,
    )
    assert validate(changed).failures == (), "the most that its own rewards give on a row (2.0) counts no more"
    assert changed.grade(changed.rows("train")[0], "Paris").strict and changed.prompt({"country": "X"}).endswith("X?")
    assert foreign.max_reward == 2.0, "the task itself is not changed"
    built_in = with_rewards(get_task("countdown", style="tiny"), [halved], None)
    assert type(built_in) is Countdown and (built_in.style, built_in.rewards) == ("tiny", (halved,))


def test_a_recipe_takes_a_task_from_outside_and_rewards_of_its_own(mine: str, tmp_path: Path) -> None:
    recipe = tmp_path / "capitals.yaml"
    recipe.write_text(f"model: embedded\ntask: {{name: '{mine}:Capitals', limit: 2}}\n", encoding="utf-8")
    assert [reward.__name__ for reward in make_task(load_recipe(str(recipe))).rewards] == ["doubled"]  # type: ignore[attr-defined]
    with recipe.open("a", encoding="utf-8") as more:
        more.write(f"rewards: '{mine}:doubled'\nmax_reward: 3.0\nsource: hf\n")
    with pytest.raises(ValueError, match="the gold answer earns 2 of 3; doubled fell short"):
        make_task(load_recipe(str(recipe)))
