"""The search: what can be made from given numbers."""

import pytest

from dunwu.rewards.countdown import evaluate_expression, solves
from dunwu.tasks.countdown_solver import chains, solve


def test_every_chain_of_two_numbers_is_listed_by_hand() -> None:
    found = {(chain.steps, chain.expression, chain.value) for chain in chains((6, 3))}
    assert found == {
        (("6+3=9",), "6+3", 9),
        (("6-3=3",), "6-3", 3),
        (("6*3=18",), "6*3", 18),
        (("6/3=2",), "6/3", 2),
    }


def test_results_on_the_way_are_whole_positive_and_within_the_limit() -> None:
    assert {chain.value for chain in chains((7, 7))} == {14, 49, 1}  # 7-7=0 is left out
    assert {chain.value for chain in chains((7, 2), limit=10)} == {9, 5}  # 14 is too large, 7/2 not whole
    assert {chain.value for chain in chains((7, 2), operations="+")} == {9}


def test_the_order_of_the_numbers_changes_nothing() -> None:
    assert chains((3, 14, 17)) == chains((17, 3, 14))


@pytest.mark.parametrize("nums", [(3, 14, 17), (20, 5, 2), (1, 1, 1), (4, 6, 8, 2)])
def test_every_expression_uses_each_number_and_comes_to_its_value(nums: tuple[int, ...]) -> None:
    ways = chains(nums)
    assert ways
    for way in ways:
        assert solves(way.expression, nums, way.value), way


def test_every_step_is_exact_arithmetic_with_the_larger_number_first() -> None:
    for way in chains((3, 14, 17)):
        for step in way.steps:
            left, result = step.split("=")
            assert evaluate_expression(left) == int(result)
        assert len(set(ways := [w.steps for w in chains((3, 14, 17))])) == len(ways)
    assert chains((3, 14, 17))[0].steps == ("17+14=31", "31+3=34")


@pytest.mark.parametrize(
    ("nums", "target"), [((8, 3, 8, 3), 24), ((5, 5, 5, 1), 24), ((1, 2), -1), ((44, 19, 35), 98)]
)
def test_solve_finds_fractions_and_negative_numbers_on_the_way(nums: tuple[int, ...], target: int) -> None:
    expression = solve(nums, target)
    assert expression is not None
    if target > 0:
        assert solves(expression, nums, target)
    else:
        assert expression == "1-2"


def test_solve_returns_none_where_nothing_reaches_the_target() -> None:
    assert solve((1, 1, 1), 99) is None
    assert solve((5, 3), 15, operations="+-") is None
