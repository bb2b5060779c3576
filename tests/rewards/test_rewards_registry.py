"""Rewards are found by name, by module and by file, and a misspelt name is answered with the nearest one."""

import subprocess
import sys
from pathlib import Path

import pytest

from dunwu import rewards
from dunwu.rewards import formats, numbers, text, tutorials


def test_built_in_rewards_are_found_by_name() -> None:
    assert rewards.get_reward("number_matches") is rewards.number_matches
    assert rewards.get_reward("xmlcount_reward_func") is tutorials.xmlcount_reward_func


def test_every_tutorial_reward_is_built_in() -> None:
    assert {n for n in tutorials.__all__ if not n.startswith("extract_")} <= rewards.BUILT_IN.keys()


def test_a_function_of_a_package_or_a_file_is_found(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def ones(completions, **columns):\n    return [1.0] * len(completions)\n\n\nclass Twos:\n"
        "    def __call__(self, completions, **columns):\n        return [2.0] * len(completions)\n"
    )
    assert rewards.get_reward("dunwu.rewards.tutorials:reward_len") is tutorials.reward_len
    assert rewards.get_reward(f"{file}:ones")(completions=["a"]) == [1.0]
    assert rewards.get_reward(f"{file}:Twos")(completions=["a"]) == [2.0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("number_match", "did you mean 'number_matches'"),
        ("dunwu.rewards.tutorials:reward_lenn", "did you mean 'reward_len'"),
        ("dunwu.nowhere:f", "there is no module 'dunwu.nowhere' for a reward"),
        ("nowhere/mine.py:f", "there is no file 'nowhere/mine.py' for a reward"),
    ],
)
def test_an_unknown_name_is_refused_with_the_reason(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rewards.get_reward(name)


def test_a_module_that_misses_a_package_names_it(tmp_path: Path) -> None:
    file = tmp_path / "needs.py"
    file.write_text("import a_package_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        rewards.get_reward(f"{file}:f")


def test_one_name_is_one_reward_and_not_its_letters() -> None:
    assert rewards.get_rewards("think_answer_format") == (rewards.think_answer_format,)
    assert rewards.get_rewards(["reward_len", "solves_it"][:1]) == (tutorials.reward_len,)
    with pytest.raises(ValueError, match="given by its name here, got 5"):
        rewards.get_rewards([5])  # type: ignore[list-item]


def test_what_cannot_be_called_is_no_reward() -> None:
    with pytest.raises(ValueError, match="is of type tuple"):
        rewards.get_reward("dunwu.rewards.formats:THINK_ANSWER")


def test_every_reward_and_reader_can_be_imported_from_the_package() -> None:
    for name in (*rewards.BUILT_IN, *formats.__all__, *numbers.__all__, *text.__all__, *rewards.__all__):
        assert getattr(rewards, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'number_match'"):
        rewards.number_match  # type: ignore[attr-defined]  # noqa: B018
    assert sorted(rewards.__all__) == rewards.__all__


def test_importing_the_package_and_its_readers_is_cheap() -> None:
    check = "import sys; from dunwu.rewards import solves, sandboxed; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
    check = "import sys; from dunwu.rewards import RewardRunner; sys.exit('transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
