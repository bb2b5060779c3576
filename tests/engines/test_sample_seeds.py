"""Seeds: they know row, sample and turn, and nothing of how a call is cut."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest
import torch

from dunwu.core.records import SamplingParams
from dunwu.engines import FastEngine, TransformersEngine, sample_seeds, sequence_seed


@pytest.fixture(params=["transformers", "fast"])
def engine_of(tiny, request):
    """Makes an engine on one model, with so many rows at a time."""
    model = tiny.model("qwen2").eval()

    def make(max_rows=None):
        if request.param == "fast":
            return FastEngine(model, tiny.tokenizer(), max_rows=max_rows, cpu_kernel=False)
        return TransformersEngine(model, tiny.tokenizer(), max_rows=max_rows or 256)

    return make


def texts(groups):
    return [c.ids for c in chain(*groups)]


def test_the_seeds_of_first_turns_are_those_of_earlier_runs(tiny):
    """Resumed runs and the pinned curve were sampled with these; a hash written another way is another run."""
    (prompt,) = tiny.prompts("a")
    seeds = sample_seeds([replace(prompt, row_index=7)], SamplingParams(n=3, seed=42, step=3))
    assert seeds == [8502957435414794981, 2281669478007593986, 2173852565024726063]
    assert seeds == [sequence_seed(42, 3, 7, sample) for sample in range(3)]


def test_every_turn_and_sample_has_a_seed_of_its_own(tiny):
    (prompt,) = tiny.prompts("a")
    asked = [replace(prompt, first_sample=first, turn=turn) for first in range(4) for turn in range(3)]
    assert len(set(sample_seeds(asked, SamplingParams(n=1)))) == 12
    first_turns = sample_seeds([p for p in asked if p.turn == 0], SamplingParams(n=1))
    assert first_turns == sample_seeds([prompt], SamplingParams(n=4)), "samples asked one by one are those of a group"


def test_prompts_that_ask_for_the_same_sample_count_on(tiny):
    """Two prompts of one row, n=2: samples 0 1 and 2 3, whatever is between them; a later turn counts for itself."""
    first, other = tiny.prompts("a", "b")
    later = replace(first, turn=1)
    seeds = sample_seeds([first, other, later, first, later], SamplingParams(n=2))
    assert seeds[0:2] + seeds[6:8] == sample_seeds([first], SamplingParams(n=4))
    assert seeds[4:6] + seeds[8:10] == sample_seeds([later], SamplingParams(n=4))
    assert len(set(seeds)) == 10


def test_four_continuations_of_one_prompt_are_four_texts(engine_of, tiny):
    (prompt,) = tiny.prompts("what is 2+2")
    engine, one = engine_of(), SamplingParams(n=1, max_new_tokens=16)
    assert len(set(texts(engine.generate([replace(prompt, turn=1)] * 4, one)))) == 4
    apart = [replace(prompt, turn=1, first_sample=sample) for sample in range(4)]
    assert texts(engine.generate(apart, one)) == texts(engine.generate([replace(prompt, turn=1)] * 4, one))


def test_one_prompt_given_four_times_is_one_group_of_four(engine_of, tiny):
    (prompt,) = tiny.prompts("what is 2+2")
    engine = engine_of()
    group = texts(engine.generate([prompt], SamplingParams(n=4, max_new_tokens=16)))
    assert len(set(group)) == 4
    assert texts(engine.generate([prompt] * 4, SamplingParams(n=1, max_new_tokens=16))) == group


@pytest.mark.parametrize("max_rows", [1, 2, 3])
def test_a_call_cut_into_batches_asks_for_the_same_samples(engine_of, tiny, max_rows):
    """Seeds counted within a batch would start again at sample 0 in each."""
    (prompt,) = tiny.prompts("what is 2+2")
    sampling = SamplingParams(n=2, max_new_tokens=12)
    whole = texts(engine_of().generate([prompt] * 3, sampling))
    assert len(set(whole)) == 6
    assert texts(engine_of(max_rows).generate([prompt] * 3, sampling)) == whole


def test_torch_keeps_the_lower_32_bits_of_a_seed_as_the_docstring_says():
    draws = [torch.rand(4, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5 + 2**32, 6)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert "lower 32 bits" in (sequence_seed.__doc__ or "")
