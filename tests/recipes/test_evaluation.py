"""Evaluation: the judge's verdicts, error bars by hand, pass@k by hand."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from dunwu.core.records import Completion, Grade, Prompt, SamplingParams
from dunwu.recipes.evaluation import Proportion, evaluate, pass_at_k


class Scripted:
    """An engine at the Protocol's edge: says what the script says, whatever it is asked."""

    def __init__(self, greedy: Sequence[str], sampled: Sequence[Sequence[str]]) -> None:
        self.greedy, self.sampled = greedy, sampled
        self.asked: list[SamplingParams] = []

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
        self.asked.append(sampling)
        texts = [[text] for text in self.greedy] if sampling.temperature == 0 else self.sampled
        return [[completion(text) for text in several] for several in texts]


def completion(text: str) -> Completion:
    return Completion(
        ids=tuple(range(len(text))),
        sampler_logps=(0.0,) * len(text),
        finish_reason="stop" if text[-1] == "." else "length",
        text=text,
    )


def judge(row: Any, text: str) -> Grade:
    return Grade(strict=text.startswith("A"), lenient="a" in text.lower(), formatted=text.endswith("."))


def prompts(tiny: Any, count: int) -> list[Prompt]:
    made: list[Prompt] = tiny.prompts(*(f"p{i}" for i in range(count)))
    return made


def test_shares_and_their_errors_are_those_of_the_prompts(tiny: Any) -> None:
    engine = Scripted(["A.", "b", "a"], [["A.", "A."], ["b", "A"], ["b.", "b"]])
    task: Any = SimpleNamespace(name="letters", grade=judge)
    report = evaluate(engine, task, prompts(tiny, 3), samples=2, max_new_tokens=4)  # type: ignore[arg-type]
    assert report.share("strict", greedy=True).value == pytest.approx(1 / 3)
    assert report.share("lenient", greedy=True).value == pytest.approx(2 / 3)
    # Per prompt 1, 1/2, 0: mean 1/2, sample standard deviation 1/2, error 1/2 / √3.
    sampled = report.share("strict", greedy=False)
    assert sampled.value == pytest.approx(0.5)
    assert sampled.error == pytest.approx(0.5 / 3**0.5)
    assert report.mean_tokens(greedy=True) == pytest.approx(4 / 3)
    assert report.truncated_fraction(greedy=False) == pytest.approx(3 / 6)
    assert report.pass_at(1).value == pytest.approx(0.5)
    assert report.pass_at(2).value == pytest.approx(2 / 3)
    figures = report.figures()
    assert figures["greedy_strict"] == pytest.approx(1 / 3) and figures["pass@2"] == pytest.approx(2 / 3)
    assert "letters: 3 prompts, 2 samples" in report.table() and "50.0 % ± 28.9" in report.table()


def test_it_asks_once_greedily_and_then_at_the_temperature(tiny: Any) -> None:
    engine = Scripted(["A."], [["A."] * 3])
    task: Any = SimpleNamespace(name="letters", grade=judge)
    evaluate(engine, task, prompts(tiny, 1), samples=3, max_new_tokens=9, temperature=0.7, seed=5)  # type: ignore[arg-type]
    assert [(s.n, s.temperature, s.max_new_tokens, s.seed) for s in engine.asked] == [(1, 0.0, 9, 5), (3, 0.7, 9, 5)]


def test_pass_at_k_is_the_unbiased_estimate() -> None:
    # 4 samples, 1 right, 2 drawn: 1 − C(3,2)/C(4,2) = 1 − 3/6.
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)
    assert pass_at_k(4, 0, 4) == 0.0
    assert pass_at_k(4, 3, 2) == 1.0
    with pytest.raises(ValueError, match=r"pass@5 cannot be estimated from 4 samples"):
        pass_at_k(4, 1, 5)


def test_an_evaluation_of_nothing_is_refused(tiny: Any) -> None:
    task: Any = SimpleNamespace(name="letters", grade=judge)
    with pytest.raises(ValueError, match="needs prompts and samples"):
        evaluate(Scripted([], []), task, [], samples=1)  # type: ignore[arg-type]


def test_a_share_prints_as_per_cent_with_its_error() -> None:
    assert str(Proportion(value=0.6204, error=0.0217)) == "62.0 % ± 2.2"
