"""Sampling functions against transformers' own, and the engine against `model.generate`."""

from __future__ import annotations

import math
from itertools import chain

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from dunwu.core.records import SamplingParams
from dunwu.engines import FastEngine, TransformersEngine, sequence_seed
from dunwu.engines.fast.cpu_kernel import unsupported_reason
from dunwu.engines.sampling import process_logits, sample, uniform_draws
from dunwu.model import architectures

ENDS = list(range(5, 25))
"""Twenty letters that end a completion: rows of a random model then finish early and at different times."""


def theirs(sampling: SamplingParams) -> LogitsProcessorList:
    """The warpers transformers' `generate` would apply, in its order."""
    found = LogitsProcessorList()
    if sampling.repetition_penalty != 1.0:
        found.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature != 1.0:
        found.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        found.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        found.append(MinPLogitsWarper(sampling.min_p))
    return found


def present(ids: torch.Tensor, vocabulary: int) -> torch.Tensor:
    return torch.zeros(len(ids), vocabulary, dtype=torch.bool).scatter_(1, ids, True)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.6},
        {"temperature": 1.7},
        {"top_k": 1},
        {"top_k": 5},
        {"top_k": 5000},
        {"top_p": 0.9},
        {"top_p": 0.05},
        {"min_p": 0.1},
        {"min_p": 1.0},
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.7},
        {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.02, "repetition_penalty": 1.1},
    ],
    ids=str,
)
def test_warped_logits_are_those_of_transformers(options):
    """The order matters: top-p before the temperature keeps other tokens."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(50, 64, generator=generator) * 3
    seen = torch.randint(0, 64, (50, 9), generator=generator)
    sampling = SamplingParams(**options)
    torch.testing.assert_close(
        process_logits(logits, sampling, present(seen, 64)), theirs(sampling)(seen, logits.clone())
    )


def test_warping_leaves_the_models_own_logits_alone():
    logits = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    kept = logits.clone()
    seen = present(torch.tensor([[1], [2]]), 8)
    process_logits(logits, SamplingParams(temperature=0.5, top_k=3, top_p=0.9, repetition_penalty=1.2), seen)
    assert torch.equal(logits, kept)


def test_draws_follow_the_distribution():
    """Chi-square over 200,000 draws: guards against a biased or a shifted inverse of the cumulative distribution."""
    logits = torch.tensor([1.0, -0.5, 0.3, 2.0, -3.0, 0.0])
    count = 200_000
    uniform = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    ids, logps = sample(logits.expand(count, -1), uniform, greedy=False)
    expected = logits.double().softmax(0) * count
    chi_square = float(((torch.bincount(ids, minlength=6) - expected) ** 2 / expected).sum())
    assert chi_square < 20.5  # 99.9 % quantile at 5 degrees of freedom
    torch.testing.assert_close(logps, logits.log_softmax(0)[ids])


@pytest.mark.parametrize("point", [0.0, 0.25, 0.5, 0.75, math.nextafter(1.0, 0.0)])
def test_a_token_of_probability_zero_is_never_drawn(point):
    """At the very borders of a step the cumulative sum stands still: the token cut away is drawn by `right=False`."""
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, 0.0, -torch.inf, 0.0, -torch.inf]])
    ids, logps = sample(logits, torch.tensor([point], dtype=torch.float64), greedy=False)
    assert int(ids) in (1, 3, 4, 6)
    assert float(logps) == pytest.approx(-math.log(4))


def test_a_greedy_draw_is_the_most_likely_token_with_its_own_log_probability():
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])
    ids, logps = sample(logits, torch.tensor([0.99, 0.99], dtype=torch.float64), greedy=True)
    assert ids.tolist() == [1, 0]
    torch.testing.assert_close(logps, torch.stack([logits[0].log_softmax(0)[1], logits[1].log_softmax(0)[0]]))


def test_every_part_of_a_seed_changes_it_and_none_runs_into_its_neighbour():
    """Guards against seed + step + index, where step 1 of prompt 2 repeats step 2 of prompt 1."""
    seeds = {sequence_seed(a, b, c, d) for a in range(6) for b in range(-1, 6) for c in range(6) for d in range(6)}
    assert len(seeds) == 6 * 7 * 6 * 6
    assert sequence_seed(42, 3, 7, 0) == sequence_seed(42, 3, 7, 0)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_completions_random_numbers_come_from_its_own_seed_alone():
    alone = uniform_draws([11], 5, torch.device("cpu"))
    together = uniform_draws([7, 11, 13], 9, torch.device("cpu"))
    assert torch.equal(alone[0], together[1, :5])
    assert not torch.equal(together[0], together[1])


# -- the engines: all that is asked of one is asked of both ---------------------------------------------------------


@pytest.fixture(params=["transformers", "fast", "native"])
def engine_of(tiny, request):
    """Makes an engine on a random model; the fast one is skipped, by name, for a family it does not know."""

    def make(family="qwen2", *, ends=None, tokenizer=None, **options):
        model = tiny.model(family).eval()
        if ends is not None:
            model.generation_config.eos_token_id = ends
        tokenizer = tokenizer or tiny.tokenizer()
        if request.param == "transformers":
            return TransformersEngine(model, tokenizer, **options)
        if architectures.unsupported_reason(model):
            pytest.skip(f"the fast engine does not know {family}")
        if request.param == "native" and unsupported_reason(model, torch.float32):
            pytest.skip("compiled steps need a C compiler")
        return FastEngine(model, tokenizer, cpu_kernel=request.param == "native", **options)

    return make


TEXTS = ("a", "what is 2+2", "hello there", "ab", "1", "the end")


@pytest.mark.parametrize("family", ["qwen2", "llama", "mistral", "gpt2", "qwen3"])
def test_greedy_completions_are_those_of_generate_token_for_token(engine_of, tiny, family):
    """Prompts of different lengths in one batch, two ways of ending: positions, cache and end must all be right."""
    engine = engine_of(family, ends=ENDS)
    prompts = tiny.prompts(*TEXTS)
    completions = engine.generate(prompts, SamplingParams(n=1, max_new_tokens=12, temperature=0.0))
    finishes = set()
    for prompt, (completion,) in zip(prompts, completions, strict=True):
        expected = engine.model.generate(
            torch.tensor([prompt.ids]),
            attention_mask=torch.ones(1, len(prompt.ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=engine.end_ids,
            pad_token_id=0,
        )[0, len(prompt.ids) :]
        assert list(completion.ids) == expected.tolist()
        finishes.add(completion.finish_reason)
        assert completion.finish_reason == ("stop" if completion.ids[-1] in engine.end_ids else "length")
    assert len({c.ids for (c,) in completions}) > 3, "a model that says one thing would prove nothing"


@pytest.mark.parametrize("penalty", [1.3, 0.8])
def test_the_repetition_penalty_counts_prompt_and_completion_as_generate_does(engine_of, tiny, penalty):
    """Guards against a penalty on padding: the pad token would become less likely in short prompts only."""
    engine = engine_of("llama")
    prompts = tiny.prompts(*TEXTS)
    sampling = SamplingParams(n=1, max_new_tokens=10, temperature=0.0, repetition_penalty=penalty)
    for prompt, (completion,) in zip(prompts, engine.generate(prompts, sampling), strict=True):
        expected = engine.model.generate(
            torch.tensor([prompt.ids]),
            attention_mask=torch.ones(1, len(prompt.ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=10,
            repetition_penalty=penalty,
            pad_token_id=0,
        )[0, len(prompt.ids) :]
        assert list(completion.ids) == expected.tolist()


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_completions_that_finish_and_leave_the_batch_change_no_other(engine_of, tiny, family):
    """Guards against a cache gathered in another order than the rows: completions would then mix prompts."""
    prompts = tiny.prompts(*TEXTS)
    sampling = SamplingParams(n=8, max_new_tokens=16, seed=5)
    early = engine_of(family, ends=ENDS).generate(prompts, sampling)
    never = engine_of(family, ends=1).generate(prompts, sampling)
    lengths = {len(c.ids) for group in early for c in group}
    assert len(lengths) > 6, "rows must finish at different times, or nothing is tested"
    for short, long in zip(chain(*early), chain(*never), strict=True):
        assert short.ids == long.ids[: len(short.ids)]
        assert short.sampler_logps == pytest.approx(long.sampler_logps[: len(short.sampler_logps)], abs=1e-5)


def test_the_end_token_is_part_of_the_completion_and_not_of_its_text(engine_of, tiny):
    """Dropping the end token from training is how a model forgets to stop."""
    engine = engine_of(ends=[1, 4])
    sampling = SamplingParams(n=64, max_new_tokens=60, temperature=1.5)
    completions = [c for group in engine.generate(tiny.prompts(*TEXTS), sampling) for c in group]
    stopped = [c for c in completions if c.finish_reason == "stop"]
    assert {c.ids[-1] for c in stopped} == {1, 4}, "both end tokens end"
    for completion in completions:
        assert len(completion.ids) == len(completion.sampler_logps)
        inner = completion.ids[:-1] if completion.finish_reason == "stop" else completion.ids
        assert not {1, 4} & set(inner)
        assert completion.text == "".join(engine.tokenizer.decode([i]) for i in completion.ids if i > 4)
    assert all(len(c.ids) == 60 for c in completions if c.finish_reason == "length")


def test_end_tokens_are_those_of_the_tokenizer_and_of_the_generation_config(engine_of, tiny):
    """Instruct models often name two; stopping at one of them only lets completions run to the limit."""
    assert engine_of(ends=[4, 7]).end_ids == [1, 4, 7]
    assert engine_of(ends=4).end_ids == [1, 4]
    engine = engine_of()
    engine.model.generation_config.eos_token_id = None
    assert type(engine)(engine.model, tiny.tokenizer()).end_ids == [1]


@pytest.mark.parametrize("pad", [None, "<eos>"])
def test_a_missing_pad_token_or_one_that_is_the_end_token_changes_nothing(engine_of, tiny, pad):
    """pad = eos is the usual set-up of base models; comparing ids with the pad id then masks the end token."""
    sampling = SamplingParams(n=4, max_new_tokens=12, seed=1)
    prompts = tiny.prompts(*TEXTS)
    normal = engine_of(ends=ENDS).generate(prompts, sampling)
    other = engine_of(ends=ENDS, tokenizer=tiny.tokenizer(pad=pad)).generate(prompts, sampling)
    assert [[c.ids for c in group] for group in normal] == [[c.ids for c in group] for group in other]


@pytest.mark.parametrize(
    "options", [{"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.3}, {"temperature": 0.3}], ids=lambda o: next(iter(o))
)
def test_log_probabilities_are_of_the_distribution_that_was_sampled(engine_of, tiny, options):
    """After top-k 3 the kept tokens' probabilities add up to 1: a completion's first token shows it."""
    engine = engine_of()
    (prompt,) = tiny.prompts("what is 2+2")
    (group,) = engine.generate([prompt], SamplingParams(n=256, max_new_tokens=1, **options))
    chances = {c.ids[0]: math.exp(c.sampler_logps[0]) for c in group}
    with torch.no_grad():
        logits = engine.model(torch.tensor([prompt.ids])).logits[0, -1:]
    exact = process_logits(logits, SamplingParams(**options))[0].softmax(-1)
    assert chances == pytest.approx({i: float(exact[i]) for i in chances}, rel=1e-4)
    assert set(chances) <= {i for i, p in enumerate(exact.tolist()) if p > 0}


def test_the_training_mode_is_put_back_after_generating(engine_of, tiny):
    engine = engine_of()
    engine.model.train()
    engine.generate(tiny.prompts("a"), SamplingParams(n=2, max_new_tokens=2))
    assert engine.model.training
    engine.model.eval()
    engine.generate(tiny.prompts("a"), SamplingParams(n=2, max_new_tokens=2))
    assert not engine.model.training


def test_dropout_is_off_while_completions_are_made(tiny):
    """With dropout on, greedy completions of one prompt differ from call to call."""
    model = tiny.model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5).train()
    engine = TransformersEngine(model, tiny.tokenizer())
    greedy = SamplingParams(n=1, max_new_tokens=12, temperature=0.0)
    first, second = (engine.generate(tiny.prompts("abc"), greedy)[0][0] for _ in range(2))
    assert first == second
