"""The door to an engine's weights and memory, and engines by name."""

from __future__ import annotations

import gc
import logging
import weakref
from contextlib import contextmanager

import pytest
import torch

from dunwu.core.protocols import Engine
from dunwu.core.records import SamplingParams
from dunwu.engines import ENGINES, FastEngine, TransformersEngine, make_engine, ready
from dunwu.errors import ConfigError, EngineError

FOREIGN = '''
import contextlib

from dunwu.engines import TransformersEngine


class Copying:
    """An engine with weights of its own, which it gets by name."""

    def __init__(self, model, tokenizer, *, seats=4, colour="red"):
        import copy

        self.own = copy.deepcopy(model)
        self.inner = TransformersEngine(self.own, tokenizer, max_rows=seats)
        self.colour = colour
        self.versions = []

    def generate(self, prompts, sampling):
        return self.inner.generate(prompts, sampling)

    def sync_weights(self, policy, *, version):
        from dunwu.model.weights import named_weights

        self.own.load_state_dict(dict(named_weights(policy)))
        self.versions.append(version)

    def session(self):
        return contextlib.nullcontext()


def anything(model, tokenizer, **options):
    return Copying(model, tokenizer, colour=str(sorted(options)))


def half(model, tokenizer):
    return object()


number = 3
'''


class Watching:
    """An engine that writes down what is asked of it."""

    def __init__(self):
        self.calls = []

    def generate(self, prompts, sampling):
        return []

    def sync_weights(self, policy, *, version):
        self.calls.append(("sync", version))
        if version == 13:
            raise RuntimeError("the copy broke off")

    @contextmanager
    def session(self):
        self.calls.append("open")
        yield
        self.calls.append("close")


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A module that is not ours."""
    (tmp_path / "their_engines.py").write_text(FOREIGN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "their_engines"


# -- the door -------------------------------------------------------------------------------------------------------


def test_weights_are_synced_exactly_when_the_policy_or_its_version_moved():
    engine, policy, other = Watching(), torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    for model, version in ((policy, 0), (policy, 0), (policy, 1), (other, 1), (other, 1), (policy, 1)):
        with ready(engine, model, version=version) as given:
            assert given is engine
            assert engine.calls[-1] == "open", "the session is entered after the sync"
        assert engine.calls[-1] == "close"
    assert [call[1] for call in engine.calls if call[0] == "sync"] == [0, 1, 1, 1]


def test_a_sync_can_be_forced_and_an_unknown_version_always_syncs():
    engine, policy = Watching(), torch.nn.Linear(1, 1)
    for options in ({"version": 4}, {"version": 4, "force": True}, {}, {}, {"version": 4}, {"version": 4}):
        with ready(engine, policy, **options):
            pass
    assert [call[1] for call in engine.calls if call[0] == "sync"] == [4, 4, -1, -1, 4]


def test_without_a_policy_ready_only_opens_a_session():
    engine = Watching()
    with ready(engine):
        pass
    assert engine.calls == ["open", "close"]


def test_a_sync_that_failed_is_tried_again():
    """The engine may hold half of the new weights: to call that version synced would sample from a mixture."""
    engine, policy = Watching(), torch.nn.Linear(1, 1)
    with ready(engine, policy, version=12):
        pass
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broke off"), ready(engine, policy, version=13):
            pass
    with ready(engine, policy, version=12):
        pass
    assert [call[1] for call in engine.calls if call[0] == "sync"] == [12, 13, 13, 12]


def test_ready_keeps_no_engine_and_no_policy_alive():
    engine, policy = Watching(), torch.nn.Linear(1, 1)
    with ready(engine, policy, version=1):
        pass
    gone = [weakref.ref(engine), weakref.ref(policy)]
    del engine, policy
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_an_engine_that_cannot_be_remembered_is_synced_every_time():
    class Frozen:
        __slots__ = ("calls",)
        generate, sync_weights, session = Watching.generate, Watching.sync_weights, Watching.session

    engine, policy = Frozen(), torch.nn.Linear(1, 1)
    engine.calls = []
    for _ in range(2):
        with ready(engine, policy, version=1):
            pass
    assert [call[1] for call in engine.calls if call[0] == "sync"] == [1, 1]


@pytest.mark.parametrize("kind", ["fast", "transformers"])
def test_calls_within_one_session_are_those_of_calls_alone(tiny, kind):
    model = tiny.model("qwen2").train()
    engine, sampling = make_engine(model, tiny.tokenizer(), kind=kind), SamplingParams(n=2, max_new_tokens=6)
    alone = [engine.generate(tiny.prompts(text), sampling) for text in ("a", "what")]
    with ready(engine, model, version=0):
        assert not model.training
        within = [engine.generate(tiny.prompts(text), sampling) for text in ("a", "what")]
        assert not model.training, "a call inside of a session does not end it"
    assert model.training
    assert within == alone


def test_a_session_around_several_calls_keeps_the_keys_and_values_between_them(tiny, monkeypatch):
    """An evaluation of a hundred calls would otherwise make the decoder's copies and the cache a hundred times."""
    engine = make_engine(tiny.model("qwen2"), tiny.tokenizer(), kind="fast")
    monkeypatch.setattr("dunwu.engines.fast.engine.free_memory", lambda device: 1 << 20)
    sampling = SamplingParams(n=2, max_new_tokens=6)
    with ready(engine):
        engine.generate(tiny.prompts("a"), sampling)
        kept = engine._buffers
        assert kept is not None
        engine.generate(tiny.prompts("b"), sampling)
        assert engine._buffers is kept
    assert engine.extra_bytes == 0


def test_another_model_within_a_session_samples_without_dropout_and_its_mode_is_put_back(tiny):
    first, second = (tiny.model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5).train() for _ in range(2))
    engine, greedy = TransformersEngine(first, tiny.tokenizer()), SamplingParams(max_new_tokens=12, temperature=0.0)
    with ready(engine):
        engine.sync_weights(second, version=1)
        one, other = (engine.generate(tiny.prompts("abc"), greedy) for _ in range(2))
    assert one == other
    assert first.training and second.training


# -- engines by name ------------------------------------------------------------------------------------------------


def test_an_engine_of_yours_is_made_with_its_options_and_synced_by_ready(tiny, foreign):
    policy = tiny.model("qwen2").eval()
    options = {"seats": 2, "colour": "blue"}
    engine = make_engine(policy, tiny.tokenizer(), kind=f"{foreign}:Copying", options=options)
    assert isinstance(engine, Engine)
    assert (engine.inner.max_rows, engine.colour) == (2, "blue")
    prompts, greedy = tiny.prompts("a", "the end"), SamplingParams(max_new_tokens=8, temperature=0.0)
    before = engine.generate(prompts, greedy)
    policy.load_state_dict(tiny.model("qwen2", seed=1).state_dict())
    with ready(engine, policy, version=1):
        after = engine.generate(prompts, greedy)
    assert engine.versions == [1]
    assert after == TransformersEngine(policy, tiny.tokenizer()).generate(prompts, greedy)
    assert after != before


def test_an_engine_that_takes_any_option_is_given_them_all(tiny, foreign):
    engine = make_engine(tiny.model(), tiny.tokenizer(), kind=f"{foreign}:anything", options={"url": "x", "tp": 2})
    assert engine.colour == "['tp', 'url']"


@pytest.mark.parametrize(
    ("kind", "options", "error", "words"),
    [
        ("fats", {}, ConfigError, "engine='fats' is unknown; did you mean 'fast'.*package.module:object"),
        ("fast", {"max_row": 3}, ConfigError, "'fast' has no option 'max_row'; did you mean 'max_rows'"),
        ("transformers", {"cpu_kernel": False}, ConfigError, "'transformers' has no option 'cpu_kernel'"),
        ("fast", {"autocast": None}, ConfigError, "'fast' has no option 'autocast'"),
        ("auto", {"max_row": 3}, ConfigError, "did you mean 'max_rows'"),
        ("their_engines:Copying", {"seat": 3}, ConfigError, "no option 'seat'; did you mean 'seats'"),
        ("their_engines:half", {"seats": 3}, ConfigError, "no option 'seats'; it has none"),
        ("their_engines:Copyng", {}, ConfigError, "did you mean 'Copying'"),
        ("their_engines:number", {}, ConfigError, "names a int; name a class or function"),
        ("their_engines:half", {}, EngineError, "made a object without generate, sync_weights, session"),
    ],
)
def test_an_engine_or_option_that_is_not_there_is_refused_with_the_nearest(
    tiny, foreign, kind, options, error, words
):
    with pytest.raises(error, match=words):
        make_engine(tiny.model(), tiny.tokenizer(), kind=kind, options=options)


def test_built_in_engines_take_the_precision_and_memory_of_the_run_and_their_own_options(tiny):
    assert set(ENGINES) == {"fast", "transformers"}
    given = {"autocast": torch.bfloat16, "kv_cache_bytes": 1 << 20, "options": {"max_rows": 3}}
    fast, plain = (make_engine(tiny.model(), tiny.tokenizer(), kind=kind, **given) for kind in ENGINES)
    assert (type(fast), fast.autocast, fast.kv_cache_bytes, fast.max_rows) == (FastEngine, torch.bfloat16, 1 << 20, 3)
    assert (type(plain), plain.autocast, plain.max_rows) == (TransformersEngine, torch.bfloat16, 3)


def test_an_engine_added_to_the_registry_is_found_by_its_name(tiny, foreign, monkeypatch, caplog):
    their_engines = __import__(foreign)
    monkeypatch.setitem(ENGINES, "copying", their_engines.Copying)
    with caplog.at_level(logging.INFO, logger="dunwu"):
        assert type(make_engine(tiny.model(), tiny.tokenizer(), kind="copying")) is their_engines.Copying
    assert "transformers" not in caplog.text
