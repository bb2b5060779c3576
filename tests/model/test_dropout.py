"""Dropout of every form is switched off, and what stays random in training mode is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from dunwu.errors import ModelError
from dunwu.model.dropout import check_deterministic, disable_dropout
from dunwu.model.loading import prepare_policy
from dunwu.model.logprobs import forward_logps
from dunwu.rollout.micro_batches import make_micro_batches

P = 0.3


def model_of(tiny: Any, kind: str) -> Any:
    """Small models that drop values by modules (GPT-2), by floats (OPT, XGLM, Seed-OSS) or by the config (Falcon)."""
    torch.manual_seed(0)
    sizes = {"vocab_size": tiny.vocabulary, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    llama = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    if kind == "gpt2":
        return tiny.model("gpt2", resid_pdrop=P, embd_pdrop=P, attn_pdrop=P)
    if kind == "opt":
        own = {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64, "layerdrop": 0.5}
        config = transformers.OPTConfig(**sizes, **llama, **own, dropout=P, attention_dropout=P)
        return transformers.OPTForCausalLM(config)
    if kind == "xglm":
        own = {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 64}
        config = transformers.XGLMConfig(**sizes, **own, dropout=P, attention_dropout=P, activation_dropout=P)
        return transformers.XGLMForCausalLM(config)
    if kind == "falcon":
        return transformers.FalconForCausalLM(
            transformers.FalconConfig(**sizes, **llama, hidden_dropout=P, attention_dropout=P)
        )
    own = {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
    config = transformers.SeedOssConfig(**sizes, **llama, **own, residual_dropout=P, attention_dropout=P)
    return transformers.SeedOssForCausalLM(config)


@pytest.mark.parametrize("kind", ["gpt2", "opt", "xglm", "falcon", "seed_oss"])
def test_without_dropout_the_training_forward_is_the_samplers(tiny, kind):
    """One float that is left on is a gap of up to 4 nats a token between the sampler and the policy."""
    model = model_of(tiny, kind).train()
    (batch,) = make_micro_batches(tiny.groups(((3, (9, 2)), (5, (4,)))), loss_aggregation="token_mean", tokens=1000)
    with pytest.raises(ModelError, match="differ in training mode, first after"):
        check_deterministic(model)
    disable_dropout(model)
    check_deterministic(model)
    trained, _ = forward_logps(model, batch)
    sampled, _ = forward_logps(model.eval(), batch)
    assert torch.equal(trained, sampled)


@pytest.mark.parametrize("kind", ["LoraConfig", "LoKrConfig"])
def test_the_dropout_of_an_adapter_is_switched_off_too(tiny, kind):
    """LoRA has modules for it, LoKr dicts of floats."""
    import peft

    options = {
        "LoraConfig": {"lora_dropout": P, "init_lora_weights": False},
        "LoKrConfig": {"rank_dropout": P, "module_dropout": P, "init_weights": False},
    }[kind]
    config = getattr(peft, kind)(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **options)
    with pytest.raises(ModelError, match="differ in training mode"):
        check_deterministic(prepare_policy(tiny.model(), {}, config, dropout=True))
    check_deterministic(prepare_policy(tiny.model(), {}, config))


def test_the_module_that_is_random_is_named_and_the_check_leaves_no_trace(tiny):
    """A model may add noise of its own; which part does is what one needs to know."""
    model = tiny.model().eval()
    mlp = model.model.layers[1].mlp
    mlp.register_forward_hook(lambda module, args, output: output + torch.rand_like(output) * module.training)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with pytest.raises(ModelError, match=r"first after 'model\.layers\.1\.mlp' \(Qwen2MLP\).*disable_dropout=False"):
        check_deterministic(model)
    assert torch.equal(torch.rand(3), expected) and not model.training
    assert not any(module._forward_hooks for module in model.modules() if module is not mlp)
