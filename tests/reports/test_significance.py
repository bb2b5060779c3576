"""Tests of differences against numbers that are known, or worked out by hand."""

import random
import statistics

import pytest

from dunwu.reports.significance import (
    holm,
    paired_p_value,
    student_p_value,
    unpaired_p_value,
    welch_p_value,
)


def test_mcnemar_counts_the_tails_of_the_pairs_that_changed() -> None:
    """9 better, 1 worse of 10: 2 · (1 + 10) / 2^10."""
    assert paired_p_value([1.0] * 9 + [-1.0] + [0.0] * 90) == pytest.approx(22 / 1024)
    assert paired_p_value([0.5] * 9 + [-0.5]) == pytest.approx(22 / 1024), "their size does not matter"
    assert paired_p_value([1.0, -1.0]) == 1.0
    assert paired_p_value([0.0, 0.0]) == 1.0 == paired_p_value([])


def test_mcnemar_is_possible_with_thousands_of_pairs() -> None:
    assert paired_p_value([1.0] * 1500 + [-1.0] * 1000) < 1e-20
    assert paired_p_value([1.0] * 1500 + [-1.0] * 1500) == 1.0


def test_differences_of_several_sizes_are_compared_with_random_signs() -> None:
    """All 8 sign flips of 1, 2, 3: sums ±6, ±4, ±2, 0, 0; two of eight are as far as 6."""
    assert paired_p_value([1.0, 2.0, 3.0]) == pytest.approx(0.25, abs=0.02)
    assert paired_p_value([1.0, 2.0, -3.0]) == pytest.approx(1.0)
    assert paired_p_value([1.0, 2.0, 3.0]) == paired_p_value([1.0, 2.0, 3.0]), "the same draws every time"


def test_random_signs_raise_a_false_alarm_in_one_of_twenty() -> None:
    rng = random.Random(0)
    alarms = [paired_p_value([rng.gauss(0, 1) for _ in range(12)]) < 0.05 for _ in range(200)]
    assert 0.01 <= statistics.fmean(alarms) <= 0.10


@pytest.mark.parametrize(
    ("freedom", "t"),
    [(1, 12.70620), (2, 4.302653), (3, 3.182446), (4, 2.776445), (5, 2.570582), (30, 2.042272), (99, 1.984217)],
)
def test_students_t_agrees_with_the_tables(freedom: int, t: float) -> None:
    assert student_p_value(t, freedom) == pytest.approx(0.05, abs=1e-6)
    assert student_p_value(-t, freedom) == student_p_value(t, freedom)
    assert student_p_value(0.0, freedom) == 1.0


def test_welch_rounds_its_degrees_of_freedom_down() -> None:
    """Variances 1 and 1, three values each: t = 3 / √(2/3), 4 degrees."""
    assert welch_p_value([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]) == pytest.approx(student_p_value(3 / (2 / 3) ** 0.5, 4))


def test_one_value_is_taken_to_vary_like_the_others() -> None:
    """Variance 1 of both, 1 + 1/3: t = 4 / √(4/3), 2 degrees."""
    assert welch_p_value([1.0], [4.0, 5.0, 6.0]) == pytest.approx(student_p_value(4 / (4 / 3) ** 0.5, 2))
    assert welch_p_value([1.0], [4.0]) is None


def test_seeds_without_any_spread_are_equal_or_are_not() -> None:
    assert welch_p_value([0.5, 0.5], [0.5, 0.5]) == 1.0
    assert welch_p_value([0.5, 0.5], [0.6, 0.6]) == 0.0


def test_shares_whose_intervals_are_known_differ_where_newcombes_interval_leaves_out_0() -> None:
    """Half-widths 0.03 and 0.04 make 0.05 for the difference: p is 0.05 at a difference of 0.05."""
    first, second = (0.60, 0.57, 0.63), (0.55, 0.51, 0.59)
    assert unpaired_p_value(first, second) == pytest.approx(0.05, abs=1e-6)
    assert unpaired_p_value(first, second) == unpaired_p_value(second, first)
    assert unpaired_p_value((0.9, 0.88, 0.92), second) < 0.001
    assert unpaired_p_value(first, first) == 1.0


def test_holm_raises_the_smallest_most_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
