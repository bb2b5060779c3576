"""The command line as a user types it: in process where that is the same, as a program where it is not."""

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dunwu.cli import COMMANDS, main


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_answers_in_half_a_second() -> None:
    """The best of three: the machine may be busy, but an import of torch takes longer than this every time."""
    times = []
    for _ in range(3):
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "dunwu", "--help"], capture_output=True, text=True, check=True)
        times.append(time.monotonic() - began)
    assert min(times) < 0.5
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "quickstrat"], "did you mean 'quickstart'"),
        (["train", "quickstart", "--train.lerning_rate", "1"], "did you mean 'learning_rate'"),
        (["train", "quickstart", "--tran.x", "1"], "did you mean 'train'"),
        (["train", "quickstart", "--task.stile", "tiny"], "did you mean 'style'"),
        (["train", "quickstart", "--train.num_generations", "1"], "at least 2"),
        (["train", "quickstart", "--train.max_completion_length", "2000"], "leaves no room for a prompt"),
        (["train", "quickstart", "--model", "/nowhere/at/all"], "there is no folder"),
        (["eval", "embedded", "--task", "contdown"], "did you mean 'countdown'"),
        (["eval", "embedded", "--task", "countdown", "--rows", "0"], "--rows must be at least 1"),
        (["eval", "embedded", "--task", "countdown", "--task.stile", "tiny"], "did you mean 'style'"),
        (["eval", "embedded", "--task", "countdown", "--temperature", "nan"], "--temperature must be 0 or more"),
        (["eval", "embedded", "--task", "quickstart", "--max-new-tokens", "1020"], "--max-new-tokens, or"),
        (["chat", "/nowhere/at/all"], "there is no folder"),
        (["chat", "embedded", "--max-new-tokens", "-1"], "--max-new-tokens must be at least 1"),
        (["chat", "embedded", "--temperature", "-1"], "--temperature must be 0 or more"),
        (["chat", "embedded", "--message", "1 2 3 = 6", "--max-new-tokens", "1020"], "--max-new-tokens, or"),
        (["rewards", "quickstart"], "there is no text to score"),
        (["rewards", "quickstart", "--text", "x", "--row", "99999"], "rows 0 to"),
        (["rewards", "quickstart", "--text", "x", "--set", "target"], "COLUMN=VALUE"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    code, _, err = said(capsys, *words)
    assert code == 2
    assert expected in err and err.startswith(f"dunwu {words[0]}: ") and "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["traim"], "dunwu: there is no command 'traim'; did you mean 'train'?"),
        (["chat", "embedded", "--sytem", "x"], "there is no argument '--sytem'; did you mean '--system'?"),
        (["train", "quickstart", "x"], "unexpected 'x'; an option of the recipe reads --train.learning_rate 1e-5"),
        (["train", "quickstart", "--lr", "1"], "no argument '--lr'; did you mean '--train.learning_rate'?"),
        (["eval", "embedded", "--stile", "tiny"], "no argument '--stile'; did you mean '--task.style'?"),
        (["train", "quickstart", "--train.lr"], "--train.lr has no value"),
        (["train"], "the following arguments are required: RECIPE"),
    ],
)
def test_an_unknown_command_or_argument_is_one_sentence_with_the_nearest(
    capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    try:
        code: object = main(words)
    except SystemExit as stopped:
        code = stopped.code
    err = capsys.readouterr().err
    assert code == 2 and expected in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("words", [["chat", "m"], ["fetch", "m", "--to", "d"], ["train", "quickstart"]])
def test_a_key_among_the_arguments_is_not_repeated(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    key = "hf_" + "a1B2c3D4" * 4
    for given in ([key], [f"--{key}"]):
        with pytest.raises(SystemExit):
            main([*words, *given])
        assert key not in capsys.readouterr().err


def test_a_model_is_evaluated_on_a_task_without_rewards(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """`list some under rewards:` was said, where there is no recipe to list them in."""
    source = tmp_path / "own.jsonl"
    source.write_text("\n".join(json.dumps({"prompt": f"1 2 {n} = {n + 3}"}) for n in range(4, 44)), encoding="utf-8")
    words = ["eval", "embedded", "--task", "own", "--task.source", str(source), "--task.chat", "true"]
    code, out, err = said(
        capsys, *words, "--split", "train", "--rows", "2", "--samples", "1", "--max-new-tokens", "9"
    )
    assert code == 0, err
    assert "own: 2 prompts" in out


def test_a_refused_recipe_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, _, _ = said(
        capsys, "train", "quickstart", "--train.output_dir", str(folder), "--train.max_completion_length", "2000"
    )
    assert code == 2 and not folder.exists()


def test_rewards_scores_a_text_with_every_reward(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("rewards", "quickstart", "--set", "nums=[1, 2]", "--set", "target=3", "--text")
    code, out, _ = said(capsys, *words, "<think>1+2=3 yes</think>\\n<answer>1+2</answer>")
    assert code == 0
    values = [line.split() for line in out.splitlines() if line.startswith(("think", "trials", "equation", "sum"))]
    assert values == [
        ["think_answer_format", "1"],
        ["trials_right_and_new", "1"],
        ["equation_solves", "1"],
        ["sum", "2.2"],  # weighted 0.2, 1, 1
    ]
    code, out, _ = said(capsys, *words, "<answer>1+1</answer>")
    assert "equation_solves       0" in out and "strict no" in out


def test_rewards_scores_the_gold_answer_at_full_marks(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "rewards", "quickstart", "--gold", "--row", "3")
    assert code == 0 and "sum                   2.2" in out and "strict yes, lenient yes, formatted yes" in out


def test_chat_answers_and_shows_template_and_ids(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(
        capsys, "chat", "embedded", "--message", "3 14 17 = 51", "--show-ids", "--max-new-tokens", "60"
    )
    assert code == 0
    assert "<|user|>3 14 17 = 51<|end|><|assistant|>" in out and ":'14'" in out
    assert "<answer>" in out


def test_chat_reads_lines_and_commands_until_quit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "/template\n3 14 17 = 51\n1 2 3 = 6\n/template\n/reset\n/ids\n/what\n/quit\nnot read\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    code, out, _ = said(capsys, "chat", "embedded", "--max-new-tokens", "60", "--system", "s")
    assert code == 0
    assert out.count("send a message first") == 2
    # The second turn's template holds the first turn, its answer included.
    shown = next(line for line in out.splitlines() if line.startswith("<|system|>s<|end|>"))
    assert shown.startswith("<|system|>s<|end|><|user|>3 14 17 = 51<|end|><|assistant|>")
    assert "a new conversation" in out and "/template shows" in out and "not read" not in out


def test_eval_prints_figures_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "eval", "embedded", "--task", "quickstart", "--rows", "8", "--samples", "2", "--json")
    figures = json.loads(out)
    assert code == 0 and figures["prompts"] == 8 and figures["samples"] == 2
    assert 0 <= figures["greedy_strict"] <= figures["greedy_lenient"] <= 1


def test_eval_takes_a_tasks_own_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = [{"prompt": f"1 2 {n} = {n + 3}", "answer": str(n + 3)} for n in range(4, 44)]
    source = tmp_path / "own.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = ["eval", "embedded", "--task", "own", "--task.source", str(source), "--task.answer_column=answer"]
    code, out, _ = said(
        capsys, *words, "--task.chat", "true", "--split", "train", "--rows", "4", "--max-new-tokens", "9"
    )
    assert code == 0 and "own: 4 prompts" in out


@pytest.mark.slow
def test_quickstart_trains_and_writes_a_summary_a_picture_and_a_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "quick"
    short = ["--train.max_steps", "3", "--train.num_generations", "4", "--train.max_completion_length", "64"]
    code, out, err = said(capsys, "quickstart", "--output", str(folder), "--evaluate.rows", "20", *short)
    assert code == 0, err
    assert "before" in out and "after" in out and "from wrong to right" in out and "1/3" in out
    summary = json.loads((folder / "summary.json").read_text())
    for when in ("before", "after"):
        figures = {"greedy", "sampled", "format", "thought_tokens", "seconds", "arithmetic_right"}
        assert figures <= summary[when].keys()
        assert summary[when]["prompts"] == 20 and 0 <= summary[when]["sampled"] <= 1
    assert summary["seconds"] > 0 and summary["steps"] == 3
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert len((folder / "rollouts.jsonl").read_text().splitlines()) == 3 * 16 * 4
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3
    code, out, _ = said(capsys, "eval", str(folder), "--task", "quickstart", "--rows", "5", "--samples", "1")
    assert code == 0 and "5 prompts" in out


@pytest.mark.slow
def test_train_resumes_from_the_last_checkpoint_and_continues_its_files(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level("INFO", "dunwu")
    folder = tmp_path / "run"
    words = ["train", "quickstart", "--train.output_dir", str(folder), "--evaluate", "null"]
    words += ["--train.num_generations", "2", "--train.prompts_per_step", "2", "--train.max_completion_length", "40"]
    words += ["--train.save_strategy", "steps", "--train.save_steps", "2", "--train.max_steps"]
    assert said(capsys, *words, "3")[0] == 0
    code, out, _ = said(capsys, *words, "6", "--resume")
    assert code == 0 and "resuming from" in caplog.text and "6/6" in out
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert said(capsys, *words, "2")[0] == 0
    assert "this one goes to" in caplog.text
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 6
    assert len((tmp_path / "run-2" / "metrics.jsonl").read_text().splitlines()) == 2
