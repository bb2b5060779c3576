"""What a notebook shows while it trains: executed in a real kernel, read from the notebook's outputs."""

import re
from pathlib import Path
from typing import Any

import pytest

from dunwu.core.records import StepResult
from dunwu.observers import NotebookProgress

TRAINS = """
import os
os.environ["OMP_NUM_THREADS"] = "1"
from dunwu import GRPOConfig, GRPOTrainer
from dunwu.embedded import embedded_model_path

def sevens(completions, **_):
    return [float(len(text) % 7) for text in completions]

config = GRPOConfig(
    output_dir="out", max_steps=2, prompts_per_step=2, num_generations=4, max_completion_length=8,
    save_strategy="no", eval_strategy="steps", eval_steps=2, logging_steps=1,
)
rows = [{"prompt": f"{i} 4 5 = {i + 20}"} for i in range(8)]
trainer = GRPOTrainer(str(embedded_model_path()), sevens, config, rows, rows[:2])
trainer.train()
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_notebook_shows_a_bar_and_our_table_instead_of_a_training_loss(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(TRAINS)])
    NotebookClient(
        notebook, timeout=180, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs: list[Any] = notebook.cells[0].outputs
    pages = [out["data"]["text/html"] for out in outputs if "text/html" in out.get("data", {})]
    (page,) = [page for page in pages if "<progress" in page]
    assert "step 2/2" in page
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", page)
    expected = ["step", "reward", "reward std", "sevens", "tokens", "dead groups", "cut", "grad norm", "s/step"]
    assert heads == expected
    rows = re.findall(r"<tr><td[^>]*>(\d+)</td>", page)
    assert rows == ["1", "2"]
    assert "evaluation after step 2: eval_reward" in page
    assert not any("Training Loss" in page for page in pages)


def step(index: int, **metrics: float) -> StepResult:
    return StepResult(index=index, groups=(), metrics={"reward": 0.5, **metrics})


def test_the_table_keeps_the_last_rows_and_escapes_names() -> None:
    progress = NotebookProgress(rows=3)
    progress._drawn = float("inf")  # nowhere to draw here
    for index in range(1, 8):
        progress.on_step(step(index, **{"rewards/<b>/mean": float("nan"), "reward_std": 1.0}))
    page = progress.html()
    assert re.findall(r"<tr><td[^>]*>(\d+)</td>", page) == ["5", "6", "7"]
    assert "<b>" not in page and "&lt;b&gt;" in page and "–" in page


def test_outside_a_notebook_the_trainer_keeps_its_own_progress(make_trainer: Any) -> None:
    trainer = make_trainer(disable_tqdm=False)
    assert not any(isinstance(callback, NotebookProgress) for callback in trainer.callback_handler.callbacks)
    assert trainer.observers == []
