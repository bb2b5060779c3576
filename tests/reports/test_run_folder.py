"""A run's folder read back, and everything that is not one."""

import json
from pathlib import Path

import pytest

from dunwu.core.proportion import Proportion, mean_proportion
from dunwu.errors import CheckpointError, ConfigError
from dunwu.reports.run_folder import holds_a_run, next_free_folder, open_run
from dunwu.reports.run_record import Session, new_record, read_record, write_record


def made(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


def test_a_missing_run_names_the_nearest_one_beside_it(tmp_path: Path) -> None:
    made(tmp_path / "runs" / "quickstart", recipe__yaml="model: embedded\n")
    with pytest.raises(ConfigError, match=r"no run '.*runs/quickstrat'; did you mean '.*runs/quickstart'\?"):
        open_run(tmp_path / "runs" / "quickstrat")
    with pytest.raises(ConfigError, match=r"there is no folder '.*elsewhere', so no run"):
        open_run(tmp_path / "elsewhere" / "x")


def test_a_folder_without_a_run_says_what_a_run_has_and_which_runs_are_in_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no run: a run's folder has a recipe.yaml$"):
        open_run(made(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="holds a model but no run"):
        open_run(made(tmp_path / "model", config__json="{}"))
    made(tmp_path / "sweep" / "a", recipe__yaml="x: 1\n")
    with pytest.raises(ConfigError, match=r"there are runs in it: .*sweep/a$"):
        open_run(tmp_path / "sweep")
    with pytest.raises(ConfigError, match="is a file; a run is a folder"):
        open_run(made(tmp_path / "f", x__txt="") / "x.txt")


def test_half_a_run_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    run = open_run(made(tmp_path / "run", metrics__jsonl='{"step": 1, "reward": 0.5}\n{"step": 2, "rew'))
    assert run.steps == [{"step": 1, "reward": 0.5}]
    assert (run.summary, run.record, run.outcome, run.has_model) == ({}, None, "running", False)
    assert list(run.rollouts()) == [] and list(run.evaluated("before")) == []
    with pytest.raises(ConfigError, match=r"has no recipe.yaml, so what was trained there is not known"):
        _ = run.recipe


def test_a_run_of_a_later_version_is_refused_with_that_version(tmp_path: Path) -> None:
    record = json.dumps({"format": 99, "versions": {"dunwu": "9.1"}})
    with pytest.raises(CheckpointError, match=r"written by Dunwu 9.1 in format 99, and this version reads up to 1"):
        open_run(made(tmp_path / "run", recipe__yaml="x: 1\n", run__json=record))
    with pytest.raises(CheckpointError, match=r"run.json cannot be read"):
        open_run(made(tmp_path / "torn", recipe__yaml="x: 1\n", run__json='{"format'))


def test_a_record_comes_back_as_it_was_written_and_unknown_keys_are_passed_over(tmp_path: Path) -> None:
    record = new_record(processes=2).with_new(Session(started="2026-11-21T18:00:00+00:00"))
    record = record.with_last(to_step=7, seconds=3.5, ended="interrupted", changed={"train.max_steps": (5, 9)})
    write_record(tmp_path, record)
    content = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    (tmp_path / "run.json").write_text(json.dumps(content | {"later": 1}), encoding="utf-8")
    read = read_record(tmp_path)
    assert read is not None and read.outcome == "interrupted" and read.processes == 2
    assert read.sessions[0].to_step == 7 and read.sessions[0].changed == {"train.max_steps": [5, 9]}
    assert read.versions["dunwu"] and read.machine


def test_the_next_free_name_is_the_first_that_holds_no_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert next_free_folder(folder) == folder
    made(folder, notes__txt="mine")
    assert not holds_a_run(folder) and next_free_folder(folder) == folder
    (folder / "checkpoint-5").mkdir()
    made(tmp_path / "run-2", metrics__jsonl="")
    assert next_free_folder(folder) == tmp_path / "run-3"
    assert next_free_folder(tmp_path / "run-2") == tmp_path / "run-3", "not run-2-2"
    assert next_free_folder(tmp_path / "new-7") == tmp_path / "new-7"


def test_an_interval_is_wilsons() -> None:
    """By hand: z = 1.96, 0 of 8: (0 + z²/8)/(1 + z²/8) = 0.3244; 5 of 10: 0.5 ± 0.2634."""
    none = Proportion(value=0.0, count=8)
    assert (none.low, none.high) == (0.0, pytest.approx(0.3244, abs=1e-4))
    half = Proportion(value=0.5, count=10)
    assert (half.low, half.high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    every = Proportion(value=1.0, count=8)
    assert (every.low, every.high) == (pytest.approx(1 - 0.3244, abs=1e-4), 1.0)
    assert str(none) == "0.0 % [0.0, 32.4]"


def test_samples_of_one_prompt_count_as_what_they_are_worth() -> None:
    """Four samples each: prompts that always agree with themselves are worth 10 answers, not 40."""
    agreeing = mean_proportion([1.0, 0.0] * 5, samples=4)
    assert agreeing.count == pytest.approx(10)
    # All prompts half right: samples differ as independent coins would, or more; never more than all 40.
    differing = mean_proportion([0.5, 0.5, 0.25, 0.75, 0.5, 0.5, 0.5, 0.5, 0.25, 0.75], samples=4)
    assert differing.count == pytest.approx(40)
    assert differing.high - differing.low < agreeing.high - agreeing.low
