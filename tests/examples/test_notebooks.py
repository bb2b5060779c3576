"""The notebooks, executed in a real kernel with the model that comes with Dunwu and small rows; and as committed.

Only the cell with the parameters is another. The English ones are executed; that the Chinese ones have the same code
is asserted. The outputs that are committed were made by `examples/make.py --execute`.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import random
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nbformat
import pytest

from dunwu.cli import main
from dunwu.embedded import embedded_model_path

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = ("gsm8k", "step_by_step")
PARAMETERS = """
MODEL = {model!r}
DATA = "data"
OUTPUT = "out"
STEPS = 2
LENGTH = 40
TEST_ROWS = 4
LEARNING_RATE = 5e-6
QUESTION = "Joy can read 8 pages in 20 minutes. How many can she read in an hour?"
"""
OFTEN_SAID = ("17+17-9", "9+9-16")
"""What the model often answers to the prompts below: gold answers that are sometimes hit."""


def read(language: str, name: str) -> Any:
    return nbformat.read(EXAMPLES / language / f"{name}.ipynb", as_version=4)


def rows() -> list[dict[str, str]]:
    numbers = [("3 14 17 = 51", "51"), ("2 5 9 = 16", "16"), ("4 6 10 = 20", "20"), ("1 2 3 = 6", "6")]
    said = list(zip(("3 14 17 = 51", "2 5 9 = 16"), OFTEN_SAID, strict=True))
    return [{"question": q, "answer": f"So it is.\n#### {a}"} for q, a in [*numbers, *said, *said]]


def executed(name: str, folder: Path) -> Any:
    """The English notebook after its run in `folder`, which raises where a cell does."""
    from nbclient import NotebookClient

    (folder / "data").mkdir()
    for split in ("train", "test"):
        lines = "".join(json.dumps(row) + "\n" for row in rows())
        (folder / "data" / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    notebook = read("en", name)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    cell.source = PARAMETERS.format(model=embedded_model_path())
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=180, kernel_name="python3", resources=where).execute()
    return notebook


def text_of(notebook: Any, cell_id: str) -> str:
    """What a cell printed or returned, as text."""
    (cell,) = [cell for cell in notebook.cells if cell.id == cell_id]
    return "".join(out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in cell.outputs)


def table_of(notebook: Any, cell_id: str) -> list[str]:
    """Metrics in the table under a cell that trains; headings are shorter and have these as tooltips."""
    (cell,) = [cell for cell in notebook.cells if cell.id == cell_id]
    pages = [out["data"]["text/html"] for out in cell.outputs if "text/html" in out.get("data", {})]
    (page,) = [page for page in pages if "<progress" in page]
    assert "step 2/2" in page
    return re.findall(r'<th title="([^"]*)"', page)


def numbers_in(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"[-+]?\d+\.\d+", text)]


slow_kernel = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the packages that run kernels
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


class TestGsm8k:
    pytestmark = slow_kernel

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("gsm8k")

    @pytest.fixture(scope="class")
    def notebook(self, folder: Path) -> Any:
        return executed("gsm8k", folder)

    def test_the_model_is_shown_what_it_reads(self, notebook: Any) -> None:
        assert "<|user|>What is 3 + 4?<|end|><|assistant|>" in text_of(notebook, "hello")

    def test_the_table_of_rewards_shows_what_the_text_says_of_it(self, notebook: Any) -> None:
        lines = text_of(notebook, "try-rewards").splitlines()
        table = {line.split()[0]: numbers_in(line) for line in lines if "_" in line}
        assert table["strict_format_reward_func"] == [0.5, 0.0, 0.0, 0.0, 0.0]
        assert table["soft_format_reward_func"] == [0.0] * 5
        assert table["correctness_reward_func"] == [2.0, 2.0, 0.0, 2.0, 0.0]
        assert table["int_reward_func"] == [0.5, 0.5, 0.0, 0.5, 0.0]
        assert table["reasoning_answer_format"] == [1.0, 1.0, 1.0, 0.0, 0.0]
        assert table["number_matches"] == [1.0, 1.0, 1.0, 0.0, 0.0]

    def test_the_run_shows_each_reward_apart_and_takes_steps(self, notebook: Any, folder: Path) -> None:
        heads = table_of(notebook, "go")
        assert {f"rewards/{name}/mean" for name in ("reasoning_answer_tags", "number_matches")} <= set(heads)
        assert {"frac_reward_zero_std", "completions/clipped_ratio"} <= set(heads)
        lines = (folder / "out/metrics.jsonl").read_text(encoding="utf-8").splitlines()
        steps = [json.loads(line) for line in lines]
        assert len(steps) == 2 and all(step["grad_norm"] > 0 and step["num_completions"] == 64 for step in steps)

    def test_what_is_promised_is_there(self, notebook: Any, folder: Path) -> None:
        for name in ("model.safetensors", "tokenizer.json", "rollouts.jsonl", "curves.png"):
            assert (folder / "out" / name).is_file(), name
        assert main(["rollouts", str(folder / "out"), "--sort", "reward"]) == 0
        (curves,) = [cell for cell in notebook.cells if cell.id == "curves"]
        assert any("image/png" in out.get("data", {}) for out in curves.outputs)
        assert "4 prompts, 1 samples each [95 % interval]" in text_of(notebook, "measure-before")
        lines = text_of(notebook, "measure-after").splitlines()
        assert [line.split()[0] for line in lines] == ["strict", "lenient", "formatted", "tokens"]
        assert all(line.count("[") == 2 for line in lines[:3])


class TestStepByStep:
    pytestmark = slow_kernel

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("step_by_step")

    @pytest.fixture(scope="class")
    def notebook(self, folder: Path) -> Any:
        return executed("step_by_step", folder)

    def test_the_generation_prompt_is_the_difference(self, notebook: Any) -> None:
        without, given = text_of(notebook, "template-four-ways").strip().split("\n\n")
        assert without.splitlines()[1].endswith("2 + 3?<|end|>'")
        assert given.splitlines()[1].endswith("2 + 3?<|end|><|assistant|>'")
        assert "38 ids: [2," in without and "39 ids: [2," in given and given.endswith(", 1, 4]")

    def test_one_response_earns_what_the_text_says(self, notebook: Any) -> None:
        lines = text_of(notebook, "one-response").splitlines()
        table = {line.split()[0]: numbers_in(line) for line in lines}
        assert table["strict_format_reward_func"] == [0.5, 0.0]
        assert table["sum"] == [3.5, 3.0]

    def test_advantages_by_hand_are_those_of_the_library(self, notebook: Any) -> None:
        by_hand, ours, total = text_of(notebook, "by-hand").splitlines()
        deviation = math.sqrt((1.25**2 + 0.75**2) * 2 / 3) + 1e-4
        expected = [-1.25, -0.75, 0.75, 1.25]
        assert numbers_in(ours) == pytest.approx([e / deviation for e in expected] + [0.0] * 4, abs=6e-5)
        assert numbers_in(by_hand) == numbers_in(ours)
        assert numbers_in(total) == [0.0, 0.0]

    def test_the_loss_is_zero_and_the_gradient_is_not(self, notebook: Any) -> None:
        text = text_of(notebook, "zero-loss")
        assert "seq_mean: loss +0.0000, gradient norm 0.3009" in text
        assert "token_mean: loss +0.0233" in text
        deviation = math.sqrt(4.25 / 3) + 1e-4  # −A / (length × completions), for the first: 1.25 / deviation / 8
        assert f"{1.25 / deviation / 8:.4f}" in text

    def test_the_run_reads_the_batch_as_completions_and_shows_the_five_rewards(self, notebook: Any) -> None:
        assert "4 prompts × 16 completions = 64 a step" in text_of(notebook, "trainer")
        heads = table_of(notebook, "trainer")
        assert {"rewards/xmlcount_reward_func/mean", "rewards/correctness_reward_func/mean"} <= set(heads)
        lines = text_of(notebook, "look").splitlines()
        assert len(lines) == 8 and "'frac_reward_zero_std': " in lines[-1]

    def test_the_saved_folder_answers_with_its_special_tokens_shown(self, notebook: Any, folder: Path) -> None:
        assert (folder / "out/model.safetensors").is_file()
        for cell in ("ask", "saved"):
            text = text_of(notebook, cell)
            assert "Joy can read 8 pages" in text and "<|end|><|assistant|>▶" in text
            assert re.search(r"tokens, ended by (stop|length)", text)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_both_languages_have_the_same_cells_and_the_same_code(name: str) -> None:
    english, chinese = read("en", name), read("zh", name)
    assert english.metadata.kernelspec == chinese.metadata.kernelspec
    assert len(english.cells) == len(chinese.cells) <= 25
    for one, other in zip(english.cells, chinese.cells, strict=True):
        assert (one.id, one.cell_type, one.metadata) == (other.id, other.cell_type, other.metadata)
        if one.cell_type == "code":
            assert one.source == other.source and len(one.outputs) == len(other.outputs)
        else:
            assert one.source != other.source and re.search("[一-鿿]", other.source)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_installs_then_has_its_parameters_and_holds_no_key(name: str) -> None:
    notebook = read("en", name)
    nbformat.validate(notebook)
    install, parameters = [cell for cell in notebook.cells if cell.cell_type == "code"][:2]
    assert (install.metadata.tags, parameters.metadata.tags) == (["install"], ["parameters"])
    given = {line.split(" = ")[0] for line in parameters.source.splitlines()}
    replaced = {line.split(" = ")[0] for line in PARAMETERS.strip().splitlines()}
    assert given <= replaced
    assert not re.search(r"login\(|key=", json.dumps(notebook))


def shows_something(source: str) -> bool:
    """Whether a code cell prints, trains, or ends in an expression."""
    tree = ast.parse(source)
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return isinstance(tree.body[-1], ast.Expr) or bool(calls & {"print", "trainer.train"})


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", NOTEBOOKS)
class TestCommittedOutputs:
    def test_each_cell_that_shows_something_has_its_output(self, name: str, language: str) -> None:
        cells = [cell for cell in read(language, name).cells if cell.cell_type == "code"]
        for cell in cells[2:]:
            assert bool(cell.outputs) == shows_something(cell.source) or cell.id == "trainer", cell.id
        assert sum(bool(cell.outputs) for cell in cells) >= 8

    def test_nothing_went_wrong_and_no_folder_of_a_machine_is_shown(self, name: str, language: str) -> None:
        for cell in read(language, name).cells:
            for output in cell.get("outputs", []):
                assert output.output_type != "error" and output.get("name") != "stderr", cell.id
                shown = output.get("text", "") + json.dumps(
                    {kind: data for kind, data in output.get("data", {}).items() if "image" not in kind}
                )
                assert not re.search(r"/(tmp|home|root|work|usr|Users)/|site-packages|Traceback", shown), cell.id

    def test_the_first_cell_says_what_they_were_made_with(self, name: str, language: str) -> None:
        notebook = read(language, name)
        made = notebook.metadata.dunwu
        assert made.seconds > 0 and made.rows > 0
        for figure in (made.seconds, made.rows, made.cores, made.taught):
            assert re.search(rf"\b{figure}\b", notebook.cells[0].source)
        assert (EXAMPLES / language / f"{name}.ipynb").stat().st_size < 300_000

    def test_a_training_shows_its_table_and_the_course_its_picture(self, name: str, language: str) -> None:
        cells = {cell.id: cell for cell in read(language, name).cells}
        trained = cells["go" if name == "gsm8k" else "trainer"]
        assert any("<progress" in output.get("data", {}).get("text/html", "") for output in trained.outputs)
        if name == "gsm8k":
            assert any("image/png" in output.get("data", {}) for output in cells["curves"].outputs)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`examples/make.py` as a module."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    spec = importlib.util.spec_from_file_location("examples_make", EXAMPLES / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "examples_make", module)
    spec.loader.exec_module(module)
    return module


def test_outputs_stay_while_the_code_does_and_go_where_it_changes(make: ModuleType) -> None:
    cells = make.NOTEBOOKS["gsm8k"]
    kept = make.committed_outputs("gsm8k", cells, "en")
    assert kept.cells["go"] and kept.made["seconds"] > 0
    title = next(cell for cell in cells if cell.id == "title")
    reworded = [replace(title, en="# Another title"), *cells[1:]]
    assert make.committed_outputs("gsm8k", reworded, "en") == kept
    changed = [replace(cell, source="1 + 1") if cell.id == "go" else cell for cell in cells]
    assert make.committed_outputs("gsm8k", changed, "en") == make.Outputs()
    assert "{made}" not in json.dumps(make.notebook(changed, "en", make.Outputs()))


class TestWhatIsKeptOfAnExecution:
    def kept(self, make: ModuleType, *outputs: dict[str, Any]) -> list[dict[str, Any]]:
        module = importlib.import_module("_execute")
        kept: list[dict[str, Any]] = module._outputs(SimpleNamespace(id="go", outputs=list(outputs)))
        return kept

    def test_pieces_of_a_stream_become_one(self, make: ModuleType) -> None:
        piece = {"output_type": "stream", "name": "stdout"}
        one, other = {**piece, "text": "a\nb"}, {**piece, "text": "c\n"}
        assert self.kept(make, one, other) == [{**piece, "text": ["a\n", "bc\n"]}]

    def test_standard_error_and_folders_of_the_machine_are_refused(self, make: ModuleType) -> None:
        with pytest.raises(RuntimeError, match="the cell go writes to stderr: oh"):
            self.kept(make, {"output_type": "stream", "name": "stderr", "text": "oh"})
        with pytest.raises(RuntimeError, match="shows a folder of this machine"):
            self.kept(make, {"output_type": "stream", "name": "stdout", "text": "see /home/me/x"})
        with pytest.raises(RuntimeError, match="shows a folder of this machine"):
            shown = {"text/plain": "PosixPath('/tmp/x')"}
            self.kept(make, {"output_type": "execute_result", "execution_count": 3, "data": shown})

    def test_the_rows_of_the_stand_in_are_all_different(self, make: ModuleType) -> None:
        rows = importlib.import_module("_stand_in")._rows(random.Random(0), 500)
        assert len({row["question"] for row in rows}) == 500
        assert all(re.fullmatch(r"\w+ has (\d+) \+ \d+ = (\d+) \w+ now\.\n#### \2", row["answer"]) for row in rows)


class TestInstallCell:
    @pytest.fixture
    def run_cell(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], list[str]]:
        """Runs the cell in a shell whose `%pip` only notes what it is asked for."""
        from IPython.core.interactiveshell import InteractiveShell

        found = importlib.util.find_spec
        source = next(cell.source for cell in read("en", "gsm8k").cells if cell.id == "install")

        def run(is_installed: bool) -> list[str]:
            hidden = None if is_installed else "dunwu"
            monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == hidden else found(name))
            shell, asked = InteractiveShell(), []
            shell.register_magic_function(asked.append, "line", "pip")
            shell.run_cell(source, store_history=False).raise_error()
            return asked

        return run

    def test_it_does_nothing_where_dunwu_is(self, run_cell: Callable[[bool], list[str]]) -> None:
        assert run_cell(True) == []

    def test_it_installs_the_checkout_around_the_notebook(
        self, run_cell: Callable[[bool], list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(EXAMPLES / "zh")
        assert run_cell(False) == [f'install -q "{EXAMPLES.parent}"']

    def test_without_a_checkout_it_says_what_to_fill_in(
        self, run_cell: Callable[[bool], list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(AssertionError, match="say above where a copy of it is"):
            run_cell(False)
