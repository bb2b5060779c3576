"""The time that is left, where steps take longer and longer, now and then, or only at first."""

from statistics import fmean

import pytest

from dunwu.observers.pace import StepPace, first_estimate, format_duration, short_duration


def pace(seconds: list[float], tokens: list[float] | None = None) -> StepPace:
    made = StepPace()
    for i, value in enumerate(seconds):
        made.add(value, tokens[i] if tokens else 0.0)
    return made


def test_growing_completions_are_expected_to_go_on_growing() -> None:
    """60 of 120 steps, each 1 % of the first longer: what is left takes 113.7 s, and the mean says 77.7 s."""
    tokens = [50.0 + 0.5 * i for i in range(120)]
    seconds = [length / 50 for length in tokens]
    assert sum(seconds[60:]) == pytest.approx(113.7) and fmean(seconds[:60]) * 60 == pytest.approx(77.7)
    # The line is followed for 29 steps, as many as it was fitted to; 31 later ones are (1 + 2 + … + 31) % short.
    assert pace(seconds[:60], tokens[:60]).remaining(60) == pytest.approx(113.7 - 4.96)


def test_growth_does_not_go_on_without_end() -> None:
    tokens = [10.0 * i for i in range(1, 21)]  # the last nine are 120 to 200, 160 in the mean
    line, level = sum(range(210, 300, 10)), 9991 * 290
    assert pace([1.0] * 20, tokens).remaining(10_000) == pytest.approx((line + level) / 160)
    assert pace([1.0] * 20, [2.0**i for i in range(20)]).remaining(10_000) == 20_000, "at most twice as slow"


def test_the_first_step_is_not_what_the_others_will_take() -> None:
    assert pace([30.0, *[1.0] * 9]).remaining(10) == pytest.approx(10.0)


def test_an_occasional_evaluation_is_part_of_the_pace_but_not_a_trend() -> None:
    seconds = [1.0, *(6.0 if i % 10 == 9 else 1.0 for i in range(100))]  # 1.5 s a step
    assert pace(seconds, [40.0] * 101).remaining(100) == pytest.approx(150.0)


def test_before_the_first_step_and_after_the_last_nothing_is_left() -> None:
    assert StepPace().remaining(5) == 0.0 and StepPace().seconds_per_step == 0.0
    assert pace([1.0]).remaining(0) == 0.0


def test_the_pace_is_that_of_the_last_steps() -> None:
    assert pace([1.0] * 50 + [3.0] * 8).seconds_per_step == pytest.approx(3.0)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (94.4, "1:34"), (3599.7, "1:00:00"), (7325, "2:02:05")])
def test_a_duration_reads_as_a_clock(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_the_first_estimate_is_a_range_in_a_unit_that_reads_well() -> None:
    """A quarter to four fifths of a step is sampling: 3 s of it make steps of 3.75 to 12 s."""
    assert first_estimate(3.0, 4) == "about 15 to 50 seconds"
    assert first_estimate(3.0, 100) == "about 6 to 20 minutes"
    assert first_estimate(3.0, 5000) == "about 5 to 17 hours"
    assert first_estimate(0.001, 10) == "a few seconds"


def test_a_short_duration_has_at_most_five_characters() -> None:
    shown = [short_duration(seconds) for seconds in (0, 59.6, 3599.4, 3723, 35_999, 86_399, 180_000, 8_640_000)]
    assert shown == ["0:00", "1:00", "59:59", "1h02m", "9h59m", "23h", "2d02h", "100d"]
