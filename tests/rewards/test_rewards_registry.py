"""Rewards are found by name, by module and by file, and a misspelt name is answered with the nearest one."""

import subprocess
import sys
from pathlib import Path

import pytest

from dunwu import rewards
from dunwu.rewards import tutorials


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
def test_a_name_that_is_not_there_is_answered_in_words(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rewards.get_reward(name)


def test_a_module_that_misses_a_package_says_which(tmp_path: Path) -> None:
    file = tmp_path / "needs.py"
    file.write_text("import a_package_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        rewards.get_reward(f"{file}:f")


def test_everything_in_all_exists_and_importing_is_cheap() -> None:
    assert sorted(rewards.__all__) == rewards.__all__ and all(hasattr(rewards, name) for name in rewards.__all__)
    check = "import sys, dunwu.rewards; sys.exit('transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
