"""Observers: what is printed, kept and drawn."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from dunwu.core.protocols import Observer
from dunwu.core.records import Completion, StepResult
from dunwu.observers import Console, MetricsLog, RolloutLog, draw_curves
from dunwu.observers.plots import running_mean


def step(index: int, groups: Any = (), **metrics: float) -> StepResult:
    return StepResult(index=index, groups=tuple(groups), metrics={"reward": index / 10, **metrics})


def test_every_observer_fits_the_protocol(tmp_path: Path) -> None:
    for observer in (Console(3), MetricsLog(), RolloutLog(tmp_path / "r.jsonl")):
        assert isinstance(observer, Observer)


def test_the_console_prints_the_first_every_nth_and_the_last_step() -> None:
    out = io.StringIO()
    console = Console(7, every=3, stream=out)
    for index in range(1, 8):
        console.on_step(step(index, **{"rewards/equation/mean": 0.25, "step_time": 0.5}))
    lines = out.getvalue().splitlines()
    assert lines[0].split()[:3] == ["step", "reward", "dead"]
    assert [line.split()[0] for line in lines[1:]] == ["1/7", "3/7", "6/7", "7/7"]
    assert "equation 0.25" in lines[1] and lines[-1].split()[7] == "0:00"


def test_the_history_is_in_memory_and_in_a_file_and_makes_no_folder_before_the_first_step(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    history = MetricsLog(path)
    assert not path.parent.exists()
    history.on_step(step(1, entropy=0.5))
    history.on_step(step(2))
    assert history.column("reward") == [0.1, 0.2] and history.column("entropy") == [0.5]
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_run_that_starts_anew_replaces_the_file_and_one_that_resumes_cuts_it_back(tmp_path: Path) -> None:
    """A resumed run makes the steps after its checkpoint again: kept twice, every plot would fold back on itself."""
    path = tmp_path / "metrics.jsonl"
    first = MetricsLog(path)
    for index in (1, 2, 3):
        first.on_step(step(index))
    with path.open("a") as out:
        out.write('{"step": 4, "rewa')  # a kill in the middle of a write
    resumed = MetricsLog(path, after=2)
    assert resumed.column("step") == [1, 2]
    resumed.on_step(step(3, entropy=1.0))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
    anew = MetricsLog(path)
    anew.on_step(step(1))
    assert len(path.read_text().splitlines()) == 1


def test_every_rollout_is_written_as_it_was_said(tmp_path: Path, tiny: Any) -> None:
    completion = Completion(ids=(5, 6, 1), sampler_logps=(-0.1, -0.2, -0.3), finish_reason="stop", text="顿悟")
    group = tiny.group(tiny.prompts("say one")[0], [completion, completion], [0.5, -0.5])
    log = RolloutLog(tmp_path / "rollouts.jsonl")
    log.on_step(step(3, [group]))
    lines = (tmp_path / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    assert "顿悟" in lines[0]
    second = json.loads(lines[1])
    assert (second["step"], second["sample"], second["tokens"], second["reward"], second["advantage"]) == (
        3,
        1,
        3,
        -0.5,
        -0.5,
    )
    assert second["prompt"] == "say one" and second["finish"] == "stop" and second["scores"] == {"given": -0.5}


def test_curves_become_a_picture(tmp_path: Path) -> None:
    steps = [{"step": float(i), "reward": i / 20, "entropy": 1 - i / 20} for i in range(20)]
    path = draw_curves(steps, tmp_path / "new" / "curves.png", panels={"reward": ["reward"], "entropy": ["entropy"]})
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 5_000
    with pytest.raises(ValueError, match="no steps to draw"):
        draw_curves([], tmp_path / "x.png", panels={"reward": ["reward"]})


def test_a_running_mean_looks_back_only() -> None:
    assert running_mean([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]
