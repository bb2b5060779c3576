"""Seeds and sweeps: what is run, what is refused, what a second call leaves alone."""

import json
import logging
from pathlib import Path

import pytest

from dunwu.errors import ConfigError
from dunwu.recipes.sweep import plan_runs, run_all

SMALL = {
    "train.max_steps": "1",
    "train.prompts_per_step": "2",
    "train.num_generations": "2",
    "train.max_completion_length": "16",
    "evaluate.rows": "2",
    "evaluate.samples": "1",
}


def test_a_grid_has_every_value_with_every_seed_each_in_a_folder_that_says_so(tmp_path: Path) -> None:
    given = {"train.output_dir": str(tmp_path)}
    planned = plan_runs("quickstart", given, seeds=2, swept=["train.loss_type=grpo,dapo"])
    assert [run.folder.name for run in planned] == [
        "loss_type=grpo-seed=42",
        "loss_type=grpo-seed=43",
        "loss_type=dapo-seed=42",
        "loss_type=dapo-seed=43",
    ]
    assert planned[3].overrides["train.seed"] == "43" and planned[3].overrides["train.loss_type"] == "dapo"
    assert plan_runs("quickstart", {}, seeds=1, swept=[])[0].folder == Path("runs/quickstart-seeds/seed=42")
    assert not any(tmp_path.iterdir()), "planning writes nothing"


@pytest.mark.parametrize(
    ("seeds", "swept", "said"),
    [
        (0, [], r"--seeds must be at least 1, got 0"),
        (-3, [], r"--seeds must be at least 1, got -3"),
        (None, ["train.los_type=grpo,dapo"], r"train has no option 'los_type'; did you mean 'loss_type'"),
        (None, ["train.loss_type"], r"must read OPTION=A,B"),
        (None, ["train.loss_type=grpo,"], r"must read OPTION=A,B"),
        (None, ["loss_type=grpo"], r"must read OPTION=A,B"),
        (None, ["train.loss_type=grpo,dappo"], r"dappo"),
        (None, ["train.num_generations=8,1"], r"num_generations=1 .*at least 2"),
    ],
)
def test_a_sweep_that_cannot_work_is_refused_before_its_first_run(
    tmp_path: Path, seeds: int | None, swept: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        plan_runs("quickstart", {"train.output_dir": str(tmp_path)}, seeds=seeds, swept=swept)


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was_stopped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="dunwu")
    given = {**SMALL, "train.output_dir": str(tmp_path)}
    planned = plan_runs("quickstart", given, seeds=2, swept=[])
    first, second = [*run_all("quickstart", planned[:1]), planned[1].folder]
    began = (first / "run.json").read_text(encoding="utf-8")
    # The second was killed before its first checkpoint.
    second.mkdir()
    (second / "metrics.jsonl").write_text('{"step": 1}\n', encoding="utf-8")
    assert run_all("quickstart", planned) == [first, second]
    assert (first / "run.json").read_text(encoding="utf-8") == began, "what is finished is not run again"
    assert json.loads((second / "summary.json").read_text(encoding="utf-8"))["status"] == "finished"
    assert f"run 1 of 2, {first}: finished before" in caplog.messages and f"run 2 of 2, {second}" in caplog.messages
    with pytest.raises(ConfigError, match=r"ended with exit code 2; the same command tries it again"):
        run_all("nothing-of-this-name", planned, overwrite=True)
