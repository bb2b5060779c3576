"""Every kind of adapter: sampled as the policy that is trained, or refused by name."""

from __future__ import annotations

from itertools import chain

import peft
import pytest
import torch

from dunwu.core.records import SamplingParams
from dunwu.engines import FastEngine, TransformersEngine, make_engine
from dunwu.errors import EngineError

SOME = ["q_proj", "o_proj"]


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


@torch.no_grad()
def largest_gap(policy, prompts, groups):
    """|sampler's log-probability − that of a plain forward of prompt and completion|, the largest of all tokens."""
    found = []
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            logits = policy(torch.tensor([[*prompt.ids, *completion.ids]])).logits[0, len(prompt.ids) - 1 : -1]
            own = logits.log_softmax(-1).gather(1, torch.tensor(completion.ids).unsqueeze(1)).squeeze(1)
            found.append((own - torch.tensor(completion.sampler_logps)).abs().max())
    assert len({c.ids for c in chain(*groups)}) > 3, "a model that says one thing would prove nothing"
    return float(torch.stack(found).max())


@pytest.mark.parametrize("cpu_kernel", [True, False], ids=["kernel", "torch"])
@pytest.mark.parametrize(
    "config",
    [
        lambda: peft.VeraConfig(target_modules=SOME, r=4, init_weights=False),
        lambda: peft.LoHaConfig(target_modules=SOME, init_weights=False),
        lambda: peft.LoKrConfig(target_modules=SOME, init_weights=False),
        lambda: peft.OFTConfig(target_modules=SOME, oft_block_size=4, init_weights=False),
        lambda: peft.BOFTConfig(target_modules=SOME, boft_block_size=4, init_weights=False),
        lambda: peft.FourierFTConfig(target_modules=SOME, n_frequency=50, init_weights=False),
        lambda: peft.IA3Config(
            target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False
        ),
    ],
    ids=["vera", "loha", "lokr", "oft", "boft", "fourierft", "ia3"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_adapters_that_are_not_lora_are_sampled_as_the_policy_is(tiny, config, cpu_kernel):
    """They have `get_delta_weight` as LoRA has, and no `lora_A`: the first rollout ended in an AttributeError."""
    policy, prompts = adapted(tiny, config()), tiny.prompts("a", "what is 2+2")
    engine = FastEngine(policy, tiny.tokenizer(), cpu_kernel=cpu_kernel)
    assert largest_gap(policy, prompts, engine.generate(prompts, SamplingParams(n=3, max_new_tokens=12))) < 1e-4


@pytest.mark.parametrize("cpu_kernel", [True, False], ids=["kernel", "torch"])
def test_lora_on_replicated_layers_is_sampled_as_the_policy_is(tiny, cpu_kernel):
    config = peft.LoraConfig(target_modules=SOME, init_lora_weights=False, layer_replication=[(0, 2), (0, 2)])
    policy, prompts = adapted(tiny, config, "llama"), tiny.prompts("a", "what is 2+2")
    engine = FastEngine(policy, tiny.tokenizer(), cpu_kernel=cpu_kernel)
    assert largest_gap(policy, prompts, engine.generate(prompts, SamplingParams(n=3, max_new_tokens=12))) < 1e-4


def test_replicated_layers_that_the_config_does_not_describe_are_refused_in_one_sentence(tiny):
    """peft lengthens the model and not `layer_types`: transformers' own forward ends in an IndexError too."""
    policy = adapted(tiny, peft.LoraConfig(target_modules=SOME, layer_replication=[(0, 2), (0, 2)]), "qwen2")
    with pytest.raises(EngineError, match=r"it has 4 layers, and its config describes 2 \(layer_types\)"):
        FastEngine(policy, tiny.tokenizer())
    with pytest.raises(EngineError, match="cannot decode a Qwen2ForCausalLM"):
        make_engine(policy, tiny.tokenizer())


@pytest.mark.parametrize("modules", [["norm"], ["post_attention_layernorm"], ["q_norm"]], ids=lambda names: names[0])
@pytest.mark.filterwarnings("ignore:Unsupported layer type")
def test_an_adapter_on_norms_is_left_to_the_engine_that_runs_the_modules(tiny, modules):
    """The fast engine reads `norm.weight`, which is the frozen base's: its sampler stayed where the run began."""
    policy, prompts = adapted(tiny, peft.LNTuningConfig(target_modules=modules)), tiny.prompts("a", "what is 2+2")
    with pytest.raises(EngineError, match="an adapter is on its norms"):
        FastEngine(policy, tiny.tokenizer())
    engine = make_engine(policy, tiny.tokenizer())
    assert type(engine) is TransformersEngine
    assert largest_gap(policy, prompts, engine.generate(prompts, SamplingParams(n=3, max_new_tokens=12))) < 1e-4


def test_norms_that_are_trained_whole_are_read_by_the_fast_engine(tiny):
    config = peft.LoraConfig(target_modules=SOME, modules_to_save=["norm", "input_layernorm", "q_norm"])
    policy, prompts = adapted(tiny, config), tiny.prompts("a", "what is 2+2")
    engine = FastEngine(policy, tiny.tokenizer())
    assert largest_gap(policy, prompts, engine.generate(prompts, SamplingParams(n=3, max_new_tokens=12))) < 1e-4


def test_an_adapter_in_the_place_of_the_attention_is_left_to_the_engine_that_runs_the_modules(tiny):
    policy = adapted(tiny, peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=2), "llama")
    with pytest.raises(EngineError, match="AdaptedAttention"):
        FastEngine(policy, tiny.tokenizer())
    prompts, engine = tiny.prompts("a", "what is 2+2"), make_engine(policy, tiny.tokenizer())
    assert largest_gap(policy, prompts, engine.generate(prompts, SamplingParams(n=3, max_new_tokens=12))) < 1e-4


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (lambda: peft.PromptTuningConfig(num_virtual_tokens=3), "PROMPT_TUNING"),
        (lambda: peft.PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=16), "P_TUNING"),
        (lambda: peft.PrefixTuningConfig(num_virtual_tokens=3), "PREFIX_TUNING"),
    ],
    ids=["prompt", "p", "prefix"],
)
@pytest.mark.parametrize("kind", ["auto", "fast", "transformers"])
def test_prompt_learning_is_refused_by_name(tiny, config, name, kind):
    """peft puts the virtual tokens before every cached token again: the two models were some 2 nats a token apart."""
    policy = adapted(tiny, config(), "llama")
    with pytest.raises(EngineError, match=f"{name} puts virtual tokens.*use LoRA"):
        make_engine(policy, tiny.tokenizer(), kind=kind)


def test_an_adapter_that_comes_with_the_next_weights_is_looked_at_too(tiny):
    base = tiny.model("llama")
    for engine in (TransformersEngine(base, tiny.tokenizer()), FastEngine(base, tiny.tokenizer())):
        with pytest.raises(EngineError, match="PREFIX_TUNING"):
            engine.sync_weights(adapted(tiny, peft.PrefixTuningConfig(num_virtual_tokens=3), "llama"), version=1)
        assert engine.model is base
