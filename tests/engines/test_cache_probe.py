"""Models whose cache the engine cannot drive are refused before a run, and others are left as they were."""

from __future__ import annotations

import pytest
import torch
import transformers

from dunwu.engines import TransformersEngine, make_engine
from dunwu.engines.cache_probe import check_cache
from dunwu.errors import EngineError

SIZES = {
    "vocab_size": 80,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
MORE = {
    "rwkv": {"attention_hidden_size": 32},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_ff_dim": 48},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 4},
}


def model_of(family):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **SIZES, **MORE.get(family, {}))
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("family", ["rwkv", "mamba", "lfm2", "falcon_h1"])
def test_a_model_whose_cache_is_not_keys_and_values_is_refused_in_one_sentence(tiny, family):
    """rwkv was sampled wrongly without a word (6.7 nats), the others ended in an AttributeError or a shape error."""
    model = model_of(family)
    with pytest.raises(
        EngineError, match=r"cannot decode a .*ForCausalLM: it needs a cache of keys and values"
    ) as refusal:
        make_engine(model, tiny.tokenizer())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("family", ["opt", "bloom", "gpt_neox", "gemma2", "gpt_oss", "cohere"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_models_with_plain_caches_pass_in_every_precision(tiny, family, dtype):
    TransformersEngine(model_of(family).to(dtype), tiny.tokenizer())


def test_the_trial_leaves_training_mode_random_states_and_gradients_as_they_were(tiny):
    model = tiny.model("gpt2", resid_pdrop=0.5).train()
    weights, state = tiny.weights(model), torch.random.get_rng_state()
    TransformersEngine(model, tiny.tokenizer())
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(weight, weights[name]) for name, weight in tiny.weights(model).items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_trial_costs_four_forward_passes_of_at_most_ten_tokens(tiny):
    """A model of billions of weights on a CPU takes seconds a pass."""
    sizes = []

    class Counted(transformers.Qwen2ForCausalLM):
        def forward(self, input_ids, **options):
            sizes.append(input_ids.numel())
            return super().forward(input_ids, **options)

    TransformersEngine(Counted(tiny.model("qwen2").config), tiny.tokenizer())
    assert len(sizes) == 4 and max(sizes) <= 10


def test_a_model_without_weights_here_is_not_tried():
    check_cache(model_of("mamba").to("meta"), torch.device("meta"))


def test_running_out_of_memory_is_not_taken_for_a_wrong_cache(tiny, monkeypatch):
    model = tiny.model("gpt2")

    def full(*args, **options):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(model, "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        TransformersEngine(model, tiny.tokenizer())


def test_the_next_model_is_tried_too(tiny):
    engine = TransformersEngine(tiny.model("gpt2"), tiny.tokenizer())
    with pytest.raises(EngineError, match="cannot decode"):
        engine.sync_weights(model_of("rwkv"), version=1)
