"""Conversations: exact ids across turns, what is trained on, seeds, and where they end."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dunwu.core.algorithm import AlgorithmConfig, token_loss
from dunwu.core.records import Completion, SamplingParams
from dunwu.engines import TransformersEngine, ready
from dunwu.errors import ConfigError, DataError
from dunwu.model.logprobs import forward_logps
from dunwu.rollout.collect import collect
from dunwu.rollout.micro_batches import make_micro_batches, trained_token_counts
from dunwu.rollout.multi_turn import MultiTurnEngine
from dunwu.rollout.prompts import build_prompts, next_turn_ids


class Adds:
    """Replies to so many turns."""

    def __init__(self, turns: int, text: str = "go on") -> None:
        self.turns, self.text = turns, text
        self.heard: list[list[dict[str, str]]] = []

    def reply(self, row: Any, messages: Any) -> dict[str, str] | None:
        self.heard.append([dict(message) for message in messages])
        done = sum(message["role"] == "assistant" for message in messages)
        return {"role": "user", "content": f"{self.text} {done}"} if done <= self.turns else None


@pytest.fixture
def scene(tiny):
    tokenizer = tiny.tokenizer()
    model = tiny.model(scale=0.3)
    prompts, _ = build_prompts([{"prompt": [{"role": "user", "content": f"say {w}"}]} for w in ("a", "b")], tokenizer)
    return model, tokenizer, prompts


def generate(scene: Any, environment: Any, *, n: int = 4, tokens: int = 60, step: int = 0, **options: Any) -> Any:
    model, tokenizer, prompts = scene
    engine = MultiTurnEngine(TransformersEngine(model, tokenizer), environment, tokenizer, **options)
    with ready(engine, model, version=0):
        return engine.generate(
            prompts, SamplingParams(n=n, max_new_tokens=tokens, temperature=1.0, seed=1, step=step)
        )


def talks_of(found: Any) -> list[Completion]:
    return [completion for group in found for completion in group if len(completion.messages) > 1]


def test_ids_are_only_appended_and_what_was_not_sampled_is_what_the_template_writes(scene):
    """Re-rendering a conversation would re-tokenise what the model sampled."""
    _, tokenizer, _ = scene
    talks = talks_of(generate(scene, Adds(2)))
    assert talks
    for talk in talks:
        ids, sampled = list(talk.ids), list(talk.sampled)
        turn = 0
        while False in sampled:
            start = sampled.index(False)
            stop = sampled.index(True, start)
            turn += 1
            expected = next_turn_ids(
                tokenizer, {"role": "user", "content": f"go on {turn}"}, last_id=ids[start - 1], template_kwargs={}
            )
            assert ids[start:stop] == expected
            text = tokenizer.decode(expected)
            assert f"[user]go on {turn};[assistant]" in text
            ids, sampled = ids[stop:], sampled[stop:]


def test_the_probabilities_of_each_turn_are_those_of_a_fresh_forward_over_the_whole(scene):
    """Engine = trainer across turns: the same ids, the same positions, the same distribution."""
    model, tokenizer, prompts = scene

    class Scorer:
        names = ("x",)

        def score(self, *, prompts, completions, completion_ids, columns):
            from dunwu.core.records import RewardScores

            self.completions = completions
            return RewardScores(names=("x",), values=tuple((float(i % 3),) for i in range(len(completions))))

        def total(self, scores):
            return [value for (value,) in scores.values]

    scorer = Scorer()
    engine = MultiTurnEngine(TransformersEngine(model, tokenizer), Adds(2), tokenizer)
    with ready(engine, model, version=0):
        groups = collect(prompts, engine, scorer, SamplingParams(n=4, max_new_tokens=60, seed=1))
    for batch in make_micro_batches(groups, loss_aggregation="token_mean", tokens=100_000):
        logps_BC, _ = forward_logps(model, batch)
        difference = (logps_BC - batch.sampler_logps_BC)[batch.mask_BC > 0]
        assert float(difference.detach().abs().max()) < 1e-4
    several = [talk for talk in scorer.completions if len(talk) > 1]
    assert several and all(
        [m["role"] for m in talk] == (["assistant", "user"] * len(talk))[: len(talk)] for talk in several
    )


def test_only_sampled_tokens_are_counted_and_carry_a_gradient(scene, tiny):
    model, _, prompts = scene
    found = generate(scene, Adds(1))
    (talk, *_) = talks_of(found)
    group = tiny.group(prompts[0], [talk, found[0][0]], [1.0, -1.0])
    assert trained_token_counts([group], mask_truncated=False)[0] == sum(talk.sampled) < len(talk.ids)
    (batch,) = make_micro_batches([group], loss_aggregation="token_mean", tokens=100_000)
    logps_BC, _ = forward_logps(model, batch)
    logps_BC.retain_grad()
    loss = token_loss(AlgorithmConfig(), logps_BC, batch.advantages_B, batch.mask_BC).loss_BC
    (loss * batch.weights_BC).sum().backward()
    row = batch.rollout_index.index(0)
    has_gradient = (logps_BC.grad[row, : len(talk.ids)] != 0).tolist()
    assert has_gradient == list(talk.sampled)


def test_a_turn_of_a_sample_has_random_numbers_of_its_own(scene):
    """Four continuations of one prompt were four times the same text."""

    class Same:
        def reply(self, row: Any, messages: Any) -> Any:
            said = sum(message["role"] == "assistant" for message in messages)
            return {"role": "user", "content": "x"} if said == 1 else None

    talks = talks_of(generate(scene, Same(), n=8))
    second = [tuple(i for i, s in zip(t.ids, t.sampled, strict=True) if s)[-6:] for t in talks]
    assert len(talks) > 4 and len(set(second)) == len(second)
    assert [t.ids for t in talks_of(generate(scene, Same(), n=8))] == [t.ids for t in talks]  # and repeat


def test_a_conversation_does_not_depend_on_the_others(scene):
    model, tokenizer, prompts = scene
    both = generate(scene, Adds(2))
    alone = generate((model, tokenizer, prompts[1:]), Adds(2))
    assert [c.ids for c in both[1]] == [c.ids for c in alone[0]]


def test_the_limit_counts_all_tokens_and_ends_a_conversation_as_truncated(scene):
    found = [c for group in generate(scene, Adds(50), n=8, tokens=40) for c in group]
    assert all(len(c.ids) <= 40 for c in found)
    assert {c.finish_reason for c in found} == {"length"}
    assert all(c.sampled is None or c.sampled[-1] for c in found), "no turn of the environment stands at the end"


def test_a_conversation_ends_where_the_environment_returns_none_or_after_max_turns(scene):
    environment = Adds(50)
    found = [c for group in generate(scene, environment, tokens=100, max_turns=2) for c in group]
    assert all(sum(m["role"] == "assistant" for m in c.messages) <= 2 for c in found)
    assert all(c.messages == () for group in generate(scene, Adds(0)) for c in group)


def test_the_environment_reads_the_prompt_with_its_prefill_as_one_message(tiny):
    tokenizer = tiny.tokenizer()
    row = {"prompt": [{"role": "user", "content": "say"}, {"role": "assistant", "content": "well "}]}
    prompts, _ = build_prompts([row], tokenizer)
    environment = Adds(1)
    generate((tiny.model(), tokenizer, prompts), environment, tokens=40)
    assert all([m["role"] for m in heard][:2] == ["user", "assistant"] for heard in environment.heard)
    assert all(heard[1]["content"].startswith("well ") for heard in environment.heard)


def test_text_prompts_and_messages_that_are_none_are_refused(scene, tiny):
    model, tokenizer, _ = scene
    with pytest.raises(ConfigError, match="the prompts are text"):
        generate((model, tokenizer, tiny.prompts("say")), Adds(1))

    class Wrong:
        def reply(self, row: Any, messages: Any) -> Any:
            return "go on"

    with pytest.raises(DataError, match="an environment must reply"):
        generate(scene, Wrong())
    with pytest.raises(ConfigError, match="needs a method reply"):
        MultiTurnEngine(TransformersEngine(model, tokenizer), object(), tokenizer)  # type: ignore[arg-type]


def test_a_closing_token_that_the_model_sampled_is_not_repeated(tiny):
    tokenizer = tiny.tokenizer()
    message = {"role": "user", "content": "x"}
    (first, *rest) = next_turn_ids(tokenizer, message, last_id=-1)
    assert next_turn_ids(tokenizer, message, last_id=first) == rest


def test_a_training_step_over_conversations_moves_the_weights_alike_however_it_is_cut(make_trainer, tiny):
    """Micro-batch invariance with masks in the middle of rows."""
    rows = tuple({"prompt": [{"role": "user", "content": f"say {w}"}]} for w in "abcdef")
    gradients = []
    for tokens in (30, 100_000):
        trainer = make_trainer(
            tiny.model(scale=0.3),
            lambda completions, **_: [sum(m["content"].count("e") for m in talk) for talk in completions],
            rows,
            max_completion_length=40,
            tokens_per_micro_batch=tokens,
            extras={"environment": Adds(1)},
        )
        gradients.append(tiny.backward(trainer))
    assert tiny.far(gradients[0], gradients[1]) < 2e-6
    assert float(torch.stack([g.norm() for g in gradients[0].values()]).sum()) > 0
