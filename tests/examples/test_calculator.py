"""The calculator's conversations: its arithmetic, what is trained on, and what the rewards read."""

from __future__ import annotations

import runpy
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import dunwu
from dunwu.rewards import answer_in_tags, solves
from dunwu.rollout.prompts import next_turn_ids

EXAMPLE = Path(__file__).parents[2] / "examples" / "calculator.py"


class Keep(dunwu.Observer):
    """Keeps every step."""

    def __init__(self) -> None:
        self.steps: list[dunwu.StepResult] = []

    def on_step(self, step: dunwu.StepResult) -> None:
        self.steps.append(step)


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


@pytest.fixture(scope="module")
def steps(example: dict[str, Any]) -> Sequence[dunwu.StepResult]:
    kept = Keep()
    example["train"](3, kept)
    return kept.steps


def rollouts(steps: Sequence[dunwu.StepResult]) -> Iterator[tuple[dunwu.Prompt, dunwu.Rollout]]:
    for step in steps:
        for group in step.groups:
            yield from ((group.prompt, rollout) for rollout in group.rollouts)


def by_python(expression: str) -> Fraction:
    """The value of an expression that holds digits, signs and parentheses only, by Python's own arithmetic."""
    assert set(expression) <= set("0123456789+-*/() ")
    wrapped = "".join(f"Fraction({part})" if part.isdigit() else part for part in _parts(expression))
    return Fraction(eval(wrapped, {"Fraction": Fraction}))


def _parts(expression: str) -> list[str]:
    for sign in "+-*/()":
        expression = expression.replace(sign, f" {sign} ")
    return expression.split()


def test_wrong_answers_get_their_value_and_a_second_turn(steps: Sequence[dunwu.StepResult]) -> None:
    answered = 0
    for prompt, rollout in rollouts(steps):
        messages = rollout.completion.messages
        if not messages:
            continue
        assert [message["role"] for message in messages] == ["assistant", "user", "assistant"]
        expression, _, value = messages[1]["content"].removesuffix(" no\n").rpartition("=")
        assert expression == answer_in_tags(messages[0]["content"])
        assert by_python(expression) == Fraction(value) != prompt.row["target"]
        answered += 1
    assert len(steps) == 3 and answered > 30


def test_only_what_the_model_sampled_is_trained_on(steps: Sequence[dunwu.StepResult]) -> None:
    tokenizer = dunwu.load_tokenizer(dunwu.embedded_model_path())
    talks = [rollout.completion for _, rollout in rollouts(steps) if rollout.completion.messages]
    for talk in talks:
        assert talk.sampled is not None
        start, stop = talk.sampled.index(False), len(talk.sampled) - talk.sampled[::-1].index(False)
        assert not any(talk.sampled[start:stop])
        assert list(talk.ids[start:stop]) == next_turn_ids(tokenizer, talk.messages[1], last_id=talk.ids[start - 1])
    (step, *_) = steps
    batches = dunwu.make_micro_batches(step.groups, loss_aggregation="token_mean", tokens=100_000)
    mine = [rollout.completion for group in step.groups for rollout in group.rollouts]
    for batch in batches:
        for row, index in enumerate(batch.rollout_index):
            talk = mine[index]
            sampled = talk.sampled or (True,) * len(talk.ids)
            assert [value > 0 for value in batch.mask_BC[row, : len(talk.ids)].tolist()] == list(sampled)


def test_the_rewards_read_the_last_message(steps: Sequence[dunwu.StepResult]) -> None:
    mended = 0
    for prompt, rollout in rollouts(steps):
        if not rollout.completion.messages:
            continue
        first, last = (answer_in_tags(rollout.completion.messages[i]["content"]) for i in (0, -1))
        given = (prompt.row["nums"], prompt.row["target"])
        right = last is not None and solves(last, *given)
        assert rollout.scores["equation_solves"] == float(right)
        assert first is not None and not solves(first, *given)
        mended += right
    assert mended, "no conversation was mended by its second turn, so nothing was shown"


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("<think>15-13=2 no\n</think>\n<answer>7+15-13</answer>", "7+15-13=9 no\n"),
        ("<answer>7/(15-13)</answer>", "7/(15-13)=7/2 no\n"),
        ("<answer>7-15</answer>", "7-15=-8 no\n"),
        ("<answer>15*(13-7)</answer>", None),
        ("<answer>15*(13-</answer>", None),
        ("<answer>7/(13-13)</answer>", None),
        ("<answer>9**9**9</answer>", None),
        ("<think>15*6=90 yes\n", None),
    ],
)
def test_it_replies_to_a_wrong_value_only(example: dict[str, Any], text: str, reply: str | None) -> None:
    row = {"nums": [13, 7, 15], "target": 90}
    said = example["Calculator"]().reply(row, [{"role": "assistant", "content": text}])
    assert said == (None if reply is None else {"role": "user", "content": reply})


def test_the_reply_is_in_pieces_that_the_model_knows() -> None:
    """Numbers, signs and the verdict are one token each; single bytes would be strange to it."""
    tokenizer = dunwu.load_tokenizer(dunwu.embedded_model_path())
    pieces = tokenizer.tokenize("7+15-13=9 no\n")
    assert pieces == ["7", "+", "15", "-", "13", "=", "9", " no\n"]


def test_it_prints_each_steps_reward_and_a_conversation(
    example: dict[str, Any], steps: Sequence[dunwu.StepResult], capsys: pytest.CaptureFixture[str]
) -> None:
    example["Show"]().on_step(steps[0])
    printed = capsys.readouterr().out
    assert f"step 1: reward {steps[0].metrics['reward']:.3f}" in printed
    roles = [line.strip().split(":")[0] for line in printed.splitlines() if ":" in line][1:]
    assert roles == ["user", "assistant", "user", "assistant", "earned"]
