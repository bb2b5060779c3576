"""Pictures of runs: what is drawn where, on axes that do not exaggerate, with texts that do not overlap."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from dunwu.errors import DataError
from dunwu.observers import HeldOut, RunTitle, Share, draw_comparison, draw_curves, draw_run
from dunwu.observers.plots import style, texts
from dunwu.observers.plots.comparison import comparison_figure
from dunwu.observers.plots.grid import grid_figure
from dunwu.observers.plots.held_out import is_beyond_noise
from dunwu.observers.plots.labels import spread
from dunwu.observers.plots.run import run_figure, summary_line
from dunwu.observers.plots.series import Series, mean_and_range, reward_span, round_ticks, series_of, thinned

Entries = list[dict[str, float]]
SOLVES, FORM = "rewards/equation_solves/mean", "rewards/think_answer_format/mean"
LEARNED = (
    HeldOut(step=0, greedy=Share(value=0.32, low=0.28, high=0.36), sampled=Share(value=0.13, low=0.11, high=0.15)),
    HeldOut(step=330, greedy=Share(value=0.72, low=0.68, high=0.76), sampled=Share(value=0.62, low=0.6, high=0.64)),
)
UNCHANGED = (LEARNED[0], HeldOut(step=330, greedy=None, sampled=Share(value=0.14, low=0.12, high=0.16)))


def run(n: int = 330, *, start: float = 0.13, end: float = 0.68, seed: int = 0, **more: float) -> Entries:
    """A run as its metrics.jsonl has it, whose answers go from `start` to `end` with the noise of 128 completions."""
    rng = np.random.default_rng(seed)
    return [
        {
            "step": float(i + 1),
            "seconds": 0.4 * (i + 1),
            "reward": 1.2 + solves,
            SOLVES: solves,
            "rewards/equation_solves/std": 0.4,
            FORM: min(1.0, 0.83 + rng.normal(0, 0.03)),
            "rewards/think_answer_format/std": 0.37,
            "completions/mean_length": 27 + 33 * i / n + rng.normal(0, 3),
            "completions/clipped_ratio": 0.16 * i / n,
            "frac_reward_zero_std": abs(rng.normal(0.1, 0.05)),
            "entropy": 0.2 - 0.03 * i / n,
            "kl": 0.08 * i / n,
            **more,
        }
        for i in range(n)
        for solves in (min(1.0, max(0.0, start + (end - start) * i / n + rng.normal(0, 0.03))),)
    ]


def flat(n: int = 330) -> Entries:
    return run(n, start=0.13, end=0.13)


def drawn(axes: Axes, kind: str) -> list[matplotlib.lines.Line2D]:
    return [line for line in axes.lines if line.get_gid() == kind]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in seen_texts(figure)]


def seen_texts(figure: Figure) -> list[Text]:
    """All texts that are drawn; an axis also keeps labels of ticks beyond its limits."""
    figure.canvas.draw()
    beyond = set()
    for axes in figure.axes:
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            for tick in axis.get_major_ticks():
                if not low <= tick.get_loc() <= high:
                    beyond |= {tick.label1, tick.label2}
    found = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible() and text not in beyond]
    assert all(isinstance(text, Text) for text in found)
    return found  # type: ignore[return-value]


def box(text: Text) -> Bbox:
    return text.get_window_extent()


def assert_readable(figure: Figure) -> None:
    """No text touches another one or leaves the picture."""
    found = seen_texts(figure)
    assert len(found) > 4
    page = figure.bbox
    for text in found:
        b = box(text)
        inside = page.x0 <= b.x0 and b.x1 <= page.x1 and page.y0 <= b.y0 and b.y1 <= page.y1
        assert inside, f"{text.get_text()!r} leaves the picture: {b}"
    for one, other in combinations(found, 2):
        a, b = box(one), box(other)
        apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
        assert apart, f"{one.get_text()!r} and {other.get_text()!r} overlap"


def many_rewards(count: int, name: str) -> dict[str, float]:
    return {f"rewards/{name}_{i}/mean": 0.5 for i in range(count)}


CASES: dict[str, Callable[[], Figure]] = {
    "learned": lambda: run_figure(run(), title="a", held_out=LEARNED, limit=120, answer=SOLVES),
    "learned nothing": lambda: run_figure(flat(), title="a", held_out=UNCHANGED, limit=512, answer=SOLVES),
    "nothing held out": lambda: run_figure(run(), title="a"),
    "before alone": lambda: run_figure(run(40), title="a", held_out=LEARNED[:1], limit=120, total_steps=330),
    "one step": lambda: run_figure(run(1), title="a", held_out=LEARNED[:1], limit=40),
    "ten thousand steps": lambda: run_figure(run(10_000), title="a", held_out=LEARNED, limit=120, answer=SOLVES),
    "99999 steps": lambda: run_figure([{**entry, "step": 1e4 * entry["step"]} for entry in run(10)], title="a"),
    "all NaN": lambda: run_figure(
        [dict.fromkeys(entry, math.nan) | {"step": entry["step"]} for entry in run(9)], title="a", limit=9
    ),
    "six long names that are equal": lambda: run_figure(
        run(60, **many_rewards(6, "a_reward_function_with_a_name_beyond_measure")), title="a", held_out=LEARNED
    ),
    "fourteen rewards": lambda: run_figure(run(60, **many_rewards(14, "reward")), title="a", held_out=LEARNED),
    "another scale": lambda: run_figure(
        run(60, **{"rewards/correctness_reward_func_of_the_course/mean": 1.7}), title="a", held_out=LEARNED, limit=120
    ),
    "negative and large": lambda: run_figure(
        run(60, **{"rewards/a/mean": -1234.5, "rewards/b/mean": 98765.4}), title="a", held_out=LEARNED, answer=SOLVES
    ),
    "small numbers": lambda: run_figure(run(60, entropy=3e-7, kl=1e-9), title="a"),
    "large numbers": lambda: run_figure(
        run(60, **{"completions/mean_length": 12345.6, "entropy": 11.7, "kl": -0.5}), title="a", limit=16384
    ),
    "everything cut": lambda: run_figure(
        run(60, **{"completions/clipped_ratio": 1.0, "frac_reward_zero_std": 1.0, "completions/mean_length": 24.0}),
        title="a",
        limit=24,
    ),
    "a long title": lambda: run_figure(
        run(60), title=RunTitle(model="m" * 90, task="countdown", seed=42), held_out=LEARNED, total_steps=10**7
    ),
    "signs": lambda: run_figure(run(60, **{r"rewards/a$\frac_{b/mean": 0.2}), title="$x^$ \n two {lines}"),
    "seeds": lambda: comparison_figure(
        {"grpo": [run(), run(seed=1), run(seed=2)], "a longer name for dr_grpo": [flat(), flat()]},
        title="countdown",
        metrics=[SOLVES, "completions/mean_length", "frac_reward_zero_std"],
        over_time=True,
    ),
    "twelve runs": lambda: comparison_figure(
        {f"learning rate {i}e-4": [run(50 + 9 * i)] for i in range(12)},
        title="a",
        metrics=["reward", "completions/mean_length", "frac_reward_zero_std", "entropy"],
        over_time=False,
    ),
    "panels": lambda: grid_figure(
        run(),
        panels={"rewards": [SOLVES, FORM], "tokens": ["completions/mean_length"], "nothing " * 30: ["x", "y"]},
        title="gsm8k",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_no_text_overlaps_another_or_leaves_the_picture(case: str) -> None:
    assert_readable(CASES[case]())


def test_a_run_that_learned_shows_accuracy_before_and_after_with_its_intervals() -> None:
    figure = run_figure(run(), title="t", held_out=LEARNED, answer=SOLVES)
    hero = figure.axes[0]
    (sampled,), (greedy,) = drawn(hero, "sampled"), drawn(hero, "greedy")
    assert list(zip(*sampled.get_data(), strict=True)) == [(0, 0.13), (330, 0.62)]
    assert list(zip(*greedy.get_data(), strict=True)) == [(0, 0.32), (330, 0.72)]
    intervals = [(line.get_xdata()[0], *line.get_ydata()) for line in drawn(hero, "interval")]
    assert sorted(intervals) == [(0, 0.11, 0.15), (0, 0.28, 0.36), (330, 0.6, 0.64), (330, 0.68, 0.76)]
    assert "62 %  held-out, sampled" in words(figure) and "72 %  held-out, greedy" in words(figure)
    assert "held-out accuracy, sampled: 13 % → 62 % · 330 steps · 2.2 min" in words(figure)


def test_a_run_that_learned_nothing_looks_flat_and_says_so() -> None:
    figure = run_figure(flat(), title="t", held_out=UNCHANGED, answer=SOLVES)
    hero = figure.axes[0]
    assert hero.get_ylim()[0] <= 0 and hero.get_ylim()[1] >= 1
    (answer, _form) = sorted(drawn(hero, "line"), key=lambda line: -line.get_linewidth())
    assert np.ptp(answer.get_ydata()) < 0.05 * np.ptp(hero.get_ylim())
    assert any("13 % → 14 %, no change beyond noise" in text for text in words(figure))


def test_without_held_out_prompts_the_answers_reward_tells_what_changed() -> None:
    assert summary_line(run(), answer=SOLVES, in_percent=True).startswith("equation solves in training: 15 % → 65 %")
    assert "no change beyond noise" in summary_line(flat(), answer=SOLVES)
    assert "no change beyond noise" not in summary_line(run(), answer=SOLVES)
    assert summary_line(run(12), answer=SOLVES) == "12 steps · 5 s"  # too few to say anything
    assert summary_line(run(1)) == "1 step · 0 s"


def test_a_run_that_has_not_come_to_its_end_says_how_far_it_is() -> None:
    assert summary_line(run(12), total_steps=330) == "12 of 330 steps · 5 s"
    assert summary_line(run(12), total_steps=12) == "12 steps · 5 s"
    assert summary_line(run(12), total_steps=10_000) == "12 of 10,000 steps · 5 s"


def test_the_answers_reward_is_first_and_stands_out() -> None:
    hero = run_figure(run(), title="t", answer=FORM).axes[0]
    bold = [text for text in hero.texts if text.get_gid() == "end label" and text.get_fontweight() == "bold"]
    assert [text.get_text().split("  ")[1] for text in bold] == ["think answer format"]
    assert bold[0].get_color() == style.ANSWER
    widest = max(drawn(hero, "line"), key=lambda line: line.get_linewidth())
    assert widest.get_color() == style.ANSWER and np.mean(widest.get_ydata()) == pytest.approx(0.83, abs=0.01)


def test_a_label_has_the_colour_and_the_height_of_its_line() -> None:
    hero = run_figure(run(), title="t", held_out=LEARNED, answer=SOLVES).axes[0]
    labels = {text.get_text().split("  ")[1]: text for text in hero.texts if text.get_gid() == "end label"}
    for line in drawn(hero, "line"):
        name = {0.68: "equation solves", 0.83: "think answer format"}[
            min((0.68, 0.83), key=lambda y: abs(y - line.get_ydata()[-1]))
        ]
        assert labels[name].get_color() == line.get_color()
        wanted = hero.transAxes.inverted().transform(hero.transData.transform((0, line.get_ydata()[-1])))[1]
        assert abs(labels[name].get_position()[1] - wanted) < 0.12


def test_rewards_between_0_and_1_are_shown_in_per_cent_only_beside_a_share() -> None:
    def ticks(figure: Figure) -> list[str]:
        figure.canvas.draw()
        return [label.get_text() for label in figure.axes[0].get_yticklabels()]

    assert ticks(run_figure(run(), title="t", answer=SOLVES)) == ["0 %", "25 %", "50 %", "75 %", "100 %"]
    assert ticks(run_figure(run(), title="t", held_out=LEARNED))[-1] == "100 %"
    plain = run_figure(run(), title="t")
    assert "%" not in "".join(ticks(plain)) and plain.axes[0].get_ylim() == (0, 1)


def test_rewards_of_another_scale_have_an_axis_of_their_own_beside_accuracy() -> None:
    steps = run(**{"rewards/correct/mean": 1.5, "rewards/correct/std": 0.8})
    figure = run_figure(steps, title="t", held_out=LEARNED)
    (accuracy,) = [axes for axes in figure.axes if drawn(axes, "sampled")]
    (rewards,) = [axes for axes in figure.axes if len(drawn(axes, "line")) == 3]
    assert accuracy is not rewards
    assert accuracy.get_ylim() == pytest.approx((-0.02, 1.02))
    assert rewards.get_ylim()[0] <= 0 and rewards.get_ylim()[1] == pytest.approx((1.5 + 0.8) * 1.05)
    assert "62 %  sampled" in words(figure) and "1.50  correct" in words(figure)


def test_an_axis_of_rewards_is_as_wide_as_single_rewards_differ() -> None:
    noise = [{"step": float(i), "reward": 47.0 + i % 2, "reward_std": 20.0} for i in range(50)]
    assert reward_span([noise], ["reward"]) == pytest.approx((0.0, 68 * 1.05))
    negative = [{"step": float(i), "reward": -0.5, "reward_std": 0.25} for i in range(5)]
    assert reward_span([negative], ["reward"]) == pytest.approx((-0.75 * 1.05, 0.0))
    assert reward_span([[{"step": 1.0, "reward": 0.5}]], ["reward"]) == (0.0, 1.0)


def test_lengths_entropy_and_kl_are_drawn_from_zero_and_shares_from_0_to_100_per_cent() -> None:
    length, shares, entropy = run_figure(run(), title="t", limit=120).axes[1:]
    assert length.get_ylim() == (0, 150)
    assert shares.get_ylim() == pytest.approx((-0.02, 1.02))
    assert entropy.get_ylim()[0] == 0 and 0.2 < entropy.get_ylim()[1] < 0.26


def test_the_token_limit_is_a_line_where_it_is_near_and_named_where_it_is_far() -> None:
    near = run_figure(run(), title="t", limit=120).axes[1]
    assert [line.get_ydata()[0] for line in drawn(near, "limit")] == [120]
    assert "limit 120" in [text.get_text() for text in near.texts]
    far = run_figure(run(), title="t", limit=4096).axes[1]
    assert not drawn(far, "limit") and far.get_ylim()[1] < 120
    assert "↑ limit 4096" in [text.get_text() for text in far.texts]


def test_a_metric_without_a_number_leaves_an_empty_panel_that_says_so() -> None:
    figure = run_figure(run(30, **{"entropy": math.nan, "kl": math.inf}), title="t")
    assert not figure.axes[3].lines and "no values" in words(figure)
    assert not any("no values" in text.get_text() for text in figure.axes[2].texts)
    some = [{**entry, "entropy": math.nan if entry["step"] % 2 else 0.25} for entry in run(30)]
    (raw,) = [line for line in drawn(run_figure(some, title="t").axes[3], "raw") if line.get_ydata()[0] == 0.25]
    assert len(raw.get_xdata()) == 15


def test_kl_shares_the_panel_of_entropy_where_there_is_one() -> None:
    without = [{key: value for key, value in entry.items() if key != "kl"} for entry in run(30)]
    headings = [text.get_text() for text in run_figure(without, title="t").axes[3].texts]
    assert "Entropy" in headings and "KL" not in headings
    assert "KL" in [text.get_text() for text in run_figure(run(30), title="t").axes[3].texts]


def test_rewards_for_which_there_is_no_room_are_counted() -> None:
    figure = run_figure(run(30, **many_rewards(14, "reward")), title="t", answer=SOLVES)
    assert len(drawn(figure.axes[0], "line")) == 12
    assert "4 more not shown" in words(figure) and any("equation solves" in text for text in words(figure))


def test_ten_thousand_steps_become_few_points_and_no_spike_is_lost() -> None:
    ys = np.zeros(10_000)
    ys[[17, 5_003]] = 9.0, -4.0
    few = thinned(Series(xs=np.arange(10_000.0), ys=ys))
    assert len(few) <= 600 and list(few.xs) == sorted(few.xs)
    assert few.ys[list(few.xs).index(17)] == 9 and few.ys[list(few.xs).index(5_003)] == -4
    hero = run_figure(run(10_000), title="t").axes[0]
    assert max(len(line.get_xdata()) for line in hero.lines) <= 600


def test_a_running_mean_looks_to_both_sides_and_keeps_the_ends() -> None:
    series = Series(xs=np.arange(5.0), ys=np.array([1.0, 3.0, 5.0, 7.0, 18.0]))
    assert series.smoothed(3).ys.tolist() == [2.0, 3.0, 5.0, 10.0, 12.5]
    assert series.smoothed().ys.tolist() == series.ys.tolist()  # of so few steps nothing is to be smoothed
    assert len(series_of([], "reward").smoothed()) == 0


def test_labels_are_moved_apart_no_further_than_they_must_be() -> None:
    assert spread([5.0, 1.0], 2.0, 0.0, 10.0) == [5.0, 1.0]
    assert spread([5.0, 5.0, 5.0], 2.0, 0.0, 10.0) == [3.0, 5.0, 7.0]
    assert spread([9.9, 9.8], 2.0, 0.0, 10.0) == [10.0, 8.0]
    assert spread([0.0, 1.0, 3.0], 2.0, 0.0, 10.0) == [0.0, 2.0, 4.0]


def test_ticks_are_round_and_few() -> None:
    assert round_ticks(1, most=7, whole=True) == [0, 1]
    assert round_ticks(330, most=7, whole=True) == [0, 50, 100, 150, 200, 250, 300]
    assert round_ticks(10_000, most=2, whole=True) == [0, 5_000, 10_000]
    assert round_ticks(0.4, most=2, whole=False) == pytest.approx([0, 0.2, 0.4])


def test_a_change_is_noise_while_the_interval_of_the_difference_holds_zero() -> None:
    """Newcombe's own example, 56 of 70 and 48 of 80: the difference of 0.2 lies between 0.0524 and 0.3339."""
    many, few = Share(value=0.8, low=0.6918, high=0.8769), Share(value=0.6, low=0.4904, high=0.7003)
    assert math.hypot(0.8 - 0.6918, 0.7003 - 0.6) == pytest.approx(0.2 - 0.0524, abs=1e-3)
    assert is_beyond_noise(few, many) is True and is_beyond_noise(many, few) is True
    near = Share(value=0.74, low=0.63, high=0.83)  # 0.14 away, and sqrt(0.11² + 0.1003²) is 0.149
    assert is_beyond_noise(few, near) is False
    assert is_beyond_noise(Share(value=0.1), Share(value=0.9)) is None


def test_seeds_have_their_mean_and_range_and_one_that_stopped_early_does_not_end_them() -> None:
    def line(*ys: float) -> Series:
        return Series(xs=np.arange(float(len(ys))), ys=np.array(ys))

    found = mean_and_range([line(0, 1, 2, 3), line(2, 3, 4, 5), line(1, 8)])
    assert found is not None
    mean, low, high = found
    assert (mean.xs[0], mean.xs[-1]) == (0, 3)
    assert (mean.ys[0], low[0], high[0]) == (1, 0, 2)
    assert (mean.ys[-1], low[-1], high[-1]) == (4, 3, 5)
    assert mean_and_range([line(1.0)]) is None


def test_a_comparison_draws_each_seed_thin_their_mean_and_their_range() -> None:
    runs = {"grpo": [run(), run(seed=1), run(seed=2)], "flat": [flat()]}
    figure = comparison_figure(runs, title="t", metrics=[SOLVES, "completions/mean_length"], over_time=True)
    hero, over_time, length = figure.axes
    assert len(drawn(hero, "run")) == 3 and len(drawn(hero, "line")) == 2 and len(drawn(hero, "raw")) == 1
    assert [patch.get_gid() for patch in hero.collections] == ["range"]
    assert any(text.endswith("grpo, 3 seeds") for text in words(figure)) and "Length" in words(figure)
    assert hero.get_ylim() == over_time.get_ylim() == pytest.approx((-0.02, 1.02))
    assert over_time.get_xlim()[1] == pytest.approx(1.015 * 330 * 0.4 / 60)
    assert length.get_ylim()[0] == 0


@pytest.mark.parametrize("colour", [*style.COLOURS, style.HELD_OUT, style.INK, style.GREY])
def test_every_colour_can_be_read_as_text(colour: str) -> None:
    """At least 4.5 : 1 against the background, as WCAG 2 asks for."""

    def luminance(name: str) -> float:
        rgb = np.array(matplotlib.colors.to_rgb(name))
        linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    assert (luminance(style.PAPER) + 0.05) / (luminance(colour) + 0.05) >= 4.5


def test_what_a_notebook_has_set_for_its_own_plots_neither_shows_nor_changes() -> None:
    with matplotlib.rc_context(
        {"text.usetex": True, "lines.marker": "x", "axes.facecolor": "black", "font.size": 40}
    ):
        before = dict(matplotlib.rcParams)
        figure = run_figure(run(30), title="t")
        assert_readable(figure)
        assert dict(matplotlib.rcParams) == before
    assert {line.get_marker() for line in figure.axes[0].lines} <= {"none", "None", ""}


def test_texts_stay_english_where_no_font_has_the_other_languages_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    chinese = {"Length": "长度", "{n} more not shown": "还有 {n} 个", "tokens": "token 数"}
    monkeypatch.setattr(texts, "_translated", lambda text: chinese.get(text, text))
    monkeypatch.setattr(style, "cjk_font", lambda: None)
    assert texts._("Length") == "Length" and texts._("{n} more not shown", n=3) == "3 more not shown"
    assert "tokens" in words(run_figure(run(9), title="t"))
    monkeypatch.setattr(style, "cjk_font", lambda: "DejaVu Sans")
    assert texts._("Length") == "长度" and texts._("{n} more not shown", n=3) == "还有 3 个"


def test_a_character_that_no_font_has_costs_no_warning(tmp_path: Path) -> None:
    assert draw_run(run(9), tmp_path / "a.png", title="模型 · 任务").exists()


def test_a_picture_is_opaque_and_twice_as_wide_as_a_column(tmp_path: Path) -> None:
    path = draw_run(run(30), tmp_path / "new" / "folder" / "a.png", title="t")
    pixels = matplotlib.image.imread(path)
    assert pixels.shape[1] == 2 * 830
    assert pixels[5:-5, 5:-5, 3].min() == 1.0
    assert pixels[8, 8, :3] == pytest.approx(matplotlib.colors.to_rgb(style.PAPER), abs=0.01)


def test_a_drawing_that_fails_leaves_the_picture_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = draw_run(run(9), tmp_path / "a.png", title="t")
    before = path.read_bytes()

    def half(self: Figure, file: Path, **_options: object) -> None:
        Path(file).write_bytes(b"half a picture")
        raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="no space left"):
        draw_run(run(30), path, title="t")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_picture_takes_the_place_of_the_one_before_in_one_go(tmp_path: Path) -> None:
    """A file that was written into would have changed under its second name too."""
    path, second = draw_run(run(9), tmp_path / "a.png", title="t"), tmp_path / "second.png"
    second.hardlink_to(path)
    before = second.read_bytes()
    draw_run(run(30), path, title="t")
    assert second.read_bytes() == before != path.read_bytes()


def test_what_cannot_be_drawn_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(DataError, match="no steps to draw"):
        draw_run([], path, title="t")
    with pytest.raises(DataError, match="did you mean 'equation_solves'"):
        draw_run(run(9), path, title="t", answer_reward="equation_solve")
    for empty in ({}, {"a": []}):
        with pytest.raises(DataError, match="no runs to compare"):
            draw_comparison(empty, path)
    with pytest.raises(DataError, match="no steps to draw"):
        draw_comparison({"a": [run(9)], "b": [[]]}, path)
    with pytest.raises(DataError, match="no run has any of the metrics rewards"):
        draw_comparison({"a": [run(9)]}, path, metrics=["rewards"])
    for panels in ({}, {"a": []}):
        with pytest.raises(DataError, match="no panels to draw"):
            draw_curves(run(9), path, panels=panels)
    assert not path.exists()


@pytest.mark.parametrize("name", ["equation_solves", SOLVES])
def test_the_answers_reward_is_known_by_its_function_or_by_its_metric(name: str, tmp_path: Path) -> None:
    assert draw_run(run(9), tmp_path / "a.png", title="t", answer_reward=name).exists()


def test_metrics_that_some_runs_lack_are_compared_where_they_are(tmp_path: Path) -> None:
    runs: Mapping[str, Sequence[Entries]] = {"a": [run(30)], "b": [[{"step": 1.0, "reward": 0.5}]]}
    assert draw_comparison(runs, tmp_path / "a.png", metrics=["reward", "nowhere", "entropy"]).exists()
