"""A policy's weights by their plain names: what another engine loads is what the policy computes."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn

from dunwu.errors import EngineError
from dunwu.model.weights import named_weights

SOME = ["q_proj", "v_proj", "down_proj"]


def adapted(tiny, config, family="qwen3", **model):
    """A model with this adapter, far from where it begins."""
    torch.manual_seed(1)
    config.task_type = "CAUSAL_LM"
    policy = peft.get_peft_model(tiny.model(family, **model), config).eval()
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.1)
    return policy


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([[5, 9, 30, 41, 7, 7, 60]])).logits


def loaded(plain, pairs):
    """A plain model with these weights; every name must fit, and none be missing."""
    plain.load_state_dict(dict(pairs), strict=True)
    return plain.eval()


LORA = {"target_modules": SOME, "r": 4, "init_lora_weights": False}


@pytest.mark.parametrize(
    "config",
    [
        lambda: peft.LoraConfig(**LORA),
        lambda: peft.LoraConfig(**LORA, use_rslora=True, lora_alpha=3),
        lambda: peft.LoraConfig(**LORA, use_dora=True),
        lambda: peft.LoraConfig(**LORA, modules_to_save=["lm_head", "embed_tokens", "norm", "o_proj"]),
        lambda: peft.LoraConfig(**(LORA | {"target_modules": ["q_proj", "lm_head", "embed_tokens"]})),
        lambda: peft.LoraConfig(**LORA, trainable_token_indices=[5, 9]),
        lambda: peft.LNTuningConfig(target_modules=["norm", "q_norm"]),
        lambda: peft.VeraConfig(target_modules=["q_proj", "o_proj"], r=4, init_weights=False),
        lambda: peft.OFTConfig(target_modules=SOME, oft_block_size=4, init_weights=False),
        lambda: peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[], init_ia3_weights=False),
    ],
    ids=["lora", "rslora", "dora", "modules_to_save", "head", "tokens", "norms", "vera", "oft", "ia3"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_plain_model_with_these_weights_computes_what_the_policy_does_and_nothing_of_it_moves(tiny, config):
    policy = adapted(tiny, config())
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    expected, base = logits(policy), tiny.model("qwen3").eval()
    fresh = loaded(tiny.model("qwen3", seed=5), named_weights(policy))
    torch.testing.assert_close(logits(fresh), expected, atol=1e-5, rtol=0)
    assert float((logits(base) - expected).abs().max()) > 0.05, "an adapter that does nothing would prove nothing"
    after = policy.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(logits(policy), expected)
    assert torch.equal(logits(loaded(fresh, named_weights(policy, merged=False))), logits(base))
    with policy.disable_adapter():
        assert torch.equal(logits(loaded(fresh, named_weights(policy))), logits(base))


def test_an_adapter_that_is_merged_already_is_added_once(tiny):
    policy = adapted(tiny, peft.LoraConfig(**LORA))
    expected = logits(policy)
    policy.merge_adapter()
    torch.testing.assert_close(
        logits(loaded(tiny.model("qwen3"), named_weights(policy))), expected, atol=1e-5, rtol=0
    )
    base = loaded(tiny.model("qwen3", seed=5), named_weights(policy, merged=False))
    torch.testing.assert_close(logits(base), logits(tiny.model("qwen3").eval()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_the_names_of_a_plain_model_are_those_of_its_parameters_in_its_state_dict(tiny, family, tied):
    model = tiny.model(family, tie_word_embeddings=tied)
    found = dict(named_weights(model))
    assert set(found) == {name for name, _ in model.named_parameters(remove_duplicate=False)}
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in found.items())
    assert not any(tensor.requires_grad for tensor in found.values())
    assert torch.equal(
        logits(loaded(tiny.model(family, seed=5, tie_word_embeddings=tied), found.items())), logits(model.eval())
    )


def test_weights_come_in_the_dtype_asked_for(tiny):
    policy = adapted(tiny, peft.LoraConfig(**LORA))
    exact = dict(named_weights(policy))
    for name, tensor in named_weights(policy, dtype=torch.bfloat16):
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, exact[name].to(torch.bfloat16))


@pytest.fixture
def one_process(tmp_path):
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_policy_inside_of_ddp_has_the_same_weights_and_a_sharded_one_is_refused(tiny, one_process):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    policy = adapted(tiny, peft.LoraConfig(**LORA))
    alone = dict(named_weights(policy))
    wrapped = dict(named_weights(nn.parallel.DistributedDataParallel(policy)))
    assert list(wrapped) == list(alone)
    assert all(torch.equal(wrapped[name], tensor) for name, tensor in alone.items())
    sharded = tiny.model("qwen3")
    fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(EngineError, match="sharded over processes"):
        named_weights(sharded)


def test_what_is_no_plain_weight_is_refused_at_the_call_and_not_at_the_first_weight(tiny):
    prefix = adapted(tiny, peft.PrefixTuningConfig(num_virtual_tokens=3))
    with pytest.raises(EngineError, match="PREFIX_TUNING is not part of any weight"):
        named_weights(prefix)
    adaption = adapted(tiny, peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=2), "llama")
    with pytest.raises(EngineError, match="ADAPTION_PROMPT is not part of any weight"):
        named_weights(adaption)
    quantised = tiny.model()
    quantised.is_quantized = True
    with pytest.raises(EngineError, match="quantised"):
        named_weights(quantised)


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
def test_an_adapter_that_peft_cannot_merge_is_named_with_its_place(tiny):
    """A LoRA bias has nowhere to go where the layer has none."""
    policy = adapted(tiny, peft.LoraConfig(target_modules=["q_proj"], lora_bias=True, init_lora_weights=False))
    with pytest.raises(
        EngineError, match=r"the adapter on model\.layers\.0\.self_attn\.q_proj \(Linear\) cannot be merged"
    ):
        list(named_weights(policy))
