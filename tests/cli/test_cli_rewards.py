"""`dunwu rewards`: a reward that fails is shown with its reason, and the others are scored."""

from pathlib import Path

import pytest

from dunwu.cli import main


def test_a_reward_that_fails_is_shown_with_its_reason_beside_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "def broken(completions, **columns):\n    raise KeyError('no such column')\n", encoding="utf-8"
    )
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"model: embedded\ntask: {{name: countdown, style: tiny, train_rows: 5}}\n"
        f"rewards: ['{tmp_path / 'mine.py'}:broken', think_answer_format]\n",
        encoding="utf-8",
    )
    assert main(["rewards", str(recipe), "--text", "<think>1</think><answer>2</answer>"]) == 0
    out = capsys.readouterr().out
    assert "broken: exception: KeyError: 'no such column'" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["broken", "–"] in lines and ["think_answer_format", "1"] in lines and ["sum", "1"] in lines
