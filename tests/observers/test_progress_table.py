"""The console's table: 80 columns whatever the rewards are called, each named once."""

import io
import itertools
from typing import Any

import pytest

from dunwu._utils.terminal_text import display_width
from dunwu.core.records import RunInfo, StepResult
from dunwu.observers import Console
from dunwu.observers.progress_table import figure, short_names

QUICKSTART = ["think_answer_format", "thought_lines_differ", "equation_solves"]
COURSE = [f"{name}_reward_func" for name in ("correctness", "int", "strict_format", "soft_format", "xmlcount")]
LONG = [f"a_reward_with_the_longest_name_that_anybody_{i}_ever_thought_of" for i in range(6)]
CHINESE = ["答案正确", "格式正确_奖励", "思考长度惩罚", "重复"]
FIGURES = {
    "completions/mean_length": 12345.67,
    "completions/clipped_ratio": 1.0,
    "frac_reward_zero_std": 1.0,
    "entropy": 0.2016,
}


def table(names: list[str], *, total: int = 330, value: float = 0.844, **metrics: float) -> list[str]:
    out = io.StringIO()
    console = Console(every=1, stream=out)
    console.on_run_start(RunInfo(folder=".", total_steps=total))
    own = {f"rewards/{name}/{kind}": value for name in names for kind in ("mean", "std")}
    for index in (1, total):
        shown: dict[str, Any] = {"reward": -1.3942, **FIGURES, **own, **metrics}
        console.on_step(StepResult(index=index, groups=(), metrics=shown))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("names", [[], ["reward_len"], QUICKSTART, COURSE, LONG, CHINESE])
@pytest.mark.parametrize("total", [1, 330, 1868, 123_456])
@pytest.mark.parametrize("value", [0.844, -123.456, float("nan"), 1e7])
def test_no_line_is_wider_than_80_columns_and_no_figure_touches_its_neighbour(
    names: list[str], total: int, value: float
) -> None:
    lines = table(names, total=total, value=value)
    assert max(display_width(line) for line in lines) <= 80
    head = next(line for line in lines if " step reward" in line).split()
    assert [len(line.split()) for line in lines[-2:]] == [len(head)] * 2
    assert {"step", "reward", "tokens", "cut", "dead", "left"} <= set(head), "these are always there"


@pytest.mark.parametrize("names", [QUICKSTART, COURSE])
def test_each_rewards_name_is_read_downwards_over_its_figures(names: list[str]) -> None:
    lines = table(names)
    bottom = next(i for i, line in enumerate(lines) if " step reward" in line)
    head, figures = lines[1 : bottom + 1], lines[bottom + 1]
    ends = [i + 1 for i, (one, other) in enumerate(itertools.pairwise(figures + " ")) if one != " " and other == " "]
    stops = ends[1 : 2 + len(names)]  # where the reward's column ends, and each function's
    read = ["".join(line[a:b].strip() for line in head) for a, b in itertools.pairwise(stops)]
    assert read == short_names(names)
    assert not any(name in line for name in names for line in lines[:bottom]), "no legend is needed"


def test_names_that_do_not_fit_are_listed_once_in_the_order_of_the_columns() -> None:
    lines = table(LONG, total=12_000)
    text = "\n".join(lines)
    assert all(text.count(name) == 1 for name in LONG)
    assert [text.index(name) for name in LONG] == sorted(text.index(name) for name in LONG)
    assert any("…" in line for line in lines)


def test_wide_characters_keep_the_columns_in_line() -> None:
    """A Chinese character takes two columns: the figures must end where their heading ends."""
    lines = table(["答案正确", "b"])
    head, row = lines[-3], lines[-2]
    assert display_width(head[: head.index("正确") + 2]) == row.index("0.84") + 4


def test_endings_that_all_names_have_are_left_out_unless_names_would_be_one() -> None:
    assert short_names(COURSE) == ["correctness", "int", "strict_format", "soft_format", "xmlcount"]
    assert short_names(["length_reward", "length_func", "x"]) == ["length_reward", "length_func", "x"]
    assert short_names(["_reward", "b"]) == ["_reward", "b"]


def test_a_figure_keeps_its_width() -> None:
    shown = [figure(value, 5) for value in (0.844, -0.844, -12.5, 12345.6, 1_234_567.0)]
    assert shown == ["0.84", "-0.84", "-12.5", "12346", "1e+06"]
    assert figure(1.39375, 6, decimals=3) == "1.394" and figure(-11.39375, 6, decimals=3) == "-11.39"
