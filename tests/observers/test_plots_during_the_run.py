"""`CurvePlot`: when it draws, what a resumed run's picture has, and that no picture is worth a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dunwu.core.protocols import Observer
from dunwu.core.records import RunInfo, StepResult
from dunwu.observers import CurvePlot, HeldOut, MetricsLog, Share, curve_plot, resolve_observer

METRICS = {"reward": 0.5, "rewards/right/mean": 0.5, "entropy": 0.2}


def info(folder: Path, *, total: int = 9, resumed_from: int = 0, **config: Any) -> RunInfo:
    return RunInfo(folder=str(folder), total_steps=total, resumed_from=resumed_from, config=config)


def step(index: int, **metrics: float) -> StepResult:
    return StepResult(index=index, groups=(), metrics={**METRICS, **metrics})


class Drawings:
    """Stands in for the drawing and the clock: a drawing takes `seconds`, and is kept as its arguments."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now = seconds, 1000.0
        self.made: list[dict[str, Any]] = []

    def draw(self, steps: Any, path: Path, **options: Any) -> Path:
        self.now += self.seconds
        self.made.append({"steps": [entry["step"] for entry in steps], "path": path, **options})
        return path


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Drawings]:
    def make(seconds: float) -> Drawings:
        made = Drawings(seconds)
        monkeypatch.setattr(curve_plot, "draw_run", made.draw)
        monkeypatch.setattr(curve_plot, "monotonic", lambda: made.now)
        return made

    return make


def run_for(plot: CurvePlot, clock: Drawings, seconds: int, folder: Path) -> None:
    """A run with a step a second."""
    plot.on_run_start(info(folder, total=seconds))
    for index in range(1, seconds + 1):
        clock.now += 1.0
        plot.on_step(step(index))


def test_it_draws_every_few_seconds_and_at_the_end(tmp_path: Path, drawings: Callable[[float], Drawings]) -> None:
    clock = drawings(0.0)
    plot = CurvePlot(every=10)
    run_for(plot, clock, 35, tmp_path)
    assert [one["steps"][-1] for one in clock.made] == [10, 20, 30]
    plot.on_run_end()
    assert [one["steps"][-1] for one in clock.made] == [10, 20, 30, 35]
    plot.on_run_end()  # nothing new
    assert len(clock.made) == 4


def test_drawing_takes_no_more_than_a_hundredth_of_the_run(
    tmp_path: Path, drawings: Callable[[float], Drawings]
) -> None:
    clock = drawings(0.5)
    began = clock.now
    run_for(CurvePlot(every=10), clock, 1000, tmp_path)
    assert 10 <= len(clock.made) <= 20
    assert len(clock.made) * clock.seconds <= 0.0101 * (clock.now - began)


def test_the_picture_is_of_the_runs_own_options(tmp_path: Path, drawings: Callable[[float], Drawings]) -> None:
    clock = drawings(0.0)
    plot = CurvePlot(answer_reward="right", every=1)
    plot.on_run_start(info(tmp_path / "quick", total=3, seed=7, max_completion_length=120))
    clock.now += 1
    plot.on_step(step(1))
    (made,) = clock.made
    assert (str(made["title"]), made["limit"], made["total_steps"]) == ("quick · seed 7", 120, 3)
    assert (made["answer_reward"], made["path"]) == ("right", tmp_path / "quick" / "curves.png")


def test_evaluations_may_come_later(tmp_path: Path, drawings: Callable[[float], Drawings]) -> None:
    clock = drawings(0.0)
    plot = CurvePlot(tmp_path / "mine.png", title="t", limit=9)
    assert plot.draw() is None  # nothing has run
    run_for(plot, clock, 2, tmp_path)
    plot.held_out.append(HeldOut(step=2, sampled=Share(value=0.5)))
    assert plot.draw() == tmp_path / "mine.png"
    assert [one.step for one in clock.made[-1]["held_out"]] == [2]


@pytest.mark.parametrize("has_log", [False, True])
def test_a_resumed_runs_picture_has_the_steps_before(
    has_log: bool, tmp_path: Path, drawings: Callable[[float], Drawings]
) -> None:
    lines = [{"step": float(i), "seconds": 10.0 * i, **METRICS} for i in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    clock = drawings(0.0)
    log = MetricsLog() if has_log else None
    plot = CurvePlot(metrics=log)
    observers: list[Observer] = [plot, *([log] if log else [])]
    for observer in observers:
        observer.on_run_start(info(tmp_path, resumed_from=2))  # step 3 is made again
    clock.now += 4
    for observer in observers:
        observer.on_step(step(3))
    plot.on_run_end()
    assert clock.made[-1]["steps"] == [1, 2, 3]
    if not has_log:
        assert [entry["seconds"] for entry in plot.steps] == [10, 20, 24]


def test_a_run_that_starts_anew_draws_its_own_steps_alone(
    tmp_path: Path, drawings: Callable[[float], Drawings]
) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1.0, "seconds": 5.0}) + "\n")
    clock = drawings(0.0)
    plot = CurvePlot()
    for _ in range(2):  # and a second run with the same observer
        run_for(plot, clock, 2, tmp_path)
        plot.on_run_end()
        assert clock.made[-1]["steps"] == [1, 2]


def test_a_drawing_that_fails_costs_one_warning_and_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    number = iter(range(9))

    def fail(*_args: Any, **_options: Any) -> Path:
        raise RuntimeError(f"no font {next(number)}")

    monkeypatch.setattr(curve_plot, "draw_run", fail)
    plot = CurvePlot(every=0)
    plot.on_run_start(info(tmp_path))
    for index in (1, 2, 3):
        plot.on_step(step(index))
        plot.draw()
    plot.on_run_end()
    assert next(number) > 2
    assert [record.getMessage() for record in caplog.records] == [
        "the run's picture cannot be drawn (RuntimeError: no font 0); it goes on"
    ]


def test_ctrl_c_while_drawing_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_args: Any, **_options: Any) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(curve_plot, "draw_run", stop)
    plot = CurvePlot()
    plot.on_run_start(info(tmp_path))
    plot.on_step(step(1))
    with pytest.raises(KeyboardInterrupt):
        plot.draw()


class StopsAtTwo(Observer):
    """Ctrl-C after the second step."""

    def on_step(self, step: StepResult) -> None:
        if step.index == 2:
            raise KeyboardInterrupt


def test_a_run_that_is_interrupted_leaves_a_picture(make_trainer: Callable[..., Any], tmp_path: Path) -> None:
    trainer = make_trainer(max_steps=3, extras={"observers": [resolve_observer("curve_plot"), StopsAtTwo()]})
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    picture = tmp_path / "run" / "curves.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [path.name for path in picture.parent.glob("curves*")] == ["curves.png"]
