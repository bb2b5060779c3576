"""Observers: what is printed, kept and drawn, and what is left of it when a run resumes."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from dunwu.core.protocols import Observer
from dunwu.core.records import Completion, RunInfo, StepResult
from dunwu.observers import OBSERVERS, Console, MetricsLog, PrintedCompletions, RolloutLog, draw_curves
from dunwu.observers.jsonl import JsonlFile


def step(index: int, groups: Any = (), **metrics: float) -> StepResult:
    return StepResult(index=index, groups=tuple(groups), metrics={"reward": index / 10, **metrics})


def run(folder: Path | str = ".", *, total: int = 7, resumed_from: int = 0, **config: Any) -> RunInfo:
    return RunInfo(folder=str(folder), total_steps=total, resumed_from=resumed_from, config=config)


def steps_in(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


@pytest.fixture
def group(tiny: Any) -> Any:
    said = Completion(ids=(5, 6, 1), sampler_logps=(-0.1, -0.2, -0.3), finish_reason="stop", text="顿悟")
    return tiny.group(tiny.prompts("say one")[0], [said, said], [0.5, -0.5])


def test_every_built_in_observer_is_an_observer() -> None:
    for make in OBSERVERS.values():
        assert isinstance(make(), Observer)


def test_the_console_prints_the_first_every_nth_and_the_last_step() -> None:
    out = io.StringIO()
    console = Console(every=3, stream=out)
    console.on_run_start(run(total=7))
    for index in range(1, 8):
        console.on_step(step(index, **{"rewards/equation/mean": 0.25}))
    legend, head, *lines = out.getvalue().splitlines()
    assert "dead: groups of equal rewards" in legend
    columns = ["step", "reward", "equation", "tokens", "cut", "dead", "entropy", "s/step", "time", "left"]
    assert head.split() == columns
    assert [line.split()[0] for line in lines] == ["1/7", "3/7", "6/7", "7/7"]
    assert lines[0].split()[2] == "0.25" and lines[-1].split()[-1] == "0:00"


def test_before_the_first_step_the_console_says_how_long_the_run_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("dunwu.observers.console.monotonic", lambda: now)
    out = io.StringIO()
    console = Console(stream=out)
    console.on_run_start(run(total=100, resumed_from=40))
    now += 2.0
    for index in (41, 42):
        console.on_rollouts(index, ())
    assert out.getvalue() == "60 steps: about 2 to 8 minutes, going by the first completions (2.0 s)\n"


def test_the_console_marks_a_majority_of_dead_groups_and_of_cut_completions() -> None:
    out = io.StringIO()
    console = Console(every=1, stream=out)
    console.on_run_start(run(total=3))
    for index, (dead, cut) in enumerate([(0.5, 0.5), (0.51, 0.1), (0.1, 1.0)], start=1):
        console.on_step(step(index, **{"frac_reward_zero_std": dead, "completions/clipped_ratio": cut}))
    shares = [[word for word in line.split() if "%" in word] for line in out.getvalue().splitlines()[2:]]
    assert shares == [["50%", "50%"], ["10%", "51%!"], ["100%!", "10%"]]


def test_the_console_estimates_the_time_left_from_the_recent_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("dunwu.observers.console.monotonic", lambda: now)
    out = io.StringIO()
    console = Console(every=20, stream=out)
    console.on_run_start(run(total=40))
    for index in range(1, 21):
        now += 60.0 if index == 1 else 2.0  # the first step compiles
        console.on_step(step(index, **{"completions/mean_length": 30.0}))
    line = out.getvalue().splitlines()[-1].split()
    assert line[0] == "20/40" and line[-3:] == ["2.00", "1:38", "0:40"]


def test_the_console_prints_an_evaluation() -> None:
    out = io.StringIO()
    Console(stream=out).on_evaluation(
        4, {"eval_reward": 0.5, "eval_rewards/right/mean": 0.25, "eval_rewards/right/std": 0.1, "eval_kl": 1.0}, ()
    )
    assert out.getvalue() == "evaluation after step 4: reward 0.500 · right 0.250\n"


def test_metrics_are_in_memory_and_in_a_file_and_no_folder_is_made_before_the_first_step(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    log = MetricsLog(path)
    log.on_run_start(run(tmp_path))
    assert not path.parent.exists()
    log.on_step(step(1, entropy=0.5))
    log.on_step(step(2))
    assert log.column("reward") == [0.1, 0.2] and log.column("entropy") == [0.5]
    assert steps_in(path) == [1, 2]


def test_metrics_and_rollouts_lie_in_the_runs_folder_where_no_path_is_given(tmp_path: Path, group: Any) -> None:
    metrics, rollouts = MetricsLog(), RolloutLog()
    for log in (metrics, rollouts):
        log.on_run_start(run(tmp_path / "out"))
    metrics.on_step(step(1))
    rollouts.on_rollouts(1, [group])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics.jsonl", "rollouts.jsonl"]


def test_a_run_that_starts_anew_replaces_the_file_and_one_that_resumes_continues_it(tmp_path: Path) -> None:
    """A resumed run makes the steps after its checkpoint again: kept twice, every plot would fold back on itself."""
    path = tmp_path / "metrics.jsonl"
    first = MetricsLog(path)
    first.on_run_start(run())
    for index in (1, 2, 3):
        first.on_step(step(index))
    seconds = first.steps[1]["seconds"]
    with path.open("a") as out:
        out.write('{"step": 4, "rewa')  # a kill in the middle of a write
    resumed = MetricsLog(path)
    resumed.on_run_start(run(resumed_from=2))
    assert resumed.column("step") == [1, 2]
    resumed.on_step(step(3, entropy=1.0))
    assert steps_in(path) == [1, 2, 3]
    assert resumed.steps[-1]["seconds"] >= seconds, "seconds go on where the checkpoint was"
    anew = MetricsLog(path)
    anew.on_run_start(run())
    anew.on_step(step(1))
    assert steps_in(path) == [1] and anew.column("step") == [1]


def test_rollouts_are_kept_up_to_the_checkpoint_that_a_run_resumes_from(tmp_path: Path, group: Any) -> None:
    """Given to a trainer as `RolloutLog(path)`, without a word about the resume."""
    path = tmp_path / "rollouts.jsonl"
    log = RolloutLog(path)
    log.on_run_start(run())
    for index in (1, 2, 3, 4, 5):
        log.on_rollouts(index, [group])
    log.on_evaluation(4, {}, [group])
    log.on_evaluation(5, {}, [group])
    resumed = RolloutLog(path)
    resumed.on_run_start(run(resumed_from=4))
    for index in (5, 6):
        resumed.on_rollouts(index, [group])
    resumed.on_evaluation(6, {}, [group])
    assert steps_in(path) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert steps_in(tmp_path / "rollouts_eval.jsonl") == [4, 4, 6, 6]


def test_rollouts_that_are_trained_on_twice_are_written_once(tmp_path: Path, group: Any) -> None:
    log = RolloutLog(tmp_path / "rollouts.jsonl")
    log.on_run_start(run())
    log.on_rollouts(1, [group])
    for index in (1, 2):
        log.on_step(step(index, [group]))
    assert steps_in(tmp_path / "rollouts.jsonl") == [1, 1]


def test_a_rollout_is_written_with_everything_that_is_known_of_it(tmp_path: Path, group: Any) -> None:
    log = RolloutLog(tmp_path / "rollouts.jsonl")
    log.on_rollouts(3, [group])
    lines = (tmp_path / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    assert "顿悟" in lines[0]
    assert json.loads(lines[1]) == {
        "step": 3,
        "row": 0,
        "sample": 1,
        "prompt": "say one",
        "completion": "顿悟",
        "messages": None,
        "tokens": 3,
        "finish_reason": "stop",
        "reward": -0.5,
        "scores": {"given": -0.5},
        "extras": {},
        "advantage": -0.5,
    }


def test_a_line_separator_inside_a_completion_is_no_end_of_a_line(tmp_path: Path) -> None:
    """`str.splitlines` also splits at these: such a rollout was lost at every resume."""
    path = tmp_path / "rollouts.jsonl"
    text = "one\u2028two\u0085three\x0bfour"
    JsonlFile(path).write([{"step": 1, "completion": text}, {"step": 2, "completion": "x"}])
    assert JsonlFile(path, keep_until=1).read_kept() == [{"step": 1, "completion": text}]


def test_half_a_character_at_the_end_of_a_file_does_not_stop_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    JsonlFile(path).write([{"step": 1, "completion": "顿悟"}])
    with path.open("ab") as out:
        out.write('{"step": 1, "completion": "顿'.encode()[:-1])
    resumed = JsonlFile(path, keep_until=1)
    resumed.write([{"step": 2, "completion": "\ud83d alone"}])
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [
        {"step": 1, "completion": "顿悟"},
        {"step": 2, "completion": "\ud83d alone"},
    ]


def test_a_kill_while_a_resumed_file_is_cut_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rollouts.jsonl"
    JsonlFile(path).write([{"step": 1}, {"step": 2}, {"step": 3}])
    before = path.read_bytes()

    class Killed(BaseException):
        pass

    def kill(*paths: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", kill)
        with pytest.raises(Killed):
            JsonlFile(path, keep_until=2).write([{"step": 3}])
    assert path.read_bytes() == before
    JsonlFile(path, keep_until=2).write([{"step": 3}])
    assert steps_in(path) == [1, 2, 3] and sorted(tmp_path.iterdir()) == [path]


def test_completions_are_printed_as_often_as_the_run_logs_and_as_many_as_the_option_asks(
    caplog: pytest.LogCaptureFixture, group: Any
) -> None:
    caplog.set_level("INFO", "dunwu")
    printed = PrintedCompletions()
    printed.on_run_start(run(total=10, num_completions_to_print=1, logging_steps=0.2))
    for index in range(1, 5):
        printed.on_step(step(index, [group]))
    assert [record.getMessage() for record in caplog.records] == [
        "prompt: say one\ncompletion (3 tokens, stop): 顿悟\nreward 0.5 (given 0.5), advantage +0.500"
    ] * 2
    caplog.clear()
    PrintedCompletions(2, every=1).on_step(step(1, [group]))
    assert caplog.text.count("completion (3 tokens") == 2 and "\n---\n" in caplog.text


def test_control_characters_of_a_completion_do_not_reach_the_terminal(
    caplog: pytest.LogCaptureFixture, tiny: Any
) -> None:
    caplog.set_level("INFO", "dunwu")
    said = Completion(ids=(5,), sampler_logps=(0.0,), finish_reason="stop", text="a\x1b[2Jb\tc\nd\x07\x9b")
    PrintedCompletions(1).on_step(step(1, [tiny.group(tiny.prompts("p")[0], [said], [1.0])]))
    assert r"a\x1b[2Jb" + "\tc\n" + r"d\x07\x9b" in caplog.text


def test_curves_become_a_picture(tmp_path: Path) -> None:
    steps = [{"step": float(i), "reward": i / 20, "entropy": 1 - i / 20} for i in range(20)]
    path = draw_curves(steps, tmp_path / "new" / "curves.png", panels={"reward": ["reward"], "entropy": ["entropy"]})
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 5_000
    with pytest.raises(ValueError, match="no steps to draw"):
        draw_curves([], tmp_path / "x.png", panels={"reward": ["reward"]})
