"""Where a run begins: nothing is overwritten, and what a resume changes is said or refused."""

import logging
from pathlib import Path

import pytest

from dunwu._utils.distributed import ParallelContext
from dunwu.errors import CheckpointError, ConfigError
from dunwu.recipes.recipe import Recipe, recipe_as_yaml
from dunwu.recipes.start import choose_start, remove_run

TASK = {"name": "countdown", "style": "tiny"}


def recipe(**more: object) -> Recipe:
    return Recipe(**{"model": "embedded", "task": TASK, "train": {"max_steps": 4, "learning_rate": 1e-3}, **more})


def a_run(folder: Path, *checkpoints: int, summary: str = "", of: Recipe | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipe_as_yaml(of or recipe()), encoding="utf-8")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n', encoding="utf-8")
    if summary:
        (folder / "summary.json").write_text(summary, encoding="utf-8")
    for step in checkpoints:
        (folder / f"checkpoint-{step}").mkdir()
        (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
    return folder


def chosen(recipe: Recipe, folder: Path, *, overwrite: bool = False):
    return choose_start(recipe, folder, overwrite=overwrite, parallel=ParallelContext())


def test_a_new_run_goes_beside_one_that_is_there_and_says_so(tmp_path: Path, caplog) -> None:
    folder = a_run(tmp_path / "run", 2)
    with caplog.at_level(logging.INFO, logger="dunwu"):
        assert chosen(recipe(), folder).folder == tmp_path / "run-2"
    assert "run holds a run already: this one goes to" in caplog.text and "--overwrite" in caplog.text
    assert chosen(recipe(), tmp_path / "free").folder == tmp_path / "free"


def test_overwriting_is_asked_for_and_leaves_the_users_own_files(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run", 2)
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    start = chosen(recipe(), folder, overwrite=True)
    assert (start.folder, start.checkpoint, start.replaces) == (folder, None, True)
    assert (folder / "checkpoint-2").is_dir(), "nothing is removed before the run is sure to begin"
    remove_run(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    with pytest.raises(ConfigError, match=r"--overwrite removes the run that --resume would go on with"):
        chosen(recipe(resume=True), folder, overwrite=True)


def test_resuming_where_nothing_is_says_what_is_missing(tmp_path: Path) -> None:
    a_run(tmp_path / "quickstart")
    with pytest.raises(CheckpointError, match=r"nothing to resume: there is no run '.*quickstrat'; did you mean"):
        chosen(recipe(resume=True), tmp_path / "quickstrat")
    with pytest.raises(CheckpointError, match=r"nothing to resume: the run in .* has no complete checkpoint"):
        chosen(recipe(resume=True), tmp_path / "quickstart")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"nothing to resume: .*empty holds no run"):
        chosen(recipe(resume=True), tmp_path / "empty")
    assert (tmp_path / "quickstart" / "metrics.jsonl").read_text() == '{"step": 1}\n', "it was truncated"


def test_auto_resumes_what_is_there_and_else_begins(tmp_path: Path) -> None:
    assert chosen(recipe(resume="auto"), tmp_path / "new").checkpoint is None
    folder = a_run(tmp_path / "run", 2, 4)
    assert chosen(recipe(resume="auto"), folder).checkpoint == folder / "checkpoint-4"


def test_a_changed_option_is_named_with_its_value_then_and_now(tmp_path: Path, caplog) -> None:
    folder = a_run(tmp_path / "run", 2)
    now = recipe(resume=True, train={"max_steps": 9, "learning_rate": 1e-3, "output_dir": str(folder)})
    with caplog.at_level(logging.INFO, logger="dunwu"):
        start = chosen(now, folder)
    assert start.changed == {"train.max_steps": (4, 9)}
    assert "changed from here on: train.max_steps was 4 and is 9" in caplog.text


@pytest.mark.parametrize(
    "change", [{"model": "runs/other"}, {"lora": {"r": 4}}, {"train": {"max_steps": 4, "optim": "sgd"}}]
)
def test_what_a_checkpoint_does_not_fit_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    folder = a_run(tmp_path / "run", 2)
    with pytest.raises(ConfigError, match=r"which its checkpoint does not fit; leave it as it was"):
        chosen(recipe(**change, resume=True), folder)


def test_a_finished_run_without_a_checkpoint_of_its_end_is_not_trained_again(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run", 2, summary='{"status": "finished", "steps": 4}')
    with pytest.raises(CheckpointError, match=r"is finished, at step 4, and its last checkpoint is of step 2"):
        chosen(recipe(resume=True), folder)
