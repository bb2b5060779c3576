"""Properties that must hold whatever the numbers are: numerics.md, 9 to 21, on small random models."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from dunwu.core import algorithm
from dunwu.core.algorithm import AlgorithmConfig
from dunwu.core.records import Completion, SamplingParams, StepResult
from dunwu.engines import TransformersEngine
from dunwu.model.layout import layout_of
from dunwu.model.logprobs import forward_logps, padded
from dunwu.model.reference import ReferenceModel
from dunwu.rewards import RewardRunner
from dunwu.rollout.collect import add_advantages, collect
from dunwu.rollout.micro_batches import make_micro_batches, trained_token_counts
from dunwu.rollout.prompts import PromptOrder

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gpt2")
PRESETS = ("grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo", "reinforce")


class Watch:
    """Keeps every step."""

    def __init__(self) -> None:
        self.steps: list[StepResult] = []

    def on_step(self, step: StepResult) -> None:
        self.steps.append(step)

    @property
    def keys(self) -> list[list[int]]:
        return [[group.prompt.row_index for group in step.groups] for step in self.steps]


def two_ended(tiny, family="qwen2", **config):
    """A model with twenty end tokens beside the tokenizer's: completions of many lengths."""
    model = tiny.model(family, **config)
    model.generation_config.eos_token_id = list(range(5, 25))
    return model


def said(*ids: int, finish_reason="stop") -> Completion:
    return Completion(ids=ids, sampler_logps=tuple(-1.0 for _ in ids), finish_reason=finish_reason, text="x")


# -- 9: how a step is cut never changes its gradient ---------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)], ids=["f64", "f32"])
def test_any_cut_of_a_step_gives_the_same_gradient(tiny, make_trainer, name, dtype, tolerance):
    """A mean of micro-batch means weighs tokens by the company they are in: the best-known bug of accumulation."""
    gradients, numbers = [], set()
    for budget in (100_000, 110, 60, 30, 1):
        model = two_ended(tiny) if dtype == torch.float32 else tiny.exact(two_ended(tiny))
        trainer = make_trainer(model, loss_type=name, tokens_per_micro_batch=budget, beta=0.1, num_generations=6)
        gradients.append(tiny.backward(trainer, trainer.prompts))
        numbers.add(len(trainer.loop.pending.batches))
    assert len(numbers) == 5 and min(numbers) == 1, "five different cuts"
    for other in gradients[1:]:
        assert tiny.far(gradients[0], other) < tolerance


@pytest.mark.parametrize("name", PRESETS)
def test_the_order_of_prompts_does_not_change_the_gradient(tiny, make_trainer, name):
    gradients = []
    for order in (slice(None), slice(None, None, -1)):
        trainer = make_trainer(tiny.exact(two_ended(tiny)), loss_type=name, tokens_per_micro_batch=90)
        gradients.append(tiny.backward(trainer, trainer.prompts[order]))
    assert tiny.far(*gradients) < 1e-12


def test_any_cut_gives_the_same_metrics(tiny, make_trainer):
    """Means over micro-batches of means over tokens would depend on the cut."""
    found = []
    for budget in (100_000, 40):
        trainer = make_trainer(two_ended(tiny), tokens_per_micro_batch=budget, beta=0.1)
        tiny.backward(trainer, trainer.prompts)
        found.append({k: v for k, v in trainer.metrics_buffer.latest().items() if "time" not in k})
    assert found[0] == pytest.approx(found[1], rel=1e-5, abs=1e-6)
    assert found[0]["entropy"] > 0.5


@pytest.mark.parametrize("name", PRESETS)
def test_the_loop_of_transformers_hands_the_optimizer_the_gradient_of_one_whole_batch(tiny, make_trainer, name):
    """Versions of transformers differ in what they divide a loss by: the optimizer must see the same on all."""
    seen = {}

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, **_):
            seen["gradients"], seen["pending"] = tiny.gradients(model), trainer.loop.pending

    trainer = make_trainer(
        tiny.exact(two_ended(tiny)),
        loss_type=name,
        beta=0.1,
        max_steps=1,
        max_grad_norm=0.0,
        tokens_per_micro_batch=24,
        extras={"callbacks": [Look()]},
    )
    trainer.train()
    pending, model = seen["pending"], tiny.exact(two_ended(tiny))
    assert len(pending.batches) > 2
    aggregation = trainer.algorithm.loss_aggregation
    (batch,) = make_micro_batches(pending.groups, loss_aggregation=aggregation, tokens=100_000)
    with torch.no_grad():
        reference, _ = forward_logps(model, batch)
    logps, _ = forward_logps(model, batch)
    result = algorithm.token_loss(
        trainer.algorithm, logps, batch.advantages_B, batch.mask_BC, reference_logps_BC=reference
    )
    lengths = [len(r.completion.ids) for g in pending.groups for r in g.rollouts]
    denominator = {"seq_mean": 8, "token_mean": sum(lengths), "seq_sum_norm": 8 * 8}[aggregation]
    ((result.loss_BC * batch.weights_BC).sum() / denominator).backward()
    assert tiny.far(seen["gradients"], tiny.gradients(model)) < 1e-12


# -- 11: a reward that is a function of the prompt teaches nothing -------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_reward_of_the_prompt_alone_gives_advantages_of_exactly_zero(tiny, size, scale):
    """Catches wrong grouping: rewards of neighbouring prompts compared with each other."""
    values = {"a": 0.1 + 0.2, "bb": 1 / 3, "ccc": -7.7, "dddd": 1e6 + 0.1, "eeeee": 0.0}
    scorer = RewardRunner(
        [lambda prompts, **_: [values[p] for p in prompts], lambda prompts, **_: [len(p) / 10 for p in prompts]]
    )
    engine = TransformersEngine(two_ended(tiny), tiny.tokenizer())
    groups = collect(tiny.prompts(*values), engine, scorer, SamplingParams(n=size, max_new_tokens=6))
    found = add_advantages(groups, AlgorithmConfig(scale_rewards=scale))
    assert [r.advantage for g in found for r in g.rollouts] == [0.0] * (5 * size)
    assert len({r.reward for g in found for r in g.rollouts}) == 5


def test_such_a_reward_leaves_the_gradient_at_exactly_zero(tiny, make_trainer):
    trainer = make_trainer(two_ended(tiny), lambda prompts, **_: [len(p) * 0.1 for p in prompts])
    assert all(not gradient.any() for gradient in tiny.backward(trainer).values())


def test_rewards_get_the_columns_of_their_own_row(tiny):
    """Columns repeated in another order than completions would score an answer against another question."""
    seen = []

    def note(prompts, completions, completion_ids, answer, **_):
        seen.extend(zip(prompts, answer, completions, completion_ids, strict=True))
        return [0.0] * len(prompts)

    rows = [{"prompt": text, "answer": text * 2} for text in ("a", "bb", "ccc")]
    from dunwu.rollout.prompts import build_prompts

    prompts, _ = build_prompts(rows, tiny.tokenizer())
    engine = TransformersEngine(two_ended(tiny), tiny.tokenizer())
    groups = collect(prompts, engine, RewardRunner([note]), SamplingParams(n=3, max_new_tokens=5))
    assert [answer for _, answer, _, _ in seen] == [text * 2 for text in ("a", "bb", "ccc") for _ in range(3)]
    assert [(c, tuple(i)) for _, _, c, i in seen] == [
        (r.completion.text, r.completion.ids) for g in groups for r in g.rollouts
    ]


# -- 12: tokens after the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_what_stands_in_padding_changes_nothing_bit_for_bit(tiny, family):
    """Padding after the end token: any id may stand there, the end token's own included."""
    model = tiny.model(family)
    long, short = tiny.prompts("a longer prompt", "abc")
    groups = [
        tiny.group(long, [said(30, 31, 32, 33, 34, 1), said(30, 1)], [1.0, -1.0]),
        tiny.group(short, [said(40, 41, 1), said(42, 43, 44, 45, finish_reason="length")], [0.5, -0.5]),
    ]
    (batch,) = make_micro_batches(groups, loss_aggregation="token_mean", tokens=10_000)
    found = []
    for fill in (0, 1, 17):
        real = torch.arange(batch.mask_BC.shape[1]) < torch.tensor(batch.lengths).unsqueeze(1)
        ids = torch.where(real, batch.completion_ids_BC, fill)
        model.zero_grad()
        logps, _ = forward_logps(model, replace(batch, completion_ids_BC=ids))
        loss = (logps * batch.weights_BC * batch.advantages_B.unsqueeze(1)).sum()
        loss.backward()
        found.append((float(loss.detach()), tiny.gradients(model)))
    assert found[0][0] != 0
    for loss, gradients in found[1:]:
        assert loss == found[0][0]
        assert all(torch.equal(gradients[name], found[0][1][name]) for name in gradients)


def test_the_end_token_has_a_gradient_and_nothing_after_it_has(tiny):
    """Masks made by comparing with a pad id that equals the end token leave it out: models then never stop."""
    tokenizer = tiny.tokenizer(pad="<eos>")
    groups = [tiny.group(tiny.prompts("abc", tokenizer=tokenizer)[0], [said(30, 1), said(30, 31, 4)], [1.0, -1.0])]
    (batch,) = make_micro_batches(groups, loss_aggregation="seq_mean", tokens=10_000)
    rows = dict(zip(batch.rollout_index, batch.mask_BC.tolist(), strict=True))
    assert rows == {0: [1.0, 1.0, 0.0], 1: [1.0, 1.0, 1.0]}
    logps, _ = forward_logps(tiny.model(), batch)
    logps.retain_grad()
    (logps * batch.weights_BC).sum().backward()
    slopes = dict(zip(batch.rollout_index, logps.grad.tolist(), strict=True))
    assert slopes[0] == pytest.approx([1 / 2, 1 / 2, 0.0])
    assert slopes[1] == pytest.approx([1 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize("shared", [True, False])
def test_batches_contain_every_row_once_with_its_own_prompt_completion_and_advantage(tiny, shared):
    """Rows may be sorted by length before they are cut into batches: everything must move together."""
    engine = TransformersEngine(two_ended(tiny), tiny.tokenizer())
    asked = engine.generate(tiny.prompts("a", "hello there", "abc"), SamplingParams(n=5, max_new_tokens=9))
    prompts = tiny.prompts("a", "hello there", "abc")
    groups = [
        tiny.group(p, c, [10.0 * i + j + 1 for j in range(5)])
        for i, (p, c) in enumerate(zip(prompts, asked, strict=True))
    ]
    flat = [(g.prompt, r) for g in groups for r in g.rollouts]
    seen = []
    for batch in make_micro_batches(groups, loss_aggregation="token_mean", tokens=60, shared_prompts=shared):
        ids, attention, positions = padded(batch)
        for row, index in enumerate(batch.rollout_index):
            prompt, rollout = flat[index]
            assert batch.prompts[batch.prompt_index[row]] == prompt.ids
            assert batch.lengths[row] == len(rollout.completion.ids)
            real = attention[row].bool()
            assert ids[row][real].tolist() == [*prompt.ids, *rollout.completion.ids]
            assert positions[row][real].tolist() == list(range(int(real.sum())))
            counted = batch.mask_BC[row].bool()
            assert batch.completion_ids_BC[row][counted].tolist() == list(rollout.completion.ids)
            assert batch.sampler_logps_BC[row][counted].tolist() == pytest.approx(rollout.completion.sampler_logps)
            assert float(batch.advantages_B[row]) == rollout.advantage
            seen.append(index)
    assert sorted(seen) == list(range(15))


@pytest.mark.parametrize("shared", [True, False])
def test_a_forward_pass_computes_no_more_tokens_than_the_budget(tiny, shared):
    engine = TransformersEngine(two_ended(tiny), tiny.tokenizer())
    prompts = tiny.prompts("a", "hello there", "abc")
    asked = engine.generate(prompts, SamplingParams(n=8, max_new_tokens=9))
    groups = [tiny.group(p, c, [1.0] * 8) for p, c in zip(prompts, asked, strict=True)]
    batches = make_micro_batches(groups, loss_aggregation="token_mean", tokens=60, shared_prompts=shared)
    sizes = [len(layout_of(batch).ids_N) if shared else padded(batch)[0].numel() for batch in batches]
    assert max(sizes) <= 60 and len(sizes) > 1
    alone = make_micro_batches(groups, loss_aggregation="token_mean", tokens=1, shared_prompts=shared)
    assert [len(batch.lengths) for batch in alone] == [1] * 24, "a row longer than the budget stands alone"


def test_rows_of_like_length_share_a_padded_batch(tiny):
    """In sampling order each batch would be padded to its longest row: twice the computation here."""
    short, long = said(30, 1), said(*range(30, 50))
    groups = [tiny.group(tiny.prompts("abc")[0], [short, long, short, long], [1.0, -1.0, 1.0, -1.0])]
    batches = make_micro_batches(groups, loss_aggregation="token_mean", tokens=2 * 23, shared_prompts=False)
    assert [(batch.rollout_index, padded(batch)[0].shape[1]) for batch in batches] == [((0, 2), 5), ((1, 3), 23)]


# -- 13: a row alone is the row in a batch -------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_alone_is_the_same_row_in_a_batch(tiny, family):
    """Positions counted over padding, or a mask that lets padding in, show here: on learned positions first."""
    model = tiny.model(family).eval()
    prompts = tiny.prompts("a", "a much longer prompt", "abc")
    asked = TransformersEngine(model, tiny.tokenizer()).generate(prompts, SamplingParams(n=3, max_new_tokens=9))
    groups = [tiny.group(p, c, [1.0] * 3) for p, c in zip(prompts, asked, strict=True)]
    together, alone = (
        {
            index: logps[mask.bool()]
            for batch in make_micro_batches(groups, loss_aggregation="token_mean", tokens=budget)
            for index, logps, mask in zip(
                batch.rollout_index, forward_logps(model, batch)[0], batch.mask_BC, strict=True
            )
        }
        for budget in (10_000, 1)
    )
    for index, logps in alone.items():
        torch.testing.assert_close(logps, together[index], atol=1e-4, rtol=0)
    flat = [(g.prompt, r.completion) for g in groups for r in g.rollouts]
    for index, (prompt, completion) in enumerate(flat):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt.ids, *completion.ids]])).logits[0]
        plain = logits.log_softmax(-1)[len(prompt.ids) - 1 : -1].gather(1, torch.tensor(completion.ids).unsqueeze(1))
        torch.testing.assert_close(together[index], plain.squeeze(1), atol=1e-4, rtol=0)


# -- 14: the ratio -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_ratio_is_one_at_the_first_update_and_not_at_the_second(tiny, make_trainer, dropout):
    """With dropout left on, a second forward for the old log-probabilities would start from a wrong ratio."""
    model = tiny.model("gpt2", resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout)
    trainer = make_trainer(
        model, max_steps=4, num_iterations=2, disable_dropout=False, learning_rate=1e-2, tokens_per_micro_batch=60
    )
    trainer.train()
    ratios = [log["importance_ratio/mean"] for log in trainer.state.log_history if "importance_ratio/mean" in log]
    assert ratios[0::2] == pytest.approx([1.0, 1.0], abs=1e-6)
    assert all(abs(ratio - 1) > 1e-4 for ratio in ratios[1::2])


def test_dropout_is_off_in_training_by_default(tiny, make_trainer):
    """The sampler has none: with it on, the policy that is trained is not the one that spoke."""
    model = two_ended(tiny, "gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    trainer = make_trainer(model, max_steps=1)
    trainer.train()
    assert trainer.state.log_history[0]["sampling/sampling_logp_difference/mean"] < 1e-5
    llama = make_trainer(two_ended(tiny, "llama", attention_dropout=0.5), max_steps=1)
    llama.train()
    assert llama.state.log_history[0]["sampling/sampling_logp_difference/mean"] < 1e-5


def test_the_second_update_compares_with_the_policy_before_the_first(tiny, make_trainer):
    """Old log-probabilities taken at every pass would make the ratio 1 for ever, and the clip dead."""
    trainer = make_trainer(two_ended(tiny), num_iterations=2, max_steps=2, learning_rate=1e-2, max_grad_norm=1e9)
    before = trainer.model.__class__(trainer.model.config)
    before.load_state_dict(tiny.weights(trainer.model))
    seen = {}

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            seen[state.global_step] = list(trainer.loop.pending.batches)

    trainer.add_callback(Look())
    trainer.train()
    for batch in seen[2]:
        expected, _ = forward_logps(before.eval(), batch)
        assert batch.old_logps_BC is not None
        torch.testing.assert_close(
            batch.old_logps_BC * batch.mask_BC, expected.detach() * batch.mask_BC, atol=1e-5, rtol=0
        )


# -- 15, 16: the engine is the trainer -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.4])
def test_the_engines_log_probabilities_are_those_of_a_fresh_forward(tiny, family, temperature):
    """Cache, positions, window and temperature in one: a sampler that differs makes every update off-policy."""
    model = two_ended(tiny, family).eval()
    prompts = tiny.prompts("a", "a much longer prompt", "abc")
    asked = TransformersEngine(model, tiny.tokenizer()).generate(
        prompts, SamplingParams(n=8, max_new_tokens=20, temperature=temperature)
    )
    groups = [tiny.group(p, c, [1.0] * 8) for p, c in zip(prompts, asked, strict=True)]
    assert len({len(c.ids) for group in asked for c in group}) > 5
    (batch,) = make_micro_batches(groups, loss_aggregation="token_mean", tokens=100_000, temperature=temperature)
    logps, _ = forward_logps(model, batch)
    gap = ((logps - batch.sampler_logps_BC) * batch.mask_BC).abs().max()
    assert gap < 1e-4
    other, _ = forward_logps(model, replace(batch, temperature=temperature * 1.2))
    assert ((other - batch.sampler_logps_BC) * batch.mask_BC).abs().max() > 1e-2


def test_the_trainer_uses_the_samplers_temperature(tiny, make_trainer):
    trainer = make_trainer(two_ended(tiny), temperature=0.6, max_steps=1)
    trainer.train()
    assert trainer.state.log_history[0]["sampling/sampling_logp_difference/mean"] < 1e-5


def make_certain(model: Any, token: int) -> None:
    """Let a GPT-2 say one token whatever it is asked."""
    with torch.no_grad():
        row = model.transformer.wte.weight[token]
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(row * 300 / row.square().sum())


def test_the_next_rollouts_come_from_the_new_weights(tiny, make_trainer):
    """The canary: after a step one token is made certain, and it must be all that is said from then on."""
    watch = Watch()
    canary = tiny.tokenizer().convert_tokens_to_ids("z")

    class Certain(TrainerCallback):
        def on_step_end(self, args, state, control, model, **_):
            if state.global_step == 1:
                make_certain(model, canary)

    trainer = make_trainer(tiny.model("gpt2"), extras={"observers": [watch], "callbacks": [Certain()]}, max_steps=2)
    trainer.train()
    first, second = ({i for g in s.groups for r in g.rollouts for i in r.completion.ids} for s in watch.steps)
    assert len(first) > 3
    assert second == {canary}


class CopyingEngine:
    """An engine with weights of its own, as one in another process has: what is not loaded is stale."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.inner = tokenizer, None

    def sync_weights(self, policy: Any, *, version: int) -> None:
        import copy

        self.inner = TransformersEngine(copy.deepcopy(policy), self.tokenizer)

    def session(self) -> Any:
        assert self.inner is not None
        return self.inner.session()

    def generate(self, prompts: Any, sampling: SamplingParams) -> Any:
        assert self.inner is not None, "asked before any weights were loaded"
        return self.inner.generate(prompts, sampling)


def test_an_engine_with_its_own_weights_gets_the_new_ones_before_rollouts_and_evaluation(tiny, make_trainer):
    """An evaluation at the end of a step would otherwise score the model of the step before."""
    canary = tiny.tokenizer().convert_tokens_to_ids("e")

    class Certain(TrainerCallback):
        def on_step_end(self, args, state, control, model, **_):
            make_certain(model, canary)

    engine = CopyingEngine(tiny.tokenizer())
    trainer = make_trainer(tiny.model("gpt2"), max_steps=1, extras={"engine": engine, "callbacks": [Certain()]})
    trainer.train()
    assert trainer.evaluate([{"prompt": "abc"}])["eval_reward"] == 1.0


def test_an_engine_is_loaded_before_an_evaluation_without_training(tiny, make_trainer):
    trainer = make_trainer(extras={"engine": CopyingEngine(tiny.tokenizer())})
    assert 0 <= trainer.evaluate([{"prompt": "abc"}])["eval_reward"] <= 1


def with_adapter(tiny, seed=1):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model = get_peft_model(
        two_ended(tiny), LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=1.0)
    return model


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft 0.21 on transformers 5.23
def test_with_an_adapter_the_engine_samples_with_it_and_the_reference_is_the_adapter_as_it_was(tiny):
    """The reference is the policy as it was given, whatever the adapter has learned since."""
    model = with_adapter(tiny).train()
    prompts = tiny.prompts("a", "hello", "abc")
    asked = TransformersEngine(model, tiny.tokenizer()).generate(prompts, SamplingParams(n=4, max_new_tokens=9))
    groups = [tiny.group(p, c, [1.0] * 4) for p, c in zip(prompts, asked, strict=True)]
    (batch,) = make_micro_batches(groups, loss_aggregation="token_mean", tokens=10_000)
    mask = batch.mask_BC
    given, _ = forward_logps(model, batch)
    torch.testing.assert_close(given * mask, batch.sampler_logps_BC, atol=1e-4, rtol=0)
    reference = ReferenceModel(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    moved, _ = forward_logps(model, batch)
    assert torch.equal(reference.logps(batch), given)
    assert ((moved - given) * mask).abs().max() > 0.1
    assert model.training, "the training mode is put back"
    again, _ = forward_logps(model, batch)
    assert torch.equal(again, moved), "the policy's own weights are back"


# -- 17: seeds -----------------------------------------------------------------------------------------------------


def ids_of(asked: Any) -> list[list[tuple[int, ...]]]:
    return [[c.ids for c in group] for group in asked]


def test_a_rerun_repeats_and_completions_of_a_group_differ(tiny):
    engine = TransformersEngine(two_ended(tiny), tiny.tokenizer())
    prompts = tiny.prompts("a", "hello", "abc", "abc")
    options = {"n": 8, "max_new_tokens": 12}
    first = ids_of(engine.generate(prompts, SamplingParams(seed=3, step=2, **options)))
    torch.rand(17)  # the global random state is nobody's business
    assert ids_of(engine.generate(prompts, SamplingParams(seed=3, step=2, **options))) == first
    assert all(len(set(group)) > 4 for group in first)
    assert first[2] != first[3], "the same text in two rows is asked twice, not once"
    assert ids_of(engine.generate(prompts, SamplingParams(seed=4, step=2, **options))) != first
    assert ids_of(engine.generate(prompts, SamplingParams(seed=3, step=3, **options))) != first


def test_how_prompts_are_batched_does_not_change_the_completions(tiny):
    """One random state for a batch gives other completions on two GPUs, with more memory, or after a resume."""
    prompts = tiny.prompts("a", "hello there", "abc", "what is 2+2", "x")
    sampling = SamplingParams(n=6, max_new_tokens=12, seed=1)
    model = two_ended(tiny)
    first = ids_of(TransformersEngine(model, tiny.tokenizer()).generate(prompts, sampling))
    for rows in (1, 6, 13):
        assert ids_of(TransformersEngine(model, tiny.tokenizer(), max_rows=rows).generate(prompts, sampling)) == first
    engine = TransformersEngine(model, tiny.tokenizer())
    assert ids_of(engine.generate(prompts[::-1], sampling))[::-1] == first
    assert [ids_of(engine.generate([prompt], sampling))[0] for prompt in prompts] == first
    fewer = ids_of(engine.generate(prompts, replace(sampling, n=2)))
    assert fewer == [group[:2] for group in first]


def test_two_runs_of_one_seed_sample_the_same_and_another_seed_samples_differently(tiny, make_trainer):
    spoken = []
    for seed in (5, 5, 6):
        watch = Watch()
        make_trainer(two_ended(tiny), seed=seed, extras={"observers": [watch]}).train()
        spoken.append([[r.completion.ids for g in s.groups for r in g.rollouts] for s in watch.steps])
    assert spoken[0] == spoken[1]
    assert spoken[0] != spoken[2]


# -- 18: epochs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "per_step"), [(6, 2), (7, 2), (7, 3), (5, 4), (3, 8), (1, 1), (11, 5)])
@pytest.mark.parametrize("repeats", [1, 3])
def test_each_epoch_takes_every_prompt_exactly_once(size, per_step, repeats):
    """A last batch that is dropped leaves the same few rows out; one that is filled up takes rows twice."""
    epoch = 0
    order = PromptOrder(size=size, per_step=per_step, repeats=repeats, seed=1, epoch=lambda: epoch)
    passes = []
    for epoch in range(3):  # noqa: B007 - read by the lambda above
        steps = list(order)
        assert len(steps) == len(order)
        for start in range(0, len(steps), repeats):
            assert len({tuple(step) for step in steps[start : start + repeats]}) == 1, "μ passes, the same prompts"
        once = steps[::repeats]
        assert sorted(key for step in once for key in step) == list(range(size))
        assert all(min(size, per_step) <= len(step) < 2 * per_step for step in once)
        passes.append(steps)
    if size > 4:
        assert passes[0] != passes[1] != passes[2] != passes[0]


def test_neighbouring_seeds_share_no_permutation():
    """seed + epoch as the seed: epoch 1 of run 7 would be epoch 0 of run 8."""
    orders = [
        [key for step in PromptOrder(size=12, per_step=4, repeats=1, seed=s, epoch=lambda e=e: e) for key in step]
        for s in range(4)
        for e in range(4)
    ]
    assert len({tuple(order) for order in orders}) == 16


def test_without_shuffling_prompts_come_in_their_own_order():
    assert list(PromptOrder(size=5, per_step=2, repeats=1, seed=None)) == [[0, 1], [2, 3, 4]]


@pytest.mark.parametrize("passes", [1, 2])
def test_training_takes_every_prompt_once_an_epoch_in_a_new_order(tiny, make_trainer, passes):
    """Through the loop itself: the dataloader, its epochs, and the μ passes."""
    watch = Watch()
    rows = [{"prompt": "abcdefg"[i]} for i in range(7)]
    trainer = make_trainer(
        rows=rows, max_steps=-1, num_train_epochs=3, num_iterations=passes, extras={"observers": [watch]}
    )
    trainer.train()
    assert len(watch.keys) == 3 * 3 * passes
    epochs = [watch.keys[i * 3 * passes : (i + 1) * 3 * passes] for i in range(3)]
    for steps in epochs:
        assert Counter(key for step in steps for key in step) == dict.fromkeys(range(7), passes)
        assert all(steps[i] == steps[i + passes - 1] for i in range(0, len(steps), passes))
    assert epochs[0] != epochs[1] != epochs[2]


# -- 20: masked truncation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", ["seq_mean", "token_mean", "seq_sum_norm"])
def test_a_masked_truncated_completion_is_as_if_it_had_not_been_sampled(tiny, aggregation):
    """Counted in the denominator, or weighted 0/0, it would change what the others teach."""
    model = tiny.model().double()
    prompt = tiny.prompts("abc")[0]
    whole, cut = said(30, 31, 1), said(32, 33, 34, 35, finish_reason="length")
    found = []
    for group in (tiny.group(prompt, [whole, cut], [0.7, -0.7]), tiny.group(prompt, [whole], [0.7])):
        lengths = trained_token_counts([group], mask_truncated=True)
        model.zero_grad()
        for batch in make_micro_batches([group], loss_aggregation=aggregation, tokens=1000, mask_truncated=True):
            logps, _ = forward_logps(model, batch)
            loss = algorithm.token_loss(AlgorithmConfig(), logps, batch.advantages_B, batch.mask_BC).loss_BC
            ((loss * batch.weights_BC).sum() / algorithm.loss_denominator(lengths, aggregation, 8)).backward()
        found.append(tiny.gradients(model))
    assert tiny.far(*found) == 0.0
    assert any(gradient.any() for gradient in found[0].values())


@pytest.mark.parametrize("name", PRESETS)
def test_a_step_in_which_all_is_masked_has_no_loss_and_no_gradient_and_no_nan(tiny, make_trainer, name):
    model = tiny.model()
    model.generation_config.eos_token_id = None
    trainer = make_trainer(
        model, max_completion_length=2, mask_truncated_completions=True, loss_type=name, beta=0.1, max_steps=1
    )
    before = tiny.weights(model)
    gradients = tiny.backward(trainer)
    assert {r.completion.finish_reason for g in trainer.loop.pending.groups for r in g.rollouts} == {"length"}
    assert all(not gradient.any() and gradient.isfinite().all() for gradient in gradients.values())
    trainer.loop.pending = None
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["loss"] == 0.0
    assert all(torch.equal(value, before[key]) for key, value in trainer.model.state_dict().items())


def test_masked_completions_do_not_reach_the_gradient_through_the_trainer(tiny, make_trainer):
    """The option itself, end to end: the batches hold none of the rollouts that were cut."""
    trainer = make_trainer(two_ended(tiny), mask_truncated_completions=True, max_completion_length=3)
    tiny.backward(trainer)
    flat = [r.completion for g in trainer.loop.pending.groups for r in g.rollouts]
    cut = {i for i, c in enumerate(flat) if c.finish_reason == "length"}
    used = {i for batch in trainer.loop.pending.batches for i in batch.rollout_index}
    assert cut and used and not cut & used
    assert trainer.loop.pending.denominator == sum(len(c.ids) for c in flat if c.finish_reason == "stop")


# -- 21: rollouts with advantage 0 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_skipping_rollouts_without_advantage_leaves_the_gradient_as_it_was(tiny, make_trainer, name):
    """The denominator must still count them: otherwise dead groups make the others' steps larger."""

    def reward(prompts, completions, **_):
        return [1.0 if "o" in p else float(len(c) % 3) for p, c in zip(prompts, completions, strict=True)]

    trainer = make_trainer(tiny.exact(two_ended(tiny)), reward, loss_type=name)
    skipped = tiny.backward(trainer)
    pending = trainer.loop.pending
    every = make_micro_batches(pending.groups, loss_aggregation=trainer.algorithm.loss_aggregation, tokens=4096)
    rows, all_rows = (sum(len(b.lengths) for b in batches) for batches in (pending.batches, every))
    assert rows < all_rows == 24
    trainer.model.zero_grad()
    trainer.training_step(trainer.model, every, pending.denominator)
    assert tiny.far(skipped, tiny.gradients(trainer.model)) < 1e-12


def test_rollouts_without_advantage_are_kept_where_a_kl_in_the_loss_needs_them(tiny, make_trainer):
    trainer = make_trainer(two_ended(tiny), lambda completions, **_: [1.0] * len(completions), beta=0.1)
    tiny.backward(trainer)
    assert sum(len(batch.lengths) for batch in trainer.loop.pending.batches) == 24
