"""A run's folder from the command line: its own figures again, nothing overwritten, a stop and how it goes on."""

import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from dunwu.cli import main

SMALL = [
    *("--train.max_steps", "4", "--train.save_steps", "2", "--train.prompts_per_step", "2"),
    *("--train.num_generations", "4", "--train.max_completion_length", "40"),
    *("--evaluate.rows", "6", "--evaluate.samples", "2"),
]
STOPPING = """
import os, signal

calls = 0

def stopping(completions, **columns):
    global calls
    calls += 1
    if calls == {call}:
        os.kill(os.getpid(), signal.SIGINT)
    return [float(len(text)) for text in completions]
"""

Said = Callable[..., tuple[int, str]]


@pytest.fixture
def said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Said:
    """Runs a command in an empty folder; its exit code, and all that it printed and logged."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, logger="dunwu")

    def run(*words: str) -> tuple[int, str]:
        caplog.clear()
        code = main(list(words))
        captured = capsys.readouterr()
        return code, captured.out + captured.err + caplog.text

    return run


@pytest.mark.slow
def test_eval_of_a_run_repeats_its_figures_to_the_digit_and_says_what_it_changes(said: Said) -> None:
    assert said("quickstart", *SMALL)[0] == 0
    after = json.loads(Path("runs/quickstart/summary.json").read_text(encoding="utf-8"))["after"]
    code, out = said("eval", "runs/quickstart", "--json")
    figures = json.loads(out[out.index("{") : out.rindex("}") + 1])
    assert code == 0 and figures == {name: after[name] for name in figures}
    assert "limit 40 tokens, seed 42" in out and "not as in the run" not in out
    code, out = said("eval", "runs/quickstart", "--rows", "3", "--task.style", "english")
    assert code == 0 and "not as in the run: evaluate.rows 3 (there 6)" in out
    assert "not as in the run: task.style 'english' (there 'tiny')" in out
    code, out = said("eval", "runs/quickstart", "--task", "countdown", "--rows", "2", "--samples", "1")
    assert code == 0 and "the task and its rewards are those of --task countdown" in out
    # A checkpoint knows its run as well.
    code, out = said("eval", "runs/quickstart/checkpoint-2", "--rows", "2")
    assert code == 0 and "limit 40 tokens" in out
    code, out = said("chat", "runs/quickstart", "--message", "3 14 17 = 34", "--message", "1 2 = 99")
    assert code == 0 and ("[correct]" in out) != ("[wrong]" in out), "the second has no solution, so nothing is said"


@pytest.mark.slow
def test_a_second_run_goes_beside_the_first_and_overwriting_is_asked_for(said: Said) -> None:
    assert said("quickstart", *SMALL)[0] == 0
    first = Path("runs/quickstart/metrics.jsonl").read_text(encoding="utf-8")
    code, out = said("quickstart", *SMALL, "--seed", "7")
    assert code == 0 and "this one goes to runs/quickstart-2" in out
    assert Path("runs/quickstart/metrics.jsonl").read_text(encoding="utf-8") == first
    code, _ = said("quickstart", *SMALL, "--seed", "7", "--overwrite")
    assert code == 0 and Path("runs/quickstart/metrics.jsonl").read_text(encoding="utf-8") != first
    assert not Path("runs/quickstart-3").exists()
    # A run's folder is its recipe: the same again, elsewhere.
    code, _ = said("train", "runs/quickstart-2")
    rewards = [json.loads(Path(f"runs/quickstart-{n}/summary.json").read_text())["after"]["reward"] for n in (2, 3)]
    assert code == 0 and rewards[0] == rewards[1]


@pytest.mark.slow
def test_ctrl_c_saves_everything_and_the_command_that_is_printed_goes_on(said: Said) -> None:
    Path("mine.py").write_text(STOPPING.format(call=4), encoding="utf-8")  # two evaluate, the second step is stopped
    recipe = ["--rewards", "[mine.py:stopping]", "--max_reward", "null", "--train.reward_weights", "[1.0]"]
    code, out = said("train", "quickstart", *SMALL, *recipe)
    assert code == 130 and "stopped after step 2 of 4" in out, out
    again = out[out.index("this goes on:") :].splitlines()[1].split()
    run = Path("runs/quickstart")
    assert json.loads((run / "summary.json").read_text(encoding="utf-8"))["status"] == "interrupted"
    assert {path.name for path in run.iterdir()} >= {
        *("model.safetensors", "checkpoint-2", "curves.png", "report.md", "metrics.jsonl", "evaluation_before.jsonl"),
    }
    Path("mine.py").write_text(STOPPING.format(call=0), encoding="utf-8")
    code, out = said(*again[again.index("train") :])
    assert code == 0 and "trained 4 steps" in out and "before training" not in out
    sessions = json.loads((run / "run.json").read_text(encoding="utf-8"))["sessions"]
    assert [(one["from_step"], one["to_step"], one["ended"]) for one in sessions] == [
        (0, 2, "interrupted"),
        (2, 4, "finished"),
    ]
    assert sessions[1]["seconds"] > sessions[0]["seconds"], "seconds add up over starts"
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    assert all(one["seconds"] < other["seconds"] for one, other in itertools.pairwise(steps))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "quickstart", "--resume"], "nothing to resume: there is no"),
        (["train", "runs/nothing", "--resume"], "there is no recipe 'runs/nothing'"),
        (["train", "quickstart", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["train", "quickstart", "--sweep", "train.los_type=a,b"], "did you mean 'loss_type'"),
        (["eval", "model"], "no run's folder, so its task is not known"),
        (["plot", "empty"], "holds no run"),
        (["plot", "half"], "has not finished a step yet"),
        (["eval", "half"], "has saved no model yet"),
        (["chat", "half"], "has saved no model yet"),
        (["chat", "later"], "written by Dunwu 9.0 in format 9"),
        (["eval", "later"], "written by Dunwu 9.0 in format 9"),
        (["train", "later", "--resume"], "written by Dunwu 9.0 in format 9"),
        (["rewards", "no-recipe", "--text", "x"], "has no recipe.yaml"),
    ],
)
def test_a_folder_that_is_no_run_or_half_of_one_is_one_sentence(said: Said, words: list[str], expected: str) -> None:
    recipe = "model: embedded\ntask: {name: countdown, style: tiny}\n"
    for name in ("model", "empty", "half", "later", "no-recipe"):
        Path(name).mkdir()
    Path("model/config.json").write_text("{}", encoding="utf-8")
    Path("half/recipe.yaml").write_text(recipe, encoding="utf-8")
    Path("later/recipe.yaml").write_text(recipe, encoding="utf-8")
    Path("later/run.json").write_text('{"format": 9, "versions": {"dunwu": "9.0"}}', encoding="utf-8")
    Path("no-recipe/metrics.jsonl").write_text("", encoding="utf-8")
    code, out = said(*words)
    assert code == 2 and expected in out and "Traceback" not in out
