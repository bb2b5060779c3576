"""What a notebook shows while it trains: executed in a real kernel, read from the notebook's outputs."""

import re
from pathlib import Path
from typing import Any

import pytest

from dunwu.core.records import RunInfo, StepResult
from dunwu.observers import NotebookProgress, in_notebook_progress

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
    assert not any(out.get("name") == "stderr" for out in outputs), "no red box"
    expected = ["step", "reward", "reward std", "sevens", "tokens", "dead groups", "cut", "grad norm", "s/step"]
    assert heads == expected
    rows = re.findall(r"<tr><td[^>]*>(\d+)</td>", page)
    assert rows == ["1", "2"]
    assert "evaluation after step 2: reward" in page
    assert not any("Training Loss" in page for page in pages)


def step(index: int, **metrics: float) -> StepResult:
    return StepResult(index=index, groups=(), metrics={"reward": 0.5, **metrics})


class Pages(NotebookProgress):
    """Keeps what would be displayed: there is no notebook here."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.pages: list[str] = []

    def _draw(self) -> None:
        self.pages.append(self.html())
        self._drawn = float("-inf")


def test_the_table_keeps_the_last_rows_and_escapes_names() -> None:
    progress = Pages(rows=3)
    for index in range(1, 8):
        progress.on_step(step(index, **{"rewards/<b>/mean": float("nan"), "reward_std": 1.0}))
    page = progress.html()
    assert re.findall(r"<tr><td[^>]*>(\d+)</td>", page) == ["5", "6", "7"]
    assert "<b>" not in page and "&lt;b&gt;" in page and "–" in page


def test_four_rewards_with_long_names_fit_into_a_cell_and_each_full_name_is_a_tooltip() -> None:
    names = [
        "correctness_reward_func",
        "strict_format_reward_func",
        "soft_format_reward_func",
        "xmlcount_reward_func",
    ]
    progress = Pages()
    rewards = {f"rewards/{name}/mean": 0.5 for name in names}
    others = (
        "reward_std",
        "completions/mean_length",
        "frac_reward_zero_std",
        "completions/clipped_ratio",
        "grad_norm",
    )
    progress.on_step(step(1, **rewards, **dict.fromkeys((*others, "step_time"), 0.5)))
    page = progress.html()
    heads = re.findall(r"<th title=\"([^\"]*)\" style=\"([^\"]*)\">(.*?)</th>", page)
    assert [title for title, _, _ in heads if title in rewards] == list(rewards)
    assert not any(f"{name}<" in page for name in names), "the headings are shorter"
    widest = [max(len(part) for part in re.split("<wbr>| ", shown)) for _, _, shown in heads]
    assert len(heads) == 12 and sum(7 * letters + 12 for letters in widest) < 900, "at 7 pixels a letter"
    assert all("max-width" in style for _, style, _ in heads)


def test_before_the_first_step_the_bar_says_how_long_the_run_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr("dunwu.observers.notebook.monotonic", lambda: now)
    progress = Pages()
    progress.on_run_start(RunInfo(folder="out", total_steps=101, resumed_from=1))
    now += 2.0
    progress.on_rollouts(2, ())
    assert "about 4 to 13 minutes in all" in progress.pages[-1]
    progress.on_step(step(2))
    assert "minutes in all" not in progress.pages[-1] and "3:18 left" in progress.pages[-1]


def test_each_event_of_a_run_is_drawn_and_a_second_run_starts_with_an_empty_table() -> None:
    progress = Pages()
    progress.on_run_start(RunInfo(folder="out", total_steps=9, resumed_from=4))
    assert "step 4/9" in progress.pages[-1] and "the first step is under way" in progress.pages[-1]
    progress.on_step(step(5))
    progress.on_evaluation(5, {"eval_reward": 0.25}, ())
    assert "step 5/9" in progress.pages[-1] and "evaluation after step 5: reward 0.250" in progress.pages[-1]
    progress.on_run_end()
    assert len(progress.pages) == 4
    progress.on_run_start(RunInfo(folder="out", total_steps=3))
    assert "step 0/3" in progress.pages[-1] and "evaluation" not in progress.pages[-1]


def test_transformers_alone_decides_what_a_notebook_is() -> None:
    from transformers.utils.notebook import NotebookProgressCallback

    assert in_notebook_progress([object(), NotebookProgressCallback()])
    assert not in_notebook_progress([object()])


def test_outside_a_notebook_the_trainer_keeps_its_own_progress(make_trainer: Any) -> None:
    assert make_trainer(disable_tqdm=False).observers == []
