"""What one wants of a trainer in a notebook: answers, a picture, and what watches a run by one argument."""

import json
from pathlib import Path

import pytest
import torch

from dunwu.engines import TransformersEngine
from dunwu.observers import Console, CurvePlot, Findings, MetricsLog, RolloutLog
from dunwu.training.checkpoint import weights_fingerprint

CHAT = [
    {
        "prompt": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": f"say {word}"},
            {"role": "assistant", "content": "well"},
        ]
    }
    for word in ("one", "two", "three")
]


def test_it_answers_as_it_is_now_and_training_does_not_notice(make_trainer):
    plain, asked = make_trainer(max_steps=4), make_trainer(max_steps=4)
    before = asked.ask("say one")
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    assert asked.ask("say one") == before and torch.equal(torch.random.get_rng_state(), state)
    plain.train()
    asked.train()
    assert weights_fingerprint(plain.model) == weights_fingerprint(asked.model)
    assert len(asked.ask("say one", max_new_tokens=3)) == 3 != len(before)
    drawn = {asked.ask("say one", temperature=1.0, max_new_tokens=8) for _ in range(3)}
    assert len(drawn) == 1, "the run's seed, so that an answer can be shown again"


def test_a_question_is_put_as_the_training_prompts_are(make_trainer, tiny):
    asked = []

    class Recording(TransformersEngine):
        def generate(self, prompts, sampling):
            asked.extend(prompt.text for prompt in prompts)
            return super().generate(prompts, sampling)

    model = tiny.model()
    trainer = make_trainer(model, rows=CHAT, extras={"engine": Recording(model, tiny.tokenizer())})
    trainer.ask("hello")
    trainer.ask([{"role": "user", "content": "hello"}])
    assert asked == ["[system]be brief;[user]hello;[assistant]well", "[user]hello;[assistant]"]
    with pytest.raises(ValueError, match="context is 128"):
        trainer.ask("x" * 130)


def test_a_run_is_drawn_with_or_without_a_metrics_log(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=3)
    with pytest.raises(ValueError, match="no steps"):
        trainer.plot()
    trainer.train()
    path = trainer.plot()
    assert path == tmp_path / "run" / "curves.png" and path.read_bytes().startswith(b"\x89PNG")


def test_standard_stands_for_what_a_recipes_run_has(make_trainer, tmp_path, capsys):
    class Mine:
        steps = 0

        def on_step(self, step):
            self.steps += 1

    mine = Mine()
    trainer = make_trainer(max_steps=2, extras={"observers": ["standard", mine]})
    kinds = [type(one) for one in trainer.observers]
    assert kinds == [Console, MetricsLog, RolloutLog, CurvePlot, Findings, Mine]
    names = {type(one).__name__ for one in trainer.callback_handler.callbacks}
    assert not names & {"PrinterCallback", "ProgressCallback"}, "they would print the same again"
    trainer.train()
    assert mine.steps == 2
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert {"rollouts.jsonl", "curves.png"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert "1/2" in capsys.readouterr().out


def test_logs_of_an_earlier_run_in_the_folder_are_kept(make_trainer, tmp_path: Path):
    make_trainer(max_steps=2, extras={"observers": "standard"}).train()
    first = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    make_trainer(max_steps=1, extras={"observers": "standard"}).train()
    assert (tmp_path / "run" / "metrics.1.jsonl").read_text(encoding="utf-8") == first
    assert len((tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 1
