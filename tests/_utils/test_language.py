"""Which language is spoken, and what becomes of a finished text in it."""

import io
import logging
import os
import pickle
import subprocess
import sys
import time
import traceback

import pytest

from dunwu._utils import language as module
from dunwu._utils.catalogue import Catalogue
from dunwu._utils.language import language, translated
from dunwu._utils.logging import get_logger
from dunwu._utils.suggest import did_you_mean
from dunwu.cli import main
from dunwu.core.records import Completion, Group, Prompt, Rollout
from dunwu.errors import ConfigError, DunwuError, RewardError, RewardFailure
from dunwu.observers.printed_completions import format_completions


@pytest.fixture
def chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUNWU_LANG", "zh")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "en"),
        ({"DUNWU_LANG": "zh"}, "zh"),
        ({"DUNWU_LANG": "zh_CN.UTF-8"}, "zh"),
        ({"DUNWU_LANG": "ZH-cn"}, "zh"),
        ({"DUNWU_LANG": "en_GB"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "en_US.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_TW"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "DUNWU_LANG": "en"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "DUNWU_LANG": " "}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
    ],
)
def test_dunwu_lang_decides_and_else_the_system(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DUNWU_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language() == expected


def test_a_language_that_is_not_there_is_one_sentence_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DUNWU_LANG", "fr")
    with pytest.raises(ConfigError, match="set it to en or zh"):
        language()
    assert translated("there is no folder") == "there is no folder", "what is printed must be printable"
    assert main(["rewards", "quickstart", "--text", "x"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_english_costs_nothing_and_loads_no_catalogue() -> None:
    code = (
        "import sys, logging, dunwu\nfrom dunwu._utils import language\nfrom dunwu._utils.logging import get_logger\n"
        "from dunwu.errors import ConfigError\n"
        "get_logger().warning('there is no folder'); ConfigError('there is no task'); language.translated('x')\n"
        "assert language._catalogue.cache_info().currsize == 0 and 'yaml' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    began = time.perf_counter()
    for _ in range(10_000):
        translated("there is no folder 'x'")
    assert time.perf_counter() - began < 1


def test_a_label_is_translated_with_its_figures(chinese: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_catalogue", lambda: Catalogue({}, {"{n:,} steps": "{n:,} 步", "step": "步"}))
    assert translated("{n:,} steps", n=1234) == "1,234 步"
    assert translated("step") == "步"
    assert translated("{n} unknown things", n=3) == "3 unknown things"
    monkeypatch.setenv("DUNWU_LANG", "en")
    assert translated("{n:,} steps", n=1234) == "1,234 steps"


def test_hints_and_reasons_inside_of_a_message_are_translated_too(chinese: None) -> None:
    hint = did_you_mean("consle", ["console", "metrics_log"])
    assert translated(f"there is no built-in observer 'consle'{hint}. Your own is named package.module:object") == (
        "没有内置的观察器 'consle'；是不是想写 'console'？自己的观察器写成 package.module:object"
    )
    assert translated("beta=-1 does not work: it must be 0 or more.") == "beta=-1 不可用：必须不小于 0。"


def test_what_is_joined_is_translated_piece_by_piece(chinese: None) -> None:
    text = "this script needs what Dunwu does not have:\n  a.py, line 3: there is no script 'x'; check the path\n  z"
    assert translated(text) == "这个脚本需要 Dunwu 没有的功能：\n  a.py，第 3 行：没有脚本 'x'；请检查路径\n  z"


def test_placeholders_change_places_where_chinese_wants_it(chinese: None) -> None:
    found = (
        "only 7 different puzzles found for the test split, 9 were asked for; ask for fewer rows or widen low..high"
    )
    assert translated(f"{found} or target_low..target_high").startswith("test 划分只找到 7 道不同的题，而要求 9 道；")


def test_what_is_not_ours_stays_as_it_is(chinese: None) -> None:
    for text in (
        "",
        "No such file or directory: 'x'",
        "somebody else's sentence",
        "{} {0} {!r} {x}",
        "已经是中文",
    ):
        assert translated(text) == text


def test_quoted_values_are_never_translated(chinese: None) -> None:
    """A recipe may well be named like a message of ours."""
    said = translated("there is no script 'there is no folder'; check the path")
    assert said == "没有脚本 'there is no folder'；请检查路径"


def test_a_prompt_or_completion_that_reads_like_a_message_is_printed_as_it_is(chinese: None) -> None:
    ours = "there is no script 'x'; check the path"
    completion = Completion(ids=(1,), sampler_logps=(-0.1,), finish_reason="stop", text=ours)
    rollout = Rollout(completion=completion, reward=1.0, scores={"right": 1.0}, advantage=0.5)
    prompt = Prompt(ids=(1,), text="before training", original="before training", row={}, row_index=0)
    said = translated(format_completions([Group(prompt=prompt, rollouts=(rollout,))], 1))
    assert said.splitlines()[0] == "提示词：before training"
    assert said.splitlines()[1].endswith(f"：{ours}")
    assert said.splitlines()[2].startswith("奖励 1.0")


def test_a_long_text_is_looked_up_in_milliseconds(chinese: None) -> None:
    text = "row 3 of 'x' has tokens, and the model's context is; it must be at least 1 (default) of " * 500
    translated("warm up")
    began = time.perf_counter()
    assert translated(text) == text
    assert time.perf_counter() - began < 1


def test_an_error_is_english_with_its_twin_as_a_note(chinese: None) -> None:
    error = ConfigError("there is no script 'x'; check the path")
    assert str(error) == "there is no script 'x'; check the path"
    assert error.__notes__ == ["没有脚本 'x'；请检查路径"]
    assert traceback.format_exception(error)[-1] == "没有脚本 'x'；请检查路径\n"
    assert pickle.loads(pickle.dumps(error)).__notes__ == error.__notes__
    failure = RewardFailure(function="f", row=0, kind="nan", detail="nan")
    assert RewardError("there is no reward function; give at least one, or nothing can be learned", failure).__notes__
    assert not hasattr(DunwuError("of a user's own"), "__notes__")


def test_an_error_in_english_has_no_note() -> None:
    assert not hasattr(ConfigError("there is no script 'x'; check the path"), "__notes__")


def test_the_log_speaks_chinese(chinese: None, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("dunwu")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    get_logger().warning("%s: trying ModelScope, because %s", "Qwen/x", "https://hf.co did not answer")
    assert sys.stdout.getvalue() == "Qwen/x：改试 ModelScope，因为 https://hf.co 没有响应\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["train", "quickstrat"],
            "不是内置配方、文件，也不是运行文件夹；是不是想写 'quickstart'？",
        ),
        (["train", "quickstart", "--train.lerning_rate", "1"], "是不是想写 'learning_rate'？"),
        (["train", "quickstart", "--train.num_generations", "1"], "num_generations=1 不可用：必须至少为 2"),
        (["train", "quickstart", "--train.epsilon", "abc"], "train.epsilon 必须是数字，现为 'abc'"),
        (["train", "quickstart", "--train.max_completion_length", "2000"], "在这个模型 1024 token 的上下文中"),
        (
            ["train", "quickstart", "--train.loss_type", "gpro"],
            "未知的 loss_type='gpro'；是不是想写 'gspo'？",
        ),
        (["train", "quickstart", "--train.engine", "fst"], "未知的 engine='fst'；是不是想写 'fast'？自己的引擎"),
        (["train", "quickstart", "--train.output_dir", "pyproject.toml"], "是文件；请给出文件夹"),
        (["train", "quickstart", "--model", "/nowhere/at/all"], "'/nowhere/at/all'，也没有文件夹 '/nowhere/at'"),
        (["train", "quickstart", "--observers", "foo.bar:baz"], "找不到观察器所在的模块 'foo.bar'"),
        (
            ["train", "quickstart", "--rewards", "equation_solvs"],
            "是不是想写 'equation_solves'？",
        ),
        (["eval", "embedded", "--task", "contdown"], "没有任务 'contdown'；是不是想写 'countdown'？"),
        (
            ["eval", "embedded", "--task", "quickstart", "--max-new-tokens", "1020"],
            "回答最多还可有 1020 token",
        ),
        (["chat", "embedded", "--temperature", "-1"], "--temperature 不能小于 0，现为 -1.0"),
        (["rewards", "quickstart", "--text", "x", "--row", "99999"], "没有 --row 99999；训练集有第 0 至 "),
        (["rewards", "quickstart", "--text", "x", "--set", "target"], "--set 'target' 应写成 COLUMN=VALUE"),
    ],
)
def test_a_mistake_at_the_command_line_is_answered_in_chinese(
    words: list[str], expected: str, chinese: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"dunwu {words[0]}: ") and expected in said
    assert not any(word in said for word in (" the ", " is ", "must ", "; give", "did you mean"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "gsm8k", "--task.source", "/nowhere/at/all"], "'/nowhere/at/all'"),
        (["fetch", "x/y", "--to", "pyproject.toml"], "'pyproject.toml' 是文件；请给出要下载到的文件夹"),
        (["run", "/nowhere.py"], "没有脚本 '/nowhere.py'；请检查路径"),
    ],
)
def test_a_mistake_is_answered_in_chinese_by_a_process_of_its_own(words: list[str], expected: str) -> None:
    """These change their process: `trl` means Dunwu from then on, and a hub that was asked in vain stays offline."""
    own = {**os.environ, "DUNWU_LANG": "zh", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "dunwu", *words], env=own, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith(f"dunwu {words[0]}: ") and expected in done.stderr


def test_help_is_chinese(chinese: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rewards", "--help"])
    said = capsys.readouterr().out
    assert "选项:" in said and "显示帮助并退出" in said and "（默认：0）" in said
    assert "a YAML file" not in said


def test_an_unknown_argument_is_answered_in_chinese(chinese: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["chat", "embedded", "--frob", "3"])
    assert "没有参数 '--frob'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["eval", "embedded", "--split", "x"])
    said = capsys.readouterr().err
    assert (
        said.startswith("dunwu eval: 参数 --split 没有选项 'x'（可选：")
        and "（`dunwu eval --help` 列出可用参数）" in said
    )
