"""Evaluation: the task's grades, error bars by hand, pass@k by hand, and an engine that has the right weights."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dunwu.core.records import Completion, Grade, Prompt, SamplingParams
from dunwu.errors import DataError
from dunwu.recipes.evaluation import evaluate, pass_at_k
from dunwu.rollout.training_prompts import prompts_for_model


class Scripted:
    """An engine at the Protocol's edge: says what the script says, whatever it is asked."""

    def __init__(self, greedy: Sequence[str], sampled: Sequence[Sequence[str]]) -> None:
        self.greedy, self.sampled = greedy, sampled
        self.asked: list[SamplingParams] = []
        self.events: list[Any] = []

    def sync_weights(self, policy: Any, *, version: int) -> None:
        self.events.append(("sync_weights", policy, version))

    @contextmanager
    def session(self) -> Iterator[None]:
        self.events.append("session")
        yield
        self.events.append("end of session")

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
        self.asked.append(sampling)
        self.events.append("generate")
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
    report = evaluate(engine, task, prompts(tiny, 3), samples=2, max_new_tokens=4)
    assert report.share("strict", greedy=True).value == pytest.approx(1 / 3)
    assert report.share("lenient", greedy=True).value == pytest.approx(2 / 3)
    # Per prompt 1, 1/2, 0: mean 1/2, variance of the mean 1/12: as certain as 1/4 / (1/12) = 3 answers, not 6.
    sampled = report.share("strict", greedy=False)
    assert sampled.value == pytest.approx(0.5)
    assert sampled.count == pytest.approx(3)
    assert report.mean_tokens(greedy=True) == pytest.approx(4 / 3)
    assert report.truncated_fraction(greedy=False) == pytest.approx(3 / 6)
    assert report.pass_at(1).value == pytest.approx(0.5)
    assert report.pass_at(2).value == pytest.approx(2 / 3)
    metrics = report.metrics()
    assert metrics["greedy_strict"] == pytest.approx(1 / 3) and metrics["pass@2"] == pytest.approx(2 / 3)
    assert metrics["sampled_strict_low"] == pytest.approx(sampled.low) and sampled.low < 0.15
    assert "letters: 3 prompts, 2 samples" in report.table() and str(sampled) in report.table()


def test_it_samples_once_greedily_and_then_at_the_temperature(tiny: Any) -> None:
    engine = Scripted(["A."], [["A."] * 3])
    task: Any = SimpleNamespace(name="letters", grade=judge)
    evaluate(engine, task, prompts(tiny, 1), samples=3, max_new_tokens=9, temperature=0.7, seed=5)
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
        evaluate(Scripted([], []), task, [], samples=1)


def test_an_engine_with_weights_of_its_own_gets_the_policys_before_it_is_asked(tiny: Any) -> None:
    """It judged the weights of its last update, one behind, when `generate` was the only call."""
    engine, policy = Scripted(["A."], [["A."]]), tiny.model()
    task: Any = SimpleNamespace(name="letters", grade=judge)
    evaluate(engine, task, prompts(tiny, 1), policy=policy, version=7, samples=1)
    once = [("sync_weights", policy, 7), "session", "generate", "generate", "end of session"]
    assert engine.events == once
    # The best checkpoint may have been loaded meanwhile: the same number of steps, other weights.
    evaluate(engine, task, prompts(tiny, 1), policy=policy, version=7, samples=1)
    assert engine.events == once * 2


def test_a_prompt_that_leaves_no_room_for_its_completion_is_refused_with_what_to_lower(tiny: Any) -> None:
    rows = [{"prompt": "short"}, {"prompt": "x" * 100}]
    model, tokenizer = tiny.model(), tiny.tokenizer()
    assert len(prompts_for_model(rows, model, tokenizer, max_completion_length=28)) == 2
    with pytest.raises(
        DataError, match=r"row 1 has 100 tokens .* 29 more, but .* context is 128: .*--max-new-tokens"
    ):
        prompts_for_model(rows, model, tokenizer, max_completion_length=29)


RANKS = """
import json, sys
from accelerate import PartialState
from types import SimpleNamespace
from contextlib import nullcontext
from dunwu._utils.distributed import ParallelContext, let_gloo_finish_at_exit
from dunwu.core.records import Completion, Grade, Prompt
from dunwu.recipes.evaluation import evaluate

state = PartialState(cpu=True)
let_gloo_finish_at_exit()

class Engine:
    asked = []
    def sync_weights(self, policy, *, version): pass
    def session(self): return nullcontext()
    def generate(self, prompts, sampling):
        self.asked += [prompt.row_index for prompt in prompts]
        return [[answer(f"{prompt.text} {sample}") for sample in range(sampling.n)] for prompt in prompts]

def answer(text):
    return Completion(ids=(1,), sampler_logps=(0.0,), finish_reason="stop", text=text)

def grade(row, text):
    return Grade(strict=text in ("p0 0", "p2 0", "p2 1"), lenient=True, formatted=False)

prompts = [Prompt(row_index=i, row={}, original=f"p{i}", text=f"p{i}", ids=(1,)) for i in range(int(sys.argv[1]))]
parallel = ParallelContext(rank=state.process_index, size=state.num_processes)
report = evaluate(Engine(), SimpleNamespace(name="t", grade=grade), prompts, parallel=parallel, samples=2)
texts = [[one.completion.text for one in group] for group in report.sampled]
found = {"rank": parallel.rank, "asked": Engine.asked, "texts": texts, "strict": report.metrics()["sampled_strict"]}
print("RESULT " + json.dumps(found) + "\\n", end="", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("count", "asked", "strict"), [(3, [[0, 2, 0, 2], [1, 1]], 0.5), (1, [[0, 0], []], 0.5)])
def test_ranks_share_the_prompts_and_each_has_the_whole_evaluation(
    tmp_path: Path, count: int, asked: list[list[int]], strict: float
) -> None:
    """Each asked all of them before. A rank without a prompt stays in step."""
    script = tmp_path / "ranks.py"
    script.write_text(RANKS, encoding="utf-8")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(count)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line.partition("RESULT ")[2]) for line in done.stdout.splitlines() if "RESULT " in line]
    by_rank = sorted(found, key=lambda entry: int(entry["rank"]))
    assert [entry["asked"] for entry in by_rank] == asked
    assert [entry["texts"] for entry in by_rank] == [[[f"p{i} 0", f"p{i} 1"] for i in range(count)]] * 2
    assert [entry["strict"] for entry in by_rank] == [pytest.approx(strict)] * 2
