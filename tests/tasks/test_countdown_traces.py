"""Thoughts read by hand."""

import pytest

from dunwu.tasks.countdown_traces import Thought, ThoughtSummary, read_thought, summarise

END = "</think>\n<answer>17*(17-14)</answer>"


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        # trials, arithmetic right, verdicts right, repeats
        (f"<think>17-14=3, 17-3=14 no\n17-14=3, 17*3=51 yes\n{END}", Thought(2, 2, 2, 0)),
        (f"17-14=3, 17*3=51 yes\n{END}", Thought(1, 1, 1, 0)),  # the opening tag stood in the prompt
        (f"<think>17-14=4, 17*4=68 no\n{END}", Thought(1, 0, 1, 0)),  # first step wrong, judged rightly as written
        (f"<think>17-14=3, 17*3=41 yes\n{END}", Thought(1, 0, 0, 0)),  # 41 is not 51, whatever 17*3 is
        (f"<think>17-14=3, 17*3=51 no\n{END}", Thought(1, 1, 0, 0)),  # right, but not recognised
        (f"<think>17-3=14, 14+14=28 yes\n{END}", Thought(1, 1, 0, 0)),  # a false yes
        (f"<think>17-3=14, 14+14=28\n{END}", Thought(1, 1, 0, 0)),  # no verdict is no right verdict
        (f"<think>17-3=14, 14+14=28 no\n17-3=14, 14+14=28 no\n{END}", Thought(2, 2, 2, 1)),
        (f"<think>17-3=14, 14+14=28 no\n17-3=14, 14+14=29 no\n{END}", Thought(2, 1, 2, 0)),
        (f"<think>Let me see.\n17-3=14, 14+14=28 no\n\nHm.\n{END}", Thought(1, 1, 1, 0)),  # prose is no trial
        (f"<think>12/4=3, 51/3=17 no\n12/5=2, 2+49=51 yes\n{END}", Thought(2, 1, 2, 0)),  # 12/5 is not whole
        (f"<think>3/0=0, 51+0=51 yes\n{END}", Thought(1, 0, 1, 0)),
        ("<think>17-3=14, 14+14=28 no\n17-14=3, 17*3=5", Thought(1, 1, 1, 0)),  # cut by the token limit
        ("", Thought(0, 0, 0, 0)),
        (END, Thought(0, 0, 0, 0)),
        ("<think>1.5+2=3.5 no\n</think>", Thought(0, 0, 0, 0)),  # decimals are not half-read
        (f"<think>{END}17-3=14 no\n", Thought(0, 0, 0, 0)),  # what follows the thought is not thought
    ],
)
def test_a_thought_is_counted_as_by_hand(text: str, thought: Thought) -> None:
    assert read_thought(text, 51) == thought


def test_a_summary_shares_over_trials_not_over_completions() -> None:
    texts = [
        f"<think>17-3=14, 14+14=28 no\n17-3=14, 14+14=28 no\n17-14=3, 17*3=51 yes\n{END}",
        f"<think>17-14=3, 17*3=41 yes\n{END}",
        "nothing",
    ]
    assert summarise(texts, [51, 51, 51]) == ThoughtSummary(
        completions=3, trials=4 / 3, arithmetic_right=3 / 4, verdicts_right=3 / 4, repeats=1 / 4
    )


def test_without_trials_there_are_no_shares() -> None:
    assert summarise(["a"], [1]) == ThoughtSummary(1, 0.0, None, None, None)
    assert summarise([], []) == ThoughtSummary(0, 0.0, None, None, None)


def test_texts_and_targets_must_be_as_many() -> None:
    with pytest.raises(ValueError):
        summarise(["a", "b"], [1])


def test_a_very_long_thought_is_read_quickly() -> None:
    assert read_thought("<think>" + "9" * 200_000 + "\n" + "1+" * 100_000 + "\n</think>", 3).trials == 0
