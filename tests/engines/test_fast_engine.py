"""The fast engine against the model's own forward: shapes, seeds, waiting rows, memory, weights, stop strings.

What all engines share is in `test_transformers_engine.py`; what only compiled steps have, in `test_cpu_kernel.py`.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import nullcontext
from itertools import chain

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import dunwu.engines.fast.engine
import dunwu.engines.fast.scheduler
from dunwu.config import GRPOConfig
from dunwu.core.records import SamplingParams
from dunwu.engines import FastEngine, TransformersEngine, make_engine
from dunwu.engines.fast.cpu_kernel import CpuKernelDecoder, unsupported_reason
from dunwu.engines.fast.cuda_graphs import CudaGraphRunner
from dunwu.engines.fast.kv_cache import kv_bytes_per_slot
from dunwu.engines.fast.weights import can_merge_adapters
from dunwu.model.architectures import unwrap_model

TEXTS = ("a", "what is 2+2", "hello there, how are you all?", "ab", "1", "the end")
ENDS = list(range(5, 25))
"""Twenty letters that end a completion: rows of a random model then finish at different times."""


@pytest.fixture(params=[False, True], ids=["fast", "native"])
def native(request, tiny):
    """Whether the steps are the compiled ones."""
    if request.param and unsupported_reason(tiny.model(), torch.float32):
        pytest.skip("compiled steps need a C compiler")
    return request.param


@pytest.fixture
def engine_of(tiny, native):
    """Makes a fast engine, and sees to it that it decodes by the steps that the test is about."""

    def make(model=None, *, ends=1, expect=native, **options):
        model = stirred(tiny.model("qwen2")) if model is None else model
        unwrap_model(model).generation_config.eos_token_id = ends
        engine = FastEngine(model, tiny.tokenizer(), cpu_kernel=native, **options)
        assert isinstance(decoder_of(engine), CpuKernelDecoder) == expect
        return engine

    return make


@torch.inference_mode()
def decoder_of(engine):
    return engine.decoder()


def stirred(model, seed=1):
    """Norms and biases away from the ones and zeros they begin as, which would hide one that is left out."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += torch.randn(parameter.shape, generator=generator) * 0.3
    return model.eval()


@torch.no_grad()
def gaps(model, prompts, groups, autocast=None):
    """|sampler's log-probability − the model's own, from a plain forward of prompt and completion|, every token."""
    found = []
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            with torch.autocast("cpu", dtype=autocast) if autocast else nullcontext():
                logits = model(torch.tensor([[*prompt.ids, *completion.ids]])).logits[0, len(prompt.ids) - 1 : -1]
            own = logits.float().log_softmax(-1).gather(1, torch.tensor(completion.ids).unsqueeze(1)).squeeze(1)
            found.append((own - torch.tensor(completion.sampler_logps)).abs())
    return torch.cat(found)


def ids_of(groups):
    return [[completion.ids for completion in group] for group in groups]


# -- what is sampled is the trainer's policy ------------------------------------------------------------------------

ODD = {"hidden_size": 40, "num_attention_heads": 5, "intermediate_size": 44, "vocab_size": 83}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
SLIDING = {"use_sliding_window": True, "sliding_window": 6, "layer_types": ["full_attention", "sliding_attention"]}


def rope(kind, **options):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0, **options}}


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {"num_key_value_heads": 1, "head_dim": 12}),
        ("llama", {"num_key_value_heads": 4, "head_dim": 16, "tie_word_embeddings": True}),
        ("llama", {**ODD, "num_key_value_heads": 5}),
        ("llama", {**ODD, "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}),
        ("llama", rope("linear")),
        ("llama", rope("llama3", **LLAMA3)),
        ("llama", rope("yarn", original_max_position_embeddings=16)),
        ("llama", {"rms_norm_eps": 0.5, "head_dim": 32}),
        ("mistral", {"sliding_window": 7, "num_key_value_heads": 1, "head_dim": 16}),
        ("mistral", {"sliding_window": None, "head_dim": 64, **rope("yarn")}),
        ("mistral", {**ODD, "num_key_value_heads": 5, "sliding_window": 1}),
        ("qwen2", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
        ("qwen2", {**ODD, "num_key_value_heads": 1, **SLIDING}),
        ("qwen2", rope("linear")),
        ("qwen3", {"num_key_value_heads": 1, "head_dim": 24, **SLIDING}),
        ("qwen3", {**ODD, "num_key_value_heads": 5, "attention_bias": True, "tie_word_embeddings": True}),
        ("qwen3", rope("llama3", **LLAMA3)),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_log_probabilities_are_those_of_the_models_own_forward(engine_of, tiny, family, config):
    """Guards against a head, window, bias, norm or angle that only the usual shapes get right."""
    model = stirred(tiny.model(family, **config))
    prompts = tiny.prompts(*TEXTS)
    groups = engine_of(model).generate(prompts, SamplingParams(n=3, max_new_tokens=20, seed=2))
    assert float(gaps(model, prompts, groups).max()) < 1e-4
    assert len({c.ids for c in chain(*groups)}) > 12, "a model that says one thing would prove nothing"


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 4},
        {"top_p": 0.7},
        {"min_p": 0.1},
        {"repetition_penalty": 1.3},
        {"temperature": 0.7},
        {"temperature": 0.7, "top_k": 20, "top_p": 0.95, "min_p": 0.02, "repetition_penalty": 1.1},
    ],
    ids="-".join,
)
def test_every_sampling_option_gives_the_completions_of_the_transformers_engine(engine_of, tiny, options):
    """Six rows at a time: a penalty that keeps what the slot's last row had said shows only then."""
    engine = engine_of(ends=ENDS, max_rows=6)
    prompts, sampling = tiny.prompts(*TEXTS), SamplingParams(n=3, max_new_tokens=16, seed=3, **options)
    ours = engine.generate(prompts, sampling)
    theirs = TransformersEngine(engine.model, tiny.tokenizer()).generate(prompts, sampling)
    assert ids_of(ours) == ids_of(theirs)
    for mine, other in zip(chain(*ours), chain(*theirs), strict=True):
        assert mine.sampler_logps == pytest.approx(other.sampler_logps, abs=1e-4)


def test_ids_beyond_the_tokenizer_stay_in_the_completion_and_out_of_its_text(engine_of, tiny):
    """A model's vocabulary is often padded; decoding such an id, or looking it up among stop tokens, may crash."""
    model = stirred(tiny.model("llama", vocab_size=tiny.vocabulary + 50))
    prompts = tiny.prompts(*TEXTS)
    for engine in (engine_of(model), TransformersEngine(model, tiny.tokenizer())):
        for stop in ((), ("zzz",)):
            groups = engine.generate(prompts, SamplingParams(n=3, max_new_tokens=12, stop=stop))
            beyond = [c for c in chain(*groups) if max(c.ids) >= tiny.vocabulary]
            assert len(beyond) > 9
            for c in beyond:
                known = [i for i in c.ids if len(tiny.special) <= i < tiny.vocabulary]
                assert c.text == "".join(tiny.tokenizer().convert_ids_to_tokens(known))


# -- seeds, and rows that wait --------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_rows", [1, 2, 3, 7])
def test_completions_do_not_depend_on_how_many_are_computed_at_a_time(engine_of, tiny, max_rows):
    """With 1 and 2 a group of three is split; with 7, one slot stays empty while two groups live."""
    prompts, sampling = tiny.prompts(*TEXTS), SamplingParams(n=3, max_new_tokens=16, seed=4)
    expected = engine_of(ends=ENDS).generate(prompts, sampling)
    groups = engine_of(ends=ENDS, max_rows=max_rows).generate(prompts, sampling)
    assert ids_of(groups) == ids_of(expected)
    for one, other in zip(chain(*groups), chain(*expected), strict=True):
        assert one.sampler_logps == pytest.approx(other.sampler_logps, abs=1e-4)


def test_completions_do_not_depend_on_the_order_of_prompts(engine_of, tiny):
    prompts, sampling = tiny.prompts(*TEXTS), SamplingParams(n=3, max_new_tokens=16, seed=4)
    engine = engine_of(ends=ENDS, max_rows=6)
    forwards, backwards = engine.generate(prompts, sampling), engine.generate(prompts[::-1], sampling)
    assert ids_of(forwards) == ids_of(backwards)[::-1]


def test_another_seed_step_row_or_sample_gives_other_completions(engine_of, tiny):
    """Keys: two rows of a dataset with the same text are two samples, not one twice."""
    engine, (first, second) = engine_of(), tiny.prompts("hello", "hello")
    samplings = [SamplingParams(n=4, max_new_tokens=16, **o) for o in ({}, {"seed": 1}, {"step": 1})]
    groups = [
        *engine.generate([first, second], samplings[0]),
        *(engine.generate([first], s)[0] for s in samplings[1:]),
    ]
    assert len({c.ids for c in chain(*groups)}) == 4 * 4


def test_waiting_completions_take_freed_slots_and_each_prompt_is_computed_once(engine_of, tiny, monkeypatch):
    """Guards against batches that wait for their longest row, and against rows that are stepped after their end."""
    engine = engine_of(ends=ENDS, max_rows=6)
    decoder, stepped, prefilled = decoder_of(engine), [], []
    step, prefill = decoder.step, decoder.prefill

    def counted_step(ids, *rest):
        stepped.append(len(ids))
        return step(ids, *rest)

    def counted_prefill(ids, lengths, *rest):
        prefilled.extend(tuple(row[:length]) for row, length in zip(ids.tolist(), lengths.tolist(), strict=True))
        return prefill(ids, lengths, *rest)

    monkeypatch.setattr(decoder, "step", counted_step)
    monkeypatch.setattr(decoder, "prefill", counted_prefill)
    prompts = tiny.prompts(*(f"{i} and {j}" for i in range(6) for j in range(4)))
    groups = engine.generate(prompts, SamplingParams(n=2, max_new_tokens=40, seed=6))
    lengths = [len(c.ids) for c in chain(*groups)]
    assert max(lengths) > 3 * sum(lengths) / len(lengths), "rows must differ in length, or nothing is tested"
    assert sorted(prefilled) == sorted(prompt.ids for prompt in prompts)
    assert max(stepped) == 6
    assert sum(stepped) <= sum(lengths)  # the first token comes from the prefill: a few to spare
    # While a group of two waits, five of the six slots are full; when nothing waits, the longest row is what is left.
    assert len(stepped) <= sum(lengths) / 5 + max(lengths)


# -- memory ---------------------------------------------------------------------------------------------------------


def test_a_small_cache_makes_completions_wait_and_logs_that_once(engine_of, tiny, caplog):
    prompts, sampling = tiny.prompts(*TEXTS), SamplingParams(n=3, max_new_tokens=19, seed=4)
    whole = engine_of(ends=ENDS)
    length = max(len(prompt.ids) for prompt in prompts) + 19
    room = 5 * kv_bytes_per_slot(whole.model.config, length, torch.float32) + 7
    small = engine_of(whole.model, ends=ENDS, kv_cache_bytes=room)
    with caplog.at_level(logging.INFO, logger="dunwu"):
        for _ in range(2):
            assert ids_of(small.generate(prompts, sampling)) == ids_of(whole.generate(prompts, sampling))
    (said,) = [r.getMessage() for r in caplog.records if "at a time" in r.getMessage()]
    assert f"18 completions of up to {length} tokens" in said and "5 are computed at a time" in said


def test_a_cache_for_less_than_one_completion_is_refused_with_the_numbers(engine_of, tiny):
    """2 layers × (keys + values) × 2 heads × 8 wide × 65,536 positions × 4 bytes = 16 MB."""
    engine = engine_of(stirred(tiny.model("qwen2", max_position_embeddings=70_000)), kv_cache_bytes=3 << 19)
    with pytest.raises(
        ValueError, match=r"not one completion of 65536 tokens.* 16\.0 MB.* 1\.5 MB.*max_completion_length"
    ):
        engine.generate(tiny.prompts("a"), SamplingParams(n=2, max_new_tokens=65_535))


def test_extra_bytes_are_the_copies_and_the_cache_and_little_free_memory_gives_all_back(engine_of, tiny, monkeypatch):
    """Otherwise the cache would lie beside the trainer's activations, and its out-of-memory be nobody's fault."""
    engine, sampling = engine_of(kv_cache_bytes=1 << 20), SamplingParams(n=3, max_new_tokens=12)
    prompts = tiny.prompts("abcd", "efgh")
    first = engine.generate(prompts, sampling)
    # Keys and values: 2 layers × 2 × 6 rows × 2 heads × 16 positions × 8 wide × 4 bytes.
    cache = 2 * 2 * 6 * 2 * 16 * 8 * 4
    # Copies: queries and output 32², keys and values 32 × 16, three of 32 × 48 in the MLP; compiled steps pad.
    copies = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48) * 4
    assert engine.extra_bytes - cache == decoder_of(engine).copied_bytes
    assert engine.extra_bytes >= cache + copies if engine.cpu_kernel else engine.extra_bytes == cache + copies
    monkeypatch.setattr(dunwu.engines.fast.engine, "free_memory", lambda device: 32 * (cache + copies) - 64)
    assert engine.generate(prompts, sampling) == first
    assert engine.extra_bytes == 0
    assert engine.generate(prompts, sampling) == first


# -- whose weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "tied"), [("qwen2", False), ("qwen3", False), ("llama", True), ("mistral", False)]
)
def test_weights_changed_in_place_are_used_by_the_next_call_without_a_load(engine_of, tiny, family, tied):
    """Property 15: a copy of one norm, bias or embedding that is not written again samples from an old policy."""
    model, other = (stirred(tiny.model(family, seed=s, tie_word_embeddings=tied), seed=s) for s in (0, 1))
    engine, fresh = engine_of(model), engine_of(other)
    prompts, sampling = tiny.prompts(*TEXTS), SamplingParams(n=3, max_new_tokens=16)
    before = engine.generate(prompts, sampling)
    with torch.no_grad():
        for (name, weight), replacement in zip(model.named_parameters(), other.parameters(), strict=True):
            weight.copy_(replacement)
            changed = engine.generate(prompts, sampling)
            assert float(gaps(model, prompts, changed).max()) < 1e-4, f"{name} is not fresh"
    assert ids_of(changed) != ids_of(before)
    assert changed == fresh.generate(prompts, sampling)


def test_a_token_made_certain_by_the_trainer_is_sampled_by_the_next_call(engine_of, tiny):
    """Every hidden state is made of ones, and the head loves the ninth token: nothing of the last call may speak."""
    engine, sampling = engine_of(), SamplingParams(n=2, max_new_tokens=5)
    engine.generate(tiny.prompts(*TEXTS), sampling)
    with torch.no_grad():
        for name, weight in engine.model.named_parameters():
            weight.fill_(1.0 if "embed" in name or name == "model.norm.weight" else 0.0)
        engine.model.lm_head.weight[9] = 10.0
    assert {c.ids for c in chain(*engine.generate(tiny.prompts(*TEXTS), sampling))} == {(9,) * 5}


def test_calls_of_other_sizes_and_another_model_see_nothing_of_earlier_calls(engine_of, tiny):
    """Cache and row tensors are kept between calls: larger, smaller, penalised, longer, then another family."""
    first, second = stirred(tiny.model("qwen2")), stirred(tiny.model("mistral", num_hidden_layers=3))
    engine = engine_of(first, ends=ENDS)
    calls = [
        (TEXTS, SamplingParams(n=3, max_new_tokens=16)),
        (TEXTS[:2], SamplingParams(n=2, max_new_tokens=5)),
        (TEXTS[2:], SamplingParams(n=5, max_new_tokens=30, repetition_penalty=1.2)),
        (TEXTS[:4], SamplingParams(n=5, max_new_tokens=30, repetition_penalty=1.5)),
        (TEXTS[1:3], SamplingParams(n=10, max_new_tokens=30)),
    ]
    for model in (first, second, first):
        engine.sync_weights(model, version=1)
        for texts, sampling in calls:
            prompts = tiny.prompts(*texts)
            alone = engine_of(model, ends=unwrap_model(model).generation_config.eos_token_id)
            assert engine.generate(prompts, sampling) == alone.generate(prompts, sampling)


def with_adapter(tiny, family="llama", **options):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    options = {"target_modules": "all-linear", **options}
    config = LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM", **options)
    return get_peft_model(stirred(tiny.model(family)), config).eval()


def test_an_active_adapter_changes_completions_and_the_base_weights_stay_as_they_are(engine_of, tiny):
    """Merging in place and back again would leave rounding in the weights that the trainer holds frozen."""
    model, base = with_adapter(tiny), stirred(tiny.model("llama"))
    engine, before = engine_of(model), tiny.weights(model)
    prompts, sampling = tiny.prompts(*TEXTS), SamplingParams(n=3, max_new_tokens=16)
    adapted = engine.generate(prompts, sampling)
    assert float(gaps(model, prompts, adapted).max()) < 1e-4
    with model.disable_adapter():
        plain = engine.generate(prompts, sampling)
    assert float(gaps(base, prompts, plain).max()) < 1e-4
    assert float(gaps(base, prompts, adapted).max()) > 0.1
    assert ids_of(engine.generate(prompts, sampling)) == ids_of(adapted)
    after = tiny.weights(model)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("family", "options"),
    [("llama", {"use_dora": True}), ("qwen2", {"lora_bias": True, "target_modules": ["q_proj", "v_proj"]})],
    ids=["dora", "lora-bias"],
)
def test_adapters_that_are_no_matrix_to_add_are_called_as_modules(engine_of, tiny, family, options):
    """DoRA scales what it adds to, a bias is no part of a weight: a merged copy would be another policy."""
    model = with_adapter(tiny, family, **options)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "magnitude" in name or ("lora_B" in name and name.endswith("bias")):
                weight.mul_(1.5).add_(0.3)
    assert not can_merge_adapters(unwrap_model(model))
    engine, prompts = engine_of(model, expect=False), tiny.prompts(*TEXTS)
    groups = engine.generate(prompts, SamplingParams(n=3, max_new_tokens=16))
    assert float(gaps(model, prompts, groups).max()) < 1e-4
    with model.disable_adapter():
        assert float(gaps(model, prompts, groups).max()) > 0.1


@pytest.mark.parametrize("adapter", [None, "lora", "dora"])
@pytest.mark.parametrize("half", ["weights", "autocast"])
def test_in_bfloat16_the_engine_is_as_near_to_the_model_as_rounding_allows(engine_of, tiny, half, adapter):
    model = with_adapter(tiny, use_dora=adapter == "dora") if adapter else stirred(tiny.model("llama"))
    autocast = torch.bfloat16 if half == "autocast" else None
    model = model if autocast else model.to(torch.bfloat16)
    engine, prompts = engine_of(model, expect=False, autocast=autocast), tiny.prompts(*TEXTS)
    gap = gaps(model, prompts, engine.generate(prompts, SamplingParams(n=3, max_new_tokens=20)), autocast)
    assert 0 < float(gap.mean()) < 0.1


def test_with_bfloat16_weights_the_angles_are_rounded_as_the_models_own(engine_of, tiny):
    """float32 tables are nearer to the truth and farther from the policy: a quarter more gap at 2,000 positions."""
    model = tiny.model("llama", max_position_embeddings=4096).to(torch.bfloat16)
    decoder = decoder_of(engine_of(model, expect=False))
    decoder.extend_rope(2000)
    cos, sin = model.model.rotary_emb(torch.zeros(1, dtype=torch.bfloat16), torch.arange(2000).unsqueeze(0))
    ours = decoder._rope_table()
    assert torch.equal(ours[0], cos[0].float())
    assert torch.equal(ours[1][:, 4:], sin[0, :, 4:].float())
    assert not torch.equal(cos[0].float(), model.model.rotary_emb(torch.zeros(1), torch.arange(2000)[None])[0][0])


def test_the_heads_copy_in_another_dtype_counts_as_memory(engine_of, tiny):
    """1.1 GB at 7 billion weights, which nobody had counted."""
    decoder = decoder_of(engine_of(tiny.model("llama"), expect=False, autocast=torch.bfloat16))
    layers = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48) * 2
    assert decoder.copied_bytes == layers + tiny.vocabulary * 32 * 2


# -- stop strings ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["transformers", "fast", "native", "fast, 5 rows", "native, 5 rows"])
def any_engine(tiny, request):
    """Every engine on one model; with few rows, stopped ones leave and others take their slots."""
    model, kind = stirred(tiny.model("llama")), request.param
    if kind == "transformers":
        return TransformersEngine(model, tiny.tokenizer())
    if kind.startswith("native") and unsupported_reason(model, torch.float32):
        pytest.skip("compiled steps need a C compiler")
    rows = 5 if kind.endswith("rows") else None
    return FastEngine(model, tiny.tokenizer(), cpu_kernel=kind.startswith("native"), max_rows=rows)


def common(completions, length):
    """Strings of this length in the completions' texts, the most frequent first."""
    texts = [c.text for c in completions]
    counts = Counter(text[i : i + length] for text in texts for i in range(len(text) - length + 1))
    return [string for string, _ in counts.most_common() if len(set(string)) == length]


@pytest.mark.parametrize("lengths", [(1,), (2,), (3,), (2, 3, 3)], ids=str)
def test_a_completion_ends_with_the_token_that_completes_a_stop_string(any_engine, tiny, lengths):
    """And nowhere else: the last letter of a stop string alone, or its first half, ends nothing."""
    prompts, sampling = tiny.prompts(*TEXTS), {"n": 8, "max_new_tokens": 60, "temperature": 0.6, "seed": 1}
    free = list(chain(*any_engine.generate(prompts, SamplingParams(**sampling))))
    stop = tuple(common(free, length)[place] for place, length in enumerate(lengths))
    stopped = list(chain(*any_engine.generate(prompts, SamplingParams(stop=stop, **sampling))))
    tokens, by_string, misled = tiny.tokenizer().convert_ids_to_tokens, 0, 0
    for long, short in zip(free, stopped, strict=True):
        pieces = tokens(list(long.ids))
        ends = [k for k in range(1, len(pieces) + 1) if any(s in "".join(pieces[:k]) for s in stop)]
        expected = ends[0] if ends else len(pieces)
        assert short.ids == long.ids[:expected]
        assert short.sampler_logps == pytest.approx(long.sampler_logps[:expected], abs=1e-4)
        assert short.finish_reason == ("stop" if ends else long.finish_reason)
        assert not ends or short.text.endswith(stop)
        by_string += bool(ends)
        misled += any(piece == s[-1] for piece in pieces[: expected - 1] for s in stop)
    assert 2 <= by_string < len(free) or lengths == (1,), "some must be stopped, and some not"
    assert misled > 2 or lengths == (1,), "letters that could have completed a string must occur"


def test_an_empty_stop_string_is_refused(any_engine, tiny):
    with pytest.raises(ValueError, match=r"a stop string is empty.*remove it"):
        any_engine.generate(tiny.prompts("a"), SamplingParams(max_new_tokens=2, stop=("ab", "")))


def test_stop_strings_of_one_call_are_gone_in_the_next(any_engine, tiny):
    """The table of stop tokens outlives a call."""
    prompts, options = tiny.prompts(*TEXTS), {"n": 3, "max_new_tokens": 20}
    free = any_engine.generate(prompts, SamplingParams(**options))
    (one, other, *_) = common(chain(*free), 1)
    for stop in (one, other):
        groups = any_engine.generate(prompts, SamplingParams(stop=(stop,), **options))
        assert [c.text for c in chain(*groups)] == [
            c.text.partition(stop)[0] + stop * (stop in c.text) for c in chain(*free)
        ]
    assert ids_of(any_engine.generate(prompts, SamplingParams(**options))) == ids_of(free)


# -- what is refused, and who is chosen -----------------------------------------------------------------------------


def test_a_prompt_and_completion_beyond_the_context_are_refused_with_the_numbers(engine_of, tiny):
    """Positions that the model was never trained on give text, not an error: nobody would notice."""
    engine, prompts = engine_of(), tiny.prompts("a", "b" * 109)
    with pytest.raises(ValueError, match=r"109 tokens.* 20 .* 128 tokens.*max_new_tokens"):
        engine.generate(prompts, SamplingParams(max_new_tokens=20))
    assert len(engine.generate(prompts, SamplingParams(max_new_tokens=19))) == 2


@pytest.mark.parametrize(
    ("family", "config", "reason"), [("gpt2", {}, "'gpt2'"), ("llama", rope("dynamic"), "'dynamic'")], ids=str
)
def test_an_unknown_model_is_refused_by_the_fast_engine_and_given_to_transformers(
    tiny, caplog, family, config, reason
):
    model = tiny.model(family, **config)
    with pytest.raises(ValueError, match=f"{reason}.*use the engine 'transformers'"):
        FastEngine(model, tiny.tokenizer())
    with pytest.raises(ValueError, match=reason):
        make_engine(model, tiny.tokenizer(), kind="fast")
    with caplog.at_level(logging.INFO, logger="dunwu"):
        assert type(make_engine(model, tiny.tokenizer())) is TransformersEngine
    assert "engine 'transformers'" in caplog.text and reason in caplog.text


def test_a_known_model_gets_the_fast_engine_unless_transformers_is_asked_for(tiny, caplog):
    model = tiny.model("qwen3")
    with caplog.at_level(logging.INFO, logger="dunwu"):
        engines = [make_engine(model, tiny.tokenizer(), kind=kind) for kind in ("auto", "fast", "transformers")]
    assert [type(engine) for engine in engines] == [FastEngine, FastEngine, TransformersEngine]
    assert "transformers'" not in caplog.text


def test_generation_kwargs_set_the_fields_of_their_names(tmp_path):
    given = {"top_k": 5, "stop_strings": "x", "max_new_tokens": 33, "do_sample": True}
    config = GRPOConfig(output_dir=str(tmp_path), generation_kwargs=given, top_k=9)
    assert (config.top_k, config.stop_strings, config.max_completion_length) == (5, ["x"], 33)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"generation_kwargs": {"num_beams": 4}}, "num_beams=4.*remove it.*temperature, top_k, top_p"),
        ({"generation_kwargs": {"topp": 0.9}}, "topp=0.9.*did you mean 'top_p'"),
        ({"generation_kwargs": {"do_sample": False}}, "do_sample=False"),
        ({"generation_kwargs": {"top_p": 1.5}}, "top_p=1.5"),
        ({"stop_strings": ["a", ""]}, "stop_strings.*without empty"),
        ({"engine": "fats"}, "engine='fats' is unknown.*'fast'"),
        ({"kv_cache_gib": 0.0}, "kv_cache_gib=0.0.*above 0 GiB"),
    ],
    ids=str,
)
def test_an_option_that_no_engine_has_is_refused_with_the_nearest_that_one_has(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        GRPOConfig(output_dir=str(tmp_path), **options)


# -- a step never waits for the device ------------------------------------------------------------------------------


class Waits(Exception):
    """An operation made the host wait for the device, or the device for the host."""


class NeverWaits(TorchDispatchMode):
    """Refuses operations that make the host wait for a device, or that bring it data: no graph can hold them."""

    waits = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [a for a in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
        devices = {t.device.type for t in tensors}
        name = func.name().removeprefix("aten::").split(".")[0]
        # A mask as an index asks how many of its values are true.
        redact = name.startswith("index") and any(t.dtype == torch.bool for t in tensors[1:])
        leaves = torch.device((kwargs or {}).get("device") or "meta").type != "meta"
        if "meta" in devices and (redact or leaves or name.startswith(self.waits)):
            raise Waits(f"{name} waits for the device")
        result = func(*args, **(kwargs or {}))
        made = [t for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]
        devices = {t.device.type for t in [*tensors, *made] if t.dim() > 0}
        if len(devices) > 1:
            raise Waits(f"{name} brings data from the host, or takes it there")
        return result


EVERYTHING = {"temperature": 0.7, "top_k": 9, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2}


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.0}, {"stop": ("ab",)}, {**EVERYTHING, "stop": ("ab", "cd")}], ids=str
)
@pytest.mark.parametrize("family", ["mistral", "qwen3"])
@torch.inference_mode()
def test_a_step_never_waits_for_the_device(tiny, family, options):
    """On the meta device there are no values to ask for; it takes the paths of a GPU, not those of a CPU."""
    engine, sampling = FastEngine(tiny.model(family).to("meta"), tiny.tokenizer()), SamplingParams(n=4, **options)
    decoder = engine.decoder()
    buffers, _ = engine.acquire_buffers(decoder, 4, 32, sampling)
    state, end_ids = buffers.state, torch.tensor(engine.end_ids, device="meta")
    stops = engine.stops(sampling)
    with NeverWaits():
        for kv_length in (16, 32):
            logits = decoder.step(state.token_S[:3], state.position_S[:3], kv_length, buffers.cache)
            state.sample(0, 3, logits, sampling, end_ids, stops.may_stop_V if stops else None)


@pytest.mark.parametrize(
    "stalls",
    [
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x.masked_select(x > 0),
        lambda x: x.to("cpu"),
        lambda x: x + torch.tensor([1, 2]).to("meta"),
    ],
    ids=["mask", "nonzero", "item", "bool", "masked_select", "to the host", "from the host"],
)
def test_the_test_above_detects_what_would_stall_a_gpu(stalls):
    x = torch.zeros(2, dtype=torch.long, device="meta")
    with pytest.raises(Waits), NeverWaits():
        stalls(x)


class FirstCallAgain(CudaGraphRunner):
    """What a captured graph does, where there is no GPU: a key's first step is run, whatever is given later."""

    def __init__(self, device, state):
        super().__init__(device, state)
        self.enabled = True

    def run(self, key, step):
        self._graphs.setdefault(key, step)()


@pytest.mark.parametrize(("family", "max_rows"), [("mistral", None), ("mistral", 5), ("qwen3", 5), ("llama", 7)])
def test_the_schedule_of_a_gpu_gives_the_completions_of_a_cpu(tiny, monkeypatch, family, max_rows):
    """Rows rounded up, spans of many positions, a look every few tokens, and steps captured in an earlier call.

    Guards against a key that leaves out what a step depends on: the graph of a call without stop strings, or with
    another temperature, would be replayed in one that has them.
    """
    model, prompts = stirred(tiny.model(family)), tiny.prompts(*TEXTS)
    model.generation_config.eos_token_id = [1, *range(5, 12)]
    plain = FastEngine(model, tiny.tokenizer(), cpu_kernel=False, max_rows=max_rows)
    base = {"n": 3, "max_new_tokens": 30}
    stops = common(chain(*plain.generate(prompts, SamplingParams(**base))), 1)[:2]
    calls = [{}, *({"stop": (stop,)} for stop in stops), {"temperature": 0.0}, {"temperature": 0.7}]
    calls += [
        {"top_k": 3},
        {"top_p": 0.5},
        {"min_p": 0.2},
        {},
        {"repetition_penalty": 1.2},
        {"repetition_penalty": 2.0},
    ]
    expected = [plain.generate(prompts, SamplingParams(**base, **options)) for options in calls]
    monkeypatch.setattr(dunwu.engines.fast.engine, "CudaGraphRunner", FirstCallAgain)
    monkeypatch.setitem(dunwu.engines.fast.scheduler.KV_LENGTH_UNIT, "cpu", 16)
    monkeypatch.setitem(dunwu.engines.fast.scheduler.SYNC_EVERY, "cpu", 8)
    replaying = FastEngine(model, tiny.tokenizer(), cpu_kernel=False, max_rows=max_rows)
    for options, groups in zip(calls, expected, strict=True):
        assert ids_of(replaying.generate(prompts, SamplingParams(**base, **options))) == ids_of(groups), options
    assert len({str(ids_of(groups)) for groups in expected}) == len(calls) - 1


def test_without_cuda_a_replayed_step_is_the_step_called_each_time():
    """What CPU tests prove of a step then holds for the code path that a GPU captures."""
    count = torch.zeros(1)
    replay = CudaGraphRunner(torch.device("cpu"), [count])
    for key in ("a", "a", "b"):
        replay.run(key, lambda: count.add_(1))
    assert not replay.enabled
    assert count.item() == 3


# -- what a model may do to an engine that lives on ----------------------------------------------------------------


def test_stop_strings_of_one_model_are_looked_up_anew_for_another_vocabulary(engine_of, tiny):
    """The table of stop tokens has an entry for every id of a model; another model may have more."""
    small, large = stirred(tiny.model("llama")), stirred(tiny.model("llama", vocab_size=tiny.vocabulary + 50))
    engine, sampling = engine_of(small), SamplingParams(n=3, max_new_tokens=20, stop=("a", "b", "c", "d"))
    engine.generate(tiny.prompts(*TEXTS), sampling)
    engine.sync_weights(large, version=1)
    expected = engine_of(large).generate(tiny.prompts(*TEXTS), sampling)
    assert ids_of(engine.generate(tiny.prompts(*TEXTS), sampling)) == ids_of(expected)


# GPU schedule: add ("mistral", 5) to the parameters of test_the_schedule_of_a_gpu_gives_the_completions_of_a_cpu.


@pytest.mark.parametrize("whose", ["data", "assign"])
def test_weights_that_were_replaced_are_used_by_the_next_call_without_a_load(engine_of, tiny, whose):
    """Wrappers swap `.data`, and load_state_dict(assign=True) swaps parameters: a kept address reads freed memory."""
    model, other = (stirred(tiny.model("qwen3", seed=s), seed=s) for s in (0, 1))
    engine, prompts, sampling = engine_of(model), tiny.prompts(*TEXTS), SamplingParams(n=3, max_new_tokens=16)
    engine.generate(prompts, sampling)
    if whose == "data":
        for weight, replacement in zip(model.parameters(), other.parameters(), strict=True):
            weight.data = replacement.data.clone()
    else:
        model.load_state_dict(tiny.weights(other), assign=True)
    assert engine.generate(prompts, sampling) == engine_of(other).generate(prompts, sampling)


def test_a_call_after_one_with_broken_weights_is_unaffected(engine_of, tiny):
    """A kept cache holds its NaN: a masked place still enters a product, and 0 · NaN is NaN."""
    engine, sampling = engine_of(), SamplingParams(n=3, max_new_tokens=16)
    prompts, kept = tiny.prompts(*TEXTS[:2]), tiny.weights(engine.model)
    before = engine.generate(prompts, sampling)
    with torch.no_grad():
        for weight in engine.model.parameters():
            weight.fill_(float("nan"))
    engine.generate(prompts, sampling)
    engine.model.load_state_dict(kept)
    assert engine.generate(prompts, sampling) == before


def test_another_activation_is_used_or_refused(tiny, native):
    model, prompts = tiny.model("llama", hidden_act="gelu").eval(), tiny.prompts(*TEXTS)
    try:
        engine = FastEngine(model, tiny.tokenizer(), cpu_kernel=native)
    except ValueError:
        return
    assert float(gaps(model, prompts, engine.generate(prompts, SamplingParams(n=3, max_new_tokens=16))).max()) < 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6, 7]},
    ],
    ids=["head", "embedding", "tokens"],
)
def test_adapters_on_the_head_and_the_embedding_are_used_or_refused(tiny, native, options):
    model, prompts = with_adapter(tiny, **options), tiny.prompts(*TEXTS)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "token_adapter" in name:
                weight.add_(torch.randn_like(weight) * 0.3)
    try:
        engine = FastEngine(model, tiny.tokenizer(), cpu_kernel=native)
    except ValueError:
        return
    assert float(gaps(model, prompts, engine.generate(prompts, SamplingParams(n=3, max_new_tokens=16))).max()) < 1e-4


def test_the_cache_stays_within_the_bytes_that_were_allowed(engine_of, tiny):
    """33 positions become 48 in the compiled steps' cache, behind the back of the count that was made with 33."""
    engine = engine_of()
    room = 6 * kv_bytes_per_slot(engine.model.config, 33, torch.float32)
    engine = engine_of(engine.model, kv_cache_bytes=room)
    engine.generate(tiny.prompts("a"), SamplingParams(n=6, max_new_tokens=32))
    assert engine.extra_bytes - decoder_of(engine).copied_bytes <= room
