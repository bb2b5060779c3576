"""The examples as pages: one content in two languages, notebooks as their source writes them, commands that run.

Every ```bash block of the English pages is executed, word for word but for the stand-ins below; the Chinese pages
have the same blocks.
"""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dunwu.cli import main
from dunwu.embedded import embedded_model_path
from dunwu.rewards import RewardRunner
from hub_server import HubServer

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
ENGLISH = sorted((EXAMPLES / "en").iterdir())

STAND_INS = (
    ("models/Qwen2.5-3B-Instruct", "embedded"),
    ("Qwen/Qwen2.5-0.5B-Instruct", "embedded"),
    ("outputs/Qwen-0.5B-GRPO", "{trained}"),
    ("compare {trained} outputs/coin", "compare {trained} {coin}"),
    ("data/gsm8k", "{gsm8k}"),
    ("data/countdown", "{countdown}"),
    ("--task gsm8k --rows", "--task gsm8k --task.source {gsm8k} --rows"),
    ("--rows 1319", "--rows 2"),
    ("--max-new-tokens 320", "--max-new-tokens 16"),
    ("--mixed_precision bf16", "--mixed_precision no"),
)
"""What a command names, and what is taken for it where there is neither network nor GPU."""

SMALL = (
    "--train.max_steps 1 --train.num_generations 4 --train.prompts_per_step 2 --train.max_prompt_length 700 "
    "--train.max_completion_length 16 --train.save_strategy no --train.output_dir {output}"
)
"""Added to every `dunwu train`: one small step."""


def blocks(page: Path, language: str) -> list[str]:
    """Code blocks of a page in one language, in order."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def files_named(page: Path) -> set[str]:
    """Names of files that a page mentions."""
    return set(re.findall(r"\w+\.(?:ipynb|md|py|ya?ml|jsonl)", page.read_text(encoding="utf-8")))


def commands() -> list[str]:
    """Every command of the English pages, once."""
    lines = [line for page in ENGLISH for block in blocks(page, "bash") for line in block.splitlines()]
    return list(dict.fromkeys(line for line in lines if line))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders for the stand-ins: data, a trained model with its log, and room for outputs."""
    base = tmp_path_factory.mktemp("places")
    question = {"question": "How much is 40 + 32?", "answer": "40 + 32 = 72\n#### 72"}
    puzzles = [{"nums": [low, low + 1, 20 - low], "target": low + 21} for low in range(1, 20)]
    content = {"gsm8k/train": [question] * 4, "gsm8k/test": [question] * 2, "countdown/train": puzzles}
    content["tldr/train"] = [{"prompt": f"POST: the sea, {n}\nTL;DR:", "completion": " sea"} for n in range(8)]
    for name, rows in content.items():
        path = base / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = {name: str(base / name) for name in ("gsm8k", "countdown", "tldr", "trained", "coin", "output")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        small = SMALL.format(output=found["trained"]).split()
        assert main(["train", "examples/your_own.yaml", *small, "--train.max_completion_length", "60"]) == 0
    shutil.copytree(found["trained"], found["coin"])
    return found


def stand_in(command: str, places: dict[str, str]) -> list[str]:
    """The command's words, with stand-ins."""
    for name, instead in STAND_INS:
        command = command.replace(name, instead)
    words = shlex.split(command.format_map(places))
    if "train" in words and "dunwu" in words:
        words += SMALL.format_map(places).split()
        if words[words.index("train") + 1] == "gsm8k":
            words += ["--model", "embedded", "--evaluate.rows", "2"]
        elif "embedded" not in words and "countdown_3b" in words:
            words += ["--model", "embedded"]
    return words


@pytest.fixture(scope="module")
def hub(places: dict[str, str]) -> Iterator[dict[str, str]]:
    """The environment of a machine whose hubs are here."""
    served: dict[tuple[str, str], str | Path] = {
        ("dataset", name): places[folder]
        for name, folder in (
            ("openai/gsm8k", "gsm8k"),
            ("AI-ModelScope/gsm8k", "gsm8k"),
            ("Jiayi-Pan/Countdown-Tasks-3to4", "countdown"),
        )
    }
    for size in ("0.5B", "3B"):
        served["model", f"Qwen/Qwen2.5-{size}-Instruct"] = embedded_model_path()
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MODELSCOPE_"))}
    home = str(Path(places["output"]).with_name("home"))
    with HubServer(served) as server:
        here = {"HF_ENDPOINT": server.url, "MODELSCOPE_ENDPOINT": server.url}
        yield {**own, **here, "HOME": home, "HF_HOME": home, "MODELSCOPE_CACHE": home}


def run_cli(words: list[str], places: dict[str, str], hub: dict[str, str]) -> None:
    assert main(words[1:]) == 0


def run_script(words: list[str], places: dict[str, str], hub: dict[str, str]) -> None:
    script = Path(words[1])
    if script.name == "ten_lines.py":
        script = small_ten_lines(places)
    given = [str(script), "--steps", "1", "--output", places["output"]] if script.name == "your_own.py" else [""]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", given)
        runpy.run_path(str(script), run_name="__main__")


def run_process(words: list[str], places: dict[str, str], hub: dict[str, str]) -> None:
    bin_folder = Path(sys.executable).parent
    line = shlex.join(words).replace("'|'", "|")  # a pipe stays a pipe
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    fetches = words[:2] == ["dunwu", "fetch"]
    environment = hub if fetches else {**os.environ, "ACCELERATE_USE_CPU": "true"}
    # A download goes where the page says, but in a folder of the test.
    where = Path(places["output"]).parent / "elsewhere" if fetches else ROOT
    where.mkdir(exist_ok=True)
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=where,
        env={**environment, "PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    if fetches:
        assert any((where / words[words.index("--to") + 1]).iterdir())


RUNNERS: dict[str, Callable[[list[str], dict[str, str], dict[str, str]], None]] = {
    "dunwu": run_cli,
    "python": run_script,
    "accelerate": run_process,
}


def small_ten_lines(places: dict[str, str]) -> Path:
    """The script with a model and data that are here, and one small step."""
    text = (EXAMPLES / "ten_lines.py").read_text(encoding="utf-8")
    size = "max_steps=1, max_completion_length=16, num_generations=4"
    for name, instead in (
        ("Qwen/Qwen2-0.5B-Instruct", embedded_model_path()),
        ("trl-lib/tldr", places["tldr"]),
        ("outputs/Qwen2-0.5B-GRPO", places["output"]),
        ("num_generations=8", size),
    ):
        assert name in text
        text = text.replace(name, instead)
    script = Path(places["output"]).with_name("ten_lines.py")
    script.write_text(text, encoding="utf-8")
    return script


@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_a_command_runs_as_written(
    command: str,
    places: dict[str, str],
    hub: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    if command.startswith("dunwu fetch"):
        run_process(shlex.split(command), places, hub)
        return
    words = stand_in(command, places)
    (run_process if "|" in words else RUNNERS[words[0]])(words, places, hub)
    if "rewards gsm8k" in command:
        printed = capsys.readouterr().out
        assert re.search(r"strict_format_reward_func +" + ("0.5" if "--gold" in command else "0$"), printed, re.M)
    if command.endswith("--sort reward"):
        rewards = [
            float(found) for found in re.findall(r"^ +\d+ +\d+ +\d+ +(-?\d+\.\d+)", capsys.readouterr().out, re.M)
        ]
        assert len(rewards) > 2 and rewards == sorted(rewards, reverse=True)
    if "--row 0" in command:
        printed = capsys.readouterr().out
        assert re.search(r"^right +" + ("1$" if "--set" in command else "0$"), printed, re.M)


def test_both_languages_have_the_same_pages_and_the_same_code() -> None:
    assert [page.name for page in ENGLISH] == [page.name for page in sorted((EXAMPLES / "zh").iterdir())]
    for page in ENGLISH:
        for language in ("bash", "python", "json"):
            assert blocks(page, language) == blocks(EXAMPLES / "zh" / page.name, language), page.name
        english, chinese = (files_named(EXAMPLES / language / page.name) for language in ("en", "zh"))
        assert english == chinese, page.name


def test_every_link_leads_somewhere_and_the_index_has_every_page() -> None:
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for page in [EXAMPLES / "README.md", *EXAMPLES.glob("*/*.md")]:
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page}: {target}"
    for page in EXAMPLES.glob("??/*"):
        assert f"({page.parent.name}/{page.name})" in index


def test_the_notebooks_are_what_their_source_writes(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(EXAMPLES / "make.py"), "--to", str(tmp_path)], check=True, stdout=subprocess.DEVNULL
    )
    written = sorted(tmp_path.rglob("*.ipynb"))
    assert len(written) == 4
    for path in written:
        committed = EXAMPLES / path.relative_to(tmp_path)
        assert path.read_bytes() == committed.read_bytes(), "run: python examples/make.py"


@pytest.mark.parametrize("name", ["ten_lines", "your_own"])
def test_the_python_of_a_page_runs(name: str) -> None:
    namespace: dict[str, Any] = {}
    for block in blocks(EXAMPLES / "en" / f"{name}.md", "python"):
        exec(compile(block, name, "exec"), namespace)
    if name == "your_own":
        assert namespace["scores"].values == ((0.25,), (None,))
        runner = RewardRunner([namespace["right"], namespace["judged"]])
        texts = {"prompts": ["?"] * 2, "completions": [" 51", "because"], "completion_ids": [[]] * 2}
        assert runner.score(**texts, columns={"target": [51, 51]}).values == ((1.0, 0.0), (0.0, 1.0))


def test_the_reward_of_the_ten_lines_likes_twenty_characters_best() -> None:
    tree = ast.parse((EXAMPLES / "ten_lines.py").read_text(encoding="utf-8"))
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    namespace: dict[str, Any] = {}
    exec(compile(ast.Module([function], []), "ten_lines", "exec"), namespace)
    assert namespace["reward_len"](completions=["x" * 20, "x" * 23, ""]) == [0, -3, -20]
    assert len([line for line in ast.unparse(tree).splitlines()[1:] if line]) <= 10


@pytest.mark.slow
def test_the_names_of_the_pages_are_those_of_the_log(places: dict[str, str]) -> None:
    lines = (Path(places["trained"]) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = set(json.loads(lines[-1]))
    page = (EXAMPLES / "en" / "not_learning.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"\| the log shows .*?\n\n", page, re.DOTALL)
    first = [row.split("|")[1] for row in table.splitlines()[2:] if "|" in row]
    quoted = {name for cell in first for name in re.findall(r"`([^`]+)`", cell)} - {"clipped_ratio"}
    named = {name for name in quoted if not re.search("[=…]", name)}
    assert len(named) > 8 and named <= logged, named - logged
    assert {"rewards/right/mean", "rewards/short/mean"} <= logged


def test_the_recipe_is_explained_line_by_line() -> None:
    recipe = (ROOT / "src/dunwu/recipes/countdown_3b.yaml").read_text(encoding="utf-8")
    values = dict(re.findall(r"^ *(\w+): ([^#\n{\[]+?) *(?:#.*)?$", recipe, re.M))
    for language in ("en", "zh"):
        page = (EXAMPLES / language / "countdown.md").read_text(encoding="utf-8")
        said = re.findall(r"`(?:task\.)?(\w+): ([^`]+)`", page.split("\n## ")[2])
        assert len(said) > 12
        for name, value in said:
            assert values[name] == value, f"{language}: {name}: {value}"
