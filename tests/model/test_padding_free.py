"""The packed forward is the padded one: same log-probabilities, entropies and gradients, and less work."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dunwu.core.records import MicroBatch
from dunwu.model import padding_free as packed_module
from dunwu.model.architectures import unsupported_reason
from dunwu.model.layout import layout_of
from dunwu.model.logprobs import forward_logps, packed_attention_context, padded_logps
from dunwu.model.padding_free import packed_attention
from dunwu.rollout.micro_batches import make_micro_batches

# Of numbers and of gradients. In float32 either gradient is up to 5e-6 away from the one in float64.
TOLERANCE = {torch.float64: (1e-12, 1e-12), torch.float32: (2e-6, 5e-6)}
# Prompts of unlike length, groups of unlike size, completions of one token, lengths of several buckets.
SHAPES = ((3, (1, 9, 30, 2)), (11, (5, 1)), (7, (40, 17, 3, 3)), (1, (1,)))

LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 10000.0,
}
MODELS = {
    "llama": ("llama", {}),
    "llama, one key head": ("llama", {"num_key_value_heads": 1}),
    "llama, as many key heads": ("llama", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, linear": ("llama", {"rope_parameters": LINEAR}),
    "llama, llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama, yarn": ("llama", {"rope_parameters": YARN}),
    "mistral": ("mistral", {}),
    "mistral, one key head": ("mistral", {"num_key_value_heads": 1, "sliding_window": 13}),
    "mistral, no window": ("mistral", {"sliding_window": None, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", {}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "qwen2, layers differ": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "num_hidden_layers": 3},
    ),
    "qwen3": ("qwen3", {}),
    "qwen3, wide heads": ("qwen3", {"head_dim": 24, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen3, layers differ": ("qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
}


def batches_of(tiny, tokens=100_000, shapes=SHAPES) -> list[MicroBatch]:
    """At a temperature of 0.9, so that a forward that ignores it is found out."""
    return make_micro_batches(tiny.groups(shapes), loss_aggregation="token_mean", tokens=tokens, temperature=0.9)


def one_batch(tiny, shapes=SHAPES) -> MicroBatch:
    (batch,) = batches_of(tiny, shapes=shapes)
    return batch


def answers(tiny, model, batches, way=forward_logps) -> tuple[list[Any], dict[str, Tensor]]:
    """What a forward says of each batch, and the gradients of a loss in which every token counts differently."""
    model.zero_grad()
    said = []
    with packed_attention_context(model) if way is forward_logps else torch.enable_grad():
        for batch in batches:
            logps, entropies = way(model, batch)
            said.append((logps.detach(), entropies))
            worth = batch.advantages_B.unsqueeze(1) * batch.sampler_logps_BC.exp() * batch.mask_BC
            (logps * worth).sum().backward()
    return said, tiny.gradients(model)


def relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


class Operations(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


# -- packed is padded ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("name", MODELS)
def test_the_padding_free_forward_equals_the_padded_one_for_every_known_architecture(tiny, name, dtype):
    """A window that is counted from the wrong end, a prompt that sees another's keys, heads paired with others'."""
    family, config = MODELS[name]
    model = tiny.model(family, **config)
    model = tiny.exact(model) if dtype == torch.float64 else model
    assert unsupported_reason(model) is None
    batch = one_batch(tiny)
    assert len(batch.prompts) == 4 and len(layout_of(batch).buckets) > 3
    [(logps, entropies)], gradients = answers(tiny, model, [batch])
    [(its_logps, its_entropies)], its_gradients = answers(tiny, model, [batch], padded_logps)
    assert logps.dtype == entropies.dtype == dtype
    of_numbers, of_gradients = TOLERANCE[dtype]
    assert relative(logps, its_logps) < of_numbers and relative(entropies, its_entropies) < of_numbers
    assert tiny.far(gradients, its_gradients) < of_gradients
    assert not entropies.requires_grad
    assert not logps[~(batch.mask_BC > 0)].any() and not entropies[~(batch.mask_BC > 0)].any()


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gpt2"])
def test_a_row_has_the_log_probabilities_of_a_plain_call_with_it_alone(tiny, family):
    """Packed and padded could be wrong together: a row alone, without mask, layout or padding, cannot."""
    model = tiny.exact(tiny.model(family))
    batch = one_batch(tiny)
    [(logps, entropies)], _ = answers(tiny, model, [batch])
    for row, length in enumerate(batch.lengths):
        prompt, said = batch.prompts[batch.prompt_index[row]], batch.completion_ids_BC[row, :length]
        ids = torch.cat([torch.tensor(prompt), said]).unsqueeze(0)
        with torch.no_grad():
            every = (model(ids).logits[0, len(prompt) - 1 : -1] / 0.9).log_softmax(dim=-1)
        expected = every.gather(1, said.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(logps[row, :length], expected, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(entropies[row, :length], -(every.exp() * every).sum(1), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_a_shared_prompt_gives_the_gradient_of_rows_with_their_own_prompts(tiny, name):
    """The prompt's activations get the sum of its completions' gradients, once."""
    family, config = MODELS[name]
    model = tiny.exact(tiny.model(family, **config))
    together, alone = batches_of(tiny), batches_of(tiny, tokens=1)
    assert (len(together), len(alone)) == (1, 11)
    said, gradients = answers(tiny, model, together)
    rows, its_gradients = answers(tiny, model, alone)
    assert tiny.far(gradients, its_gradients) < 1e-12
    for row, (logps, _) in enumerate(rows):
        torch.testing.assert_close(said[0][0][row, : logps.shape[1]], logps[0], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("shapes", [((1, (1,)),), ((5, (1, 1, 1)),), ((4, (6,)), (9, (1, 1)))])
def test_batches_without_any_completion_input_are_read_too(tiny, shapes):
    """A completion of one token is no input at all: its log-probability comes from the prompt's last token."""
    model, batch = tiny.exact(tiny.model()), one_batch(tiny, shapes)
    [(logps, _)], gradients = answers(tiny, model, [batch])
    [(its_logps, _)], its_gradients = answers(tiny, model, [batch], padded_logps)
    assert relative(logps, its_logps) < 1e-12 and tiny.far(gradients, its_gradients) < 1e-12


@pytest.mark.parametrize("name", ["llama, one key head", "mistral", "qwen2, layers differ", "qwen3"])
def test_plain_products_and_the_fused_kernel_give_the_same_attention(tiny, monkeypatch, name):
    """Small blocks are multiplied out, large ones go to torch's kernel: a run crosses over between its steps."""
    family, config = MODELS[name]
    model, batch = tiny.exact(tiny.model(family, **config)), one_batch(tiny)
    with Operations() as plain:
        [(logps, _)], gradients = answers(tiny, model, [batch])
    monkeypatch.setattr(packed_module, "_FEW_SCORES", 0)
    with Operations() as fused:
        [(its_logps, _)], its_gradients = answers(tiny, model, [batch])
    assert plain.seen["baddbmm"] and not fused.seen["baddbmm"]
    assert relative(logps, its_logps) < 1e-12 and tiny.far(gradients, its_gradients) < 1e-12


# -- what wraps a model --------------------------------------------------------------------------------------------


def adapted(tiny, family="qwen2", targets=("q_proj", "v_proj", "down_proj")):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False, task_type="CAUSAL_LM")
    return tiny.exact(get_peft_model(tiny.model(family), config))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_an_adapter_gets_the_same_gradient_and_the_weights_below_it_none(tiny, family):
    """The packed forward runs the wrapped modules themselves: an adapter that is passed by would learn nothing."""
    model, batch = adapted(tiny, family), one_batch(tiny)
    [(logps, _)], gradients = answers(tiny, model, [batch])
    [(its_logps, _)], its_gradients = answers(tiny, model, [batch], padded_logps)
    assert relative(logps, its_logps) < 1e-12 and tiny.far(gradients, its_gradients) < 1e-12
    assert len(gradients) == 2 * 3 * 2 and all("lora_" in name and g.any() for name, g in gradients.items())
    with model.disable_adapter(), torch.no_grad():
        bare, _ = forward_logps(model, batch)
    assert relative(bare, logps) > 1e-3


def test_an_adapter_on_the_head_is_part_of_the_head(tiny):
    """A head that is no plain Linear any more: its own forward is called, not its weight multiplied."""
    model, batch = adapted(tiny, targets=("lm_head", "q_proj")), one_batch(tiny)
    [(logps, entropies)], gradients = answers(tiny, model, [batch])
    assert gradients and all("lora_" in name for name in gradients)
    assert any("lm_head" in name and gradient.any() for name, gradient in gradients.items())
    plain = {}
    merged = adapted(tiny, targets=("lm_head", "q_proj"))

    def all_logits(model: Any, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        rows = []
        for row, length in enumerate(batch.lengths):
            prompt, said = batch.prompts[batch.prompt_index[row]], batch.completion_ids_BC[row, :length]
            logits = model(input_ids=torch.cat([torch.tensor(prompt), said]).unsqueeze(0)).logits
            every = (logits[0, len(prompt) - 1 : -1] / 0.9).log_softmax(dim=-1)
            rows.append(every.gather(1, said.unsqueeze(1)).squeeze(1))
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), entropies

    [(its_logps, _)], plain = answers(tiny, merged, [batch], all_logits)
    assert relative(logps, its_logps) < 1e-12 and tiny.far(gradients, plain) < 1e-12


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2, layers differ", "qwen3"])
def test_gradient_checkpointing_gives_the_same_gradient(tiny, name):
    """Layers run again in the backward pass, and must find the same attention and the same layout there."""
    family, config = MODELS[name]
    model, batch = tiny.exact(tiny.model(family, **config)).train(), one_batch(tiny)
    runs: list[int] = []
    model.model.layers[0].self_attn.register_forward_hook(lambda *_: runs.append(1))
    [(logps, _)], gradients = answers(tiny, model, [batch])
    assert len(runs) == 1
    # transformers renamed it after 5.17, and warns of the old name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    [(its_logps, _)], its_gradients = answers(tiny, model, [batch])
    assert len(runs) == 3, "forward, and once more in the backward pass"
    assert relative(logps, its_logps) < 1e-12 and tiny.far(gradients, its_gradients) < 1e-12


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own doings
@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_a_compiled_policy_is_the_same_policy_and_is_compiled_twice_at_most(tiny, family):
    """With a reference or several updates, an uncompiled pass leaves masks and indices behind, on whose keys
    torch.compile failed. And a head with a new forward at every call was compiled anew at every call, up to the limit
    beyond which nothing is compiled any more."""
    model = tiny.model(family)
    shapes = (SHAPES, ((5, (3, 4)), (8, (2, 20))), ((4, (1, 6, 50)),), ((9, (7,)), (2, (8, 8)), (30, (2, 33))))
    batches = [one_batch(tiny, each) for each in shapes]
    said, gradients = answers(tiny, model, batches)
    torch._dynamo.reset()  # what it has compiled for other models counts too
    compiled = torch.compile(model, backend="eager")
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        again, its_gradients = answers(tiny, compiled, batches)
    for (logps, entropies), (its_logps, its_entropies) in zip(said, again, strict=True):
        assert relative(its_logps, logps) < 2e-6 and relative(its_entropies, entropies) < 2e-6
    its_gradients = {name.removeprefix("_orig_mod."): gradient for name, gradient in its_gradients.items()}
    assert tiny.far(its_gradients, gradients) < 5e-6


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_models_own_attention_is_put_back(tiny, attention):
    """Also after an error: `generate` would otherwise ask our attention for a layout that nobody gave."""
    model = tiny.model(attn_implementation=attention)
    ids = torch.tensor([[5, 6, 7]])
    before = model(ids).logits
    with packed_attention(model):
        assert model.config._attn_implementation not in ("sdpa", "eager")
    assert model.config._attn_implementation == attention
    with pytest.raises(ZeroDivisionError), packed_attention_context(model):
        raise ZeroDivisionError
    assert model.config._attn_implementation == attention
    batch = one_batch(tiny)
    with pytest.raises(IndexError):
        forward_logps(model, replace(batch, prompts=((10**6,),) * 4, completion_ids_BC=batch.completion_ids_BC + 1))
    assert model.config._attn_implementation == attention and "forward" not in vars(model.lm_head)
    assert torch.equal(model(ids).logits, before)


def test_a_head_whose_forward_someone_wrapped_keeps_the_wrapping(tiny):
    """accelerate's hooks (a model spread over devices) live in a module's own `forward`."""
    model = tiny.model()
    usual = model.lm_head.forward
    model.lm_head.forward = lambda hidden: usual(hidden)
    wrapped = model.lm_head.forward
    forward_logps(model, one_batch(tiny))
    assert model.lm_head.forward is wrapped


# -- other architectures -------------------------------------------------------------------------------------------


def scaled(tiny, kind: str, pad: int | None) -> Any:
    """Small models whose logits are not what their head gives."""
    sizes = {"vocab_size": tiny.vocabulary, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    special = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": pad, "initializer_range": 0.3}
    torch.manual_seed(0)
    if kind == "granite":
        config = transformers.GraniteConfig(**sizes, **special, logits_scaling=3.0, tie_word_embeddings=False)
        return transformers.GraniteForCausalLM(config)
    if kind == "cohere":
        return transformers.CohereForCausalLM(transformers.CohereConfig(**sizes, **special, logit_scale=0.25))
    config = transformers.Gemma2Config(**sizes, **special, head_dim=8, final_logit_softcapping=2.0, sliding_window=4)
    return transformers.Gemma2ForCausalLM(config)


@pytest.mark.parametrize(
    "pad",
    [None, 0],
    ids=["no pad token", "an embedding of zero"],
)
@pytest.mark.parametrize("kind", ["granite", "cohere", "gemma2"])
def test_logits_that_are_scaled_or_capped_after_the_head_are_read_as_the_model_gives_them(tiny, kind, pad):
    """The head's own output would be another distribution than the one that is sampled from.

    A padding token's embedding is zero, hence are its logits, and no scale shows in them.
    """
    model, batch = scaled(tiny, kind, pad).eval(), one_batch(tiny)
    assert unsupported_reason(model) is not None
    [(logps, entropies)], gradients = answers(tiny, model, [batch])
    assert all(g.isfinite().all() for g in gradients.values()) and any(g.any() for g in gradients.values())
    for row, length in enumerate(batch.lengths):
        prompt, said = batch.prompts[batch.prompt_index[row]], batch.completion_ids_BC[row, :length]
        with torch.no_grad():
            logits = model(torch.cat([torch.tensor(prompt), said]).unsqueeze(0)).logits[0, len(prompt) - 1 : -1]
        every = (logits / 0.9).log_softmax(dim=-1)
        torch.testing.assert_close(logps[row, :length], every.gather(1, said[:, None])[:, 0], atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(entropies[row, :length], -(every.exp() * every).sum(1), atol=2e-5, rtol=1e-5)


def test_rotary_positions_that_change_with_the_longest_row_are_padded(tiny):
    """One angle for all rows of a pack would be the angle of none of them."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = tiny.model("llama", rope_parameters=rope, max_position_embeddings=64)
    assert "dynamic" in (unsupported_reason(model) or "")
    [(logps, _)], _ = answers(tiny, model, [one_batch(tiny)])
    [(its_logps, _)], _ = answers(tiny, model, [one_batch(tiny)], padded_logps)
    assert torch.equal(logps, its_logps)


# -- counted work --------------------------------------------------------------------------------------------------


def test_a_prompt_is_computed_once_for_its_group_and_nothing_is_padded(tiny):
    """16 completions of a 200-token prompt: 200 + Σ(c − 1) tokens, where padded rows are 16 · (200 + 60)."""
    lengths = (4, 60, *range(5, 19))
    batch = one_batch(tiny, ((200, lengths),))
    assert len(layout_of(batch).ids_N) == 200 + sum(lengths) - 16
    model = tiny.model(max_position_embeddings=512)
    flops = {}
    for way in (forward_logps, padded_logps):
        with FlopCounterMode(display=False) as counter:
            answers(tiny, model, [batch], way)
        flops[way] = counter.get_total_flops()
    assert 0 < flops[forward_logps] < 0.5 * flops[padded_logps]


def test_groups_without_advantage_are_not_computed_and_no_micro_batch_is_computed_twice(tiny, make_trainer):
    """Half of the groups get one reward: half of the tokens. On policy, one forward does all."""

    def reward(prompts, completions, **_):
        return [1.0 if "dead" in prompt else float(i) for i, prompt in enumerate(prompts)]

    for passes in (1, 2):
        model = tiny.model()
        rows = tuple({"prompt": f"{kind} {n}"} for n in range(3) for kind in ("dead", "live"))
        # 6 tokens of a prompt and 4 · 7 of its completions: a group a micro-batch.
        trainer = make_trainer(model, reward, rows, tokens_per_micro_batch=34, num_iterations=passes)
        calls: list[int] = []
        model.model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        samples, denominator = trainer.get_batch_samples(iter([trainer.prompts]), 1, torch.device("cpu"))
        batches = trainer.loop.pending.batches
        tokens = [6 + sum(len(r.completion.ids) - 1 for r in group.rollouts) for group in trainer.loop.pending.groups]
        computed = [len(layout_of(batch).ids_N) for batch in batches]
        assert computed == tokens[1::2] and 0.4 < sum(computed) / sum(tokens) < 0.6
        assert len(batches) == 3 and not calls, "nothing but the sampling has run"
        trainer.training_step(model, samples[0], denominator)
        assert len(calls) == len(batches)
        assert all((batch.old_logps_BC is not None) == (passes == 2) for batch in trainer.loop.pending.batches)
