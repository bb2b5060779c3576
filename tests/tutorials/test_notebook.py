"""T2, the notebook: `t2_notebook.py` and `t2_notebook.ipynb` unmodified, to the end, twice; the key in its text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

KEY = "3f9c1e07d2ab48565cb0e94f7a1d8863be20457f"
OUT = "outputs/Qwen-0.5B-GRPO"
BATCH = "4 prompts × 16 completions = 64 a step; 3 steps an epoch of 12 prompts, 3 in this run"
AS_PRINTED = Path(__file__).parent / "as_printed"


def test_the_notebook_has_the_cells_of_the_script() -> None:
    script = (AS_PRINTED / "t2_notebook.py").read_text(encoding="utf-8")
    cells = json.loads((AS_PRINTED / "t2_notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code == [part.strip() for part in re.split(r"^# %% .*\n", script, flags=re.MULTILINE)[1:]]


@pytest.mark.slow
def test_the_script_runs_unmodified_and_its_key_reaches_nothing(workplace: Any, has_old_names: Any) -> None:
    workplace.has("t2_notebook.py")
    said = workplace.dunwu("t2_notebook.py")

    assert BATCH in said
    assert "t2_notebook.py" in said and "key" in said, "the key in the text is warned of"
    _shows_the_template(said)
    # The four values of the response that the notebook tries, worked out by hand: 4 × 0.125, and no penalty but the
    # last line break that follows `</answer>`.
    assert "correctness: [2.0]" in said and "int: [0.5]" in said
    assert "strict format: [0.5]" in said and "soft format: [0.0]" in said and "xml count: [0.5]" in said
    assert "it gives max_prompt_length, dropped after 0.27, and no argument that came after 0.15): beta=0.04" in said
    assert len(workplace.steps(f"{OUT}/checkpoint-3")) == 3
    for step in workplace.steps(f"{OUT}/checkpoint-3"):
        assert step["kl"] >= 0
        has_old_names(step, "xmlcount_reward_func", "correctness_reward_func")
    _keeps_the_key_out(workplace, said, own="t2_notebook.py")

    again = workplace.dunwu("--resume", "t2_notebook.py")
    assert f"--resume: continuing from {OUT}/checkpoint-3" in again
    assert again.count("Question:\n") == 1, "the notebook's own try; no training step"
    _keeps_the_key_out(workplace, again, own="t2_notebook.py")


@pytest.mark.slow
def test_the_notebook_needs_one_line_and_runs_twice(workplace: Any) -> None:
    notebook = json.loads((AS_PRINTED / "t2_notebook.ipynb").read_text(encoding="utf-8"))
    line = {"cell_type": "code", "id": "one-line", "metadata": {}, "outputs": [], "execution_count": None}
    notebook["cells"].insert(0, line | {"source": ["import dunwu.compat"]})
    (workplace.folder / "course.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    command = ("jupyter-execute", "--output=ran.ipynb", "course.ipynb")

    workplace.run(*command)
    ran, said = _outputs(workplace)
    assert BATCH in said
    _shows_the_template(said)
    assert len(workplace.steps(f"{OUT}/checkpoint-3")) == 3
    _keeps_the_key_out(workplace, said, own="course.ipynb", copy="ran.ipynb")
    assert [cell["execution_count"] for cell in ran if cell["cell_type"] == "code"] == list(range(1, 14))

    notebook["cells"][0]["source"] = ["import dunwu.compat\n", "dunwu.compat.set_options(resume=True)"]
    (workplace.folder / "course.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    workplace.run(*command)
    _, said = _outputs(workplace)
    assert f"continuing from {OUT}/checkpoint-3" in said and said.count("Question:\n") == 1


def _shows_the_template(said: str) -> None:
    """Text with and without the generation prompt, and ids as a list, as transformers 4 gave them."""
    text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n"
    assert text in said and text + "<|im_start|>assistant\n" in said
    lists = [json.loads(line) for line in re.findall(r"^\[1, [\d, ]+\]$", said, flags=re.MULTILINE)]
    assert len(lists) == 2 and lists[1][: len(lists[0])] == lists[0] and len(lists[1]) > len(lists[0])


def _keeps_the_key_out(workplace: Any, said: str, *, own: str, copy: str | None = None) -> None:
    """Only the script itself (and the notebook that Jupyter wrote, which has the script's cells) holds the key."""
    assert KEY not in said
    allowed = {workplace.folder / name for name in (own, copy) if name}
    assert set(workplace.holding(KEY)) <= allowed
    assert not list(workplace.home.glob(".netrc")) or KEY not in (workplace.home / ".netrc").read_text()


def _outputs(workplace: Any) -> tuple[list[dict[str, Any]], str]:
    cells = json.loads((workplace.folder / "ran.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return cells, "".join("".join(output.get("text", [])) for output in outputs)
