"""Batches are cut without changing a step, and memory sets how: found, remembered, and halved when it runs out."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dunwu.core.records import MicroBatch
from dunwu.errors import OutOfMemoryError
from dunwu.model.layout import layout_of
from dunwu.model.logprobs import forward_logps, packed_attention_context
from dunwu.rollout import token_budget as budget_module
from dunwu.rollout.micro_batches import make_micro_batches, plan_micro_batches, split_micro_batch
from dunwu.rollout.token_budget import TokenBudget

# Prompt tokens, and the tokens of each completion.
SHAPES = ((3, (1, 9, 30, 2)), (11, (5, 1)), (7, (40, 17, 3, 3)), (1, (1,)))


def batch_of(tiny, shapes=SHAPES) -> MicroBatch:
    (batch,) = make_micro_batches(tiny.groups(shapes), loss_aggregation="token_mean", tokens=100_000, temperature=0.9)
    return batch


def backward(model, batches) -> None:
    """Adds the gradient of a loss in which every token counts differently."""
    with packed_attention_context(model):
        for batch in batches:
            logps, _ = forward_logps(model, batch)
            worth = batch.advantages_B.unsqueeze(1) * batch.sampler_logps_BC.exp() * batch.mask_BC
            (logps * worth).sum().backward()


def gradients(tiny, model, batches) -> dict[str, Tensor]:
    model.zero_grad()
    backward(model, batches)
    return tiny.gradients(model)


# -- splitting -----------------------------------------------------------------------------------------------------


def full_batch(tiny) -> MicroBatch:
    """A batch with everything that a step may have put into it."""
    batch = batch_of(tiny)
    torch.manual_seed(3)
    old, reference = (-torch.rand(batch.mask_BC.shape) * batch.mask_BC for _ in range(2))
    return replace(batch, old_logps_BC=old, reference_logps_BC=reference)


def rows_of(batch: MicroBatch) -> list[dict[str, Any]]:
    """Each row by itself: what must not change when rows change company."""
    return [
        {
            "rollout": batch.rollout_index[row],
            "prompt": batch.prompts[batch.prompt_index[row]],
            "length": length,
            "advantage": float(batch.advantages_B[row]),
            **{name: t[row, :length].tolist() for name, t in batch._tensors().items() if name.endswith("_BC")},
        }
        for row, length in enumerate(batch.lengths)
    ]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("tokens", [1, 20, 60, 100, 100_000])
def test_the_parts_of_a_batch_are_its_rows_and_add_up_to_its_gradient(tiny, tokens, shared):
    """A retry after memory ran out is the same step only if no row loses its advantage or old log-probs."""
    whole = full_batch(tiny)
    parts = split_micro_batch(whole, tokens, shared_prompts=shared)
    assert [row for part in parts for row in rows_of(part)] == rows_of(whole)
    assert len(rows_of(whole)[0]) == 4 + 6
    assert len(parts) == {1: 11, 100_000: 1}.get(tokens, len(parts)) and (tokens == 100_000 or len(parts) > 1)
    for part in parts:
        assert part.completion_ids_BC.shape[1] == max(part.lengths)
        assert len(part.prompts) == len(set(part.prompt_index)), "prompts that no row answers are left out"
        if shared and len(part.lengths) > 1:
            assert len(layout_of(part).ids_N) <= tokens
    model = tiny.exact(tiny.model())
    assert tiny.far(gradients(tiny, model, [whole]), gradients(tiny, model, parts)) < 1e-12


def test_rows_can_be_taken_in_any_order_and_from_the_middle(tiny):
    whole = full_batch(tiny)
    everything = rows_of(whole)
    for rows in ([9, 0, 5], [4], [2, 3, 4], list(range(10, -1, -1))):
        assert rows_of(whole.select_rows(rows)) == [everything[row] for row in rows]


def test_cuts_are_where_they_are_by_hand():
    """Prompts of 10, 10, 10 and 3 tokens; completions of 5, 5, 5 and 2, whose last token is no input.

    Shared: 10 + 4 + 4 = 18, the third row would make 22; then 10 + 4 + (3 + 1) = 18 again.
    Padded: rows × (10 + 5): two rows are 30.
    """
    owners, sizes = (0, 0, 0, 1), ((10, 5), (10, 5), (10, 5), (3, 2))
    for tokens, expected in ((18, [(0, 2), (2, 4)]), (17, [(0, 1), (1, 2), (2, 3), (3, 4)]), (26, [(0, 4)])):
        assert [(c.start, c.stop) for c in plan_micro_batches(owners, sizes, tokens)] == expected
    padded = plan_micro_batches(owners, sizes, 30, shared_prompts=False)
    assert [(c.start, c.stop) for c in padded] == [(0, 2), (2, 4)]
    assert plan_micro_batches((), (), 10) == []


@pytest.mark.parametrize("shared", [True, False])
def test_cuts_keep_every_row_once_and_no_part_could_take_its_neighbour(shared):
    make = torch.Generator().manual_seed(0)
    prompts = torch.randint(1, 30, (20,), generator=make).tolist()
    owners = [i // 5 for i in range(100)]
    sizes = [(prompts[o], int(torch.randint(1, 40, (1,), generator=make))) for o in owners]

    def work(rows: range) -> int:
        if shared:
            return sum(prompts[o] for o in {owners[r] for r in rows}) + sum(sizes[r][1] - 1 for r in rows)
        return len(rows) * (max(sizes[r][0] for r in rows) + max(sizes[r][1] for r in rows))

    for tokens in (1, 30, 100, 250, 10_000):
        parts = [range(c.start, c.stop) for c in plan_micro_batches(owners, sizes, tokens, shared_prompts=shared)]
        assert list(itertools.chain(*parts)) == list(range(100))
        assert all(len(part) == 1 or work(part) <= tokens for part in parts)
        assert all(work(range(one.start, two.start + 1)) > tokens for one, two in itertools.pairwise(parts))


# -- the budget is found -------------------------------------------------------------------------------------------


def measured(tiny, monkeypatch, free: float, model: Any = None, **options: Any) -> int:
    """The budget that is found on a machine with so much free memory."""
    monkeypatch.setattr(budget_module, "free_memory", lambda device: int(free))
    groups = tiny.groups(SHAPES)

    def sample(tokens: int) -> list[MicroBatch]:
        return make_micro_batches(groups[:1], loss_aggregation="token_mean", tokens=tokens)

    return TokenBudget(tokens=None, **options).measure(model or tiny.model(), sample)


def test_the_budget_follows_the_memory_that_is_free(tiny, monkeypatch):
    """Never below one small batch, never beyond what is any faster, and in between as the memory is."""
    # Gradients, moments and four chunks of 2²⁴ float32 logits are owed: 269 MB.
    assert measured(tiny, monkeypatch, 0) == measured(tiny, monkeypatch, 250e6) == 256
    assert measured(tiny, monkeypatch, 1e12) == 8192
    some, more, most = (measured(tiny, monkeypatch, free) for free in (300e6, 320e6, 340e6))
    assert 256 < some < more < most < 8192
    assert abs((most - more) - (more - some)) <= 1, "the same memory buys the same tokens"
    assert measured(tiny, monkeypatch, 300e6, tiny.model(num_hidden_layers=4)) < 0.7 * some
    assert measured(tiny, monkeypatch, 640e6, ranks=2) == more, "two processes share one machine's memory"


def test_the_cost_of_a_token_is_what_its_forward_pass_saves(tiny, monkeypatch):
    """Attention, MLP and norms keep tensors of known sizes: a measure that missed the MLP would promise too much."""
    narrow, wide = (tiny.model(intermediate_size=size) for size in (48, 1048))
    batch = batch_of(tiny)
    kept = [budget_module.activation_bytes(model, batch) for model in (narrow, wide)]
    # Of each of 2 layers: the gate, its SiLU, the other projection and the product, 4 bytes each, 1000 more of them.
    per_token = (kept[1] - kept[0]) / len(layout_of(batch).ids_N)
    assert per_token == pytest.approx(2 * 4 * 4 * 1000, rel=0.01)


def long_batch(tiny) -> MicroBatch:
    """One prompt of 60 tokens and five completions of 40: 255 tokens."""
    return batch_of(tiny, ((60, (40,) * 5),))


def checkpointed(model: Any) -> Any:
    """As a trainer with gradient_checkpointing makes it; in evaluation mode, as from_pretrained returns it."""
    # transformers renamed it after 5.17, and warns of the old name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    return model.eval()


def test_gradient_checkpointing_is_measured_as_it_trains(tiny, monkeypatch):
    """It acts in training mode only: measured in evaluation mode, micro-batches came out ten times too small, just
    where memory is short. A layer's inputs stay, and the backward pass computes one layer anew."""
    sizes = {"num_hidden_layers": 8, "hidden_size": 64, "intermediate_size": 256}
    batch, tokens = long_batch(tiny), 255
    plain, model = tiny.model(**sizes).eval(), checkpointed(tiny.model(**sizes))
    everything, kept = (budget_module.activation_bytes(each, batch) for each in (plain, model))
    assert not model.training and not plain.training, "the mode is put back"
    inputs_and_one_layer = 8 * 64 * 4 * tokens + everything / 8
    assert inputs_and_one_layer < kept < 1.5 * inputs_and_one_layer < everything / 3
    free = 500e6
    assert measured(tiny, monkeypatch, free, model) > 3 * measured(tiny, monkeypatch, free, plain)


def test_the_copies_of_weights_that_autocast_makes_are_not_counted_for_each_token(tiny, monkeypatch):
    """They are as large for 16,000 tokens as for 250: counted a token, half precision seemed to need twice as much
    memory as float32. What it needs is less, and once the copies."""
    model, batch = tiny.model(hidden_size=256, intermediate_size=1024), long_batch(tiny)
    copies = sum(2 * p.numel() for name, p in model.named_parameters() if "proj" in name or "lm_head" in name)
    with torch.autocast("cpu", torch.bfloat16):
        per_token, constant = TokenBudget(tokens=None)._activation_cost(model, batch)
        half = measured(tiny, monkeypatch, 320e6, model)
    whole, nothing = TokenBudget(tokens=None)._activation_cost(model, batch)
    assert per_token < 0.75 * whole and half > measured(tiny, monkeypatch, 320e6, model)
    assert constant == pytest.approx(copies, rel=0.15) and nothing < 0.02 * copies


def test_a_measurement_draws_no_random_numbers_and_leaves_no_gradient(tiny, monkeypatch):
    """A run with dropout would otherwise go another way than the same run resumed, which measures nothing."""
    model = tiny.model("gpt2", resid_pdrop=0.5)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    measured(tiny, monkeypatch, 1e9, model)
    assert torch.equal(torch.rand(2), expected)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_adapted_model_is_measured_with_its_adapter(tiny):
    """Measured on the model inside, a pass would not be under the autocast that accelerate puts on the outer one."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny.model(), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    budget_module.activation_bytes(model, long_batch(tiny))
    assert seen == [1]


def test_a_measured_budget_is_logged_once_and_a_configured_one_is_left_alone(tiny, monkeypatch, caplog):
    caplog.set_level("DEBUG", "dunwu")
    monkeypatch.setattr(budget_module, "free_memory", lambda device: 10**12)
    budget, groups = TokenBudget(tokens=None), tiny.groups(SHAPES)
    model = tiny.model()
    for _ in range(3):
        assert (
            budget.measure(
                model, lambda tokens: make_micro_batches(groups, loss_aggregation="token_mean", tokens=tokens)
            )
            == 8192
        )
    (record,) = caplog.records
    assert "micro-batches of up to 8,192 tokens" in record.message and "tokens_per_micro_batch" in record.message

    def never(tokens: int) -> list[MicroBatch]:
        raise AssertionError("nothing is measured")

    assert TokenBudget(tokens=77).measure(model, never) == 77
    assert len(caplog.records) == 1


def test_a_trainer_finds_its_budget_before_its_first_step_and_a_resumed_one_has_it_back(tiny, make_trainer, tmp_path):
    """Found anew on a fuller machine, it would cut steps elsewhere; after a halving, it would run out again."""
    options = {"save_strategy": "steps", "save_steps": 1}
    first = make_trainer(max_steps=1, **options)
    assert first.token_budget.tokens is None
    first.train()
    assert 256 <= first.token_budget.tokens <= 8192
    first.token_budget.tokens = 333  # as it is after memory ran out
    first.save_state()
    first._save_checkpoint(first.model, None)
    second = make_trainer(max_steps=2, **options)
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 2 and second.token_budget.tokens == 333


# -- memory runs out -----------------------------------------------------------------------------------------------


def computed(batch: MicroBatch) -> int:
    return len(layout_of(batch).ids_N)


@pytest.mark.parametrize(
    ("limit", "attempts"),
    [(74, [[74]]), (40, [[74], [34, 34, 26]]), (20, [[74], [34, 34, 26], [14] * 16])],
)
def test_what_does_not_fit_is_halved_until_it_does(tiny, caplog, limit, attempts):
    """16 completions of 5 tokens: 10 + 16 · 4 = 74. Half is 37: 6 rows, 34; half of 34 is 17: 1 row, 14."""
    caplog.set_level("WARNING", "dunwu")
    whole, seen = batch_of(tiny, ((10, (5,) * 16),)), []

    def run(batches: list[MicroBatch]) -> str:
        seen.append([computed(batch) for batch in batches])
        if max(seen[-1]) > limit:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return "done"

    budget = TokenBudget(tokens=1000)
    batches, result = budget.run_with_oom_retry([whole], run)
    assert seen == attempts and result == "done"
    assert [index for batch in batches for index in batch.rollout_index] == list(range(16))
    assert budget.tokens == [1000, 37, 17][len(attempts) - 1]
    said = [record.message for record in caplog.records]
    assert len(said) == len(attempts) - 1
    assert all(f"{max(one)} tokens" in text for text, one in zip(said, attempts, strict=False))


def test_a_row_that_does_not_fit_alone_is_refused_with_what_to_do(tiny):
    def run(batches: list[MicroBatch]) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with pytest.raises(
        OutOfMemoryError, match=r"micro-batch of 46 tokens failed \(CUDA out of memory.*gradient_checkpoint"
    ):
        TokenBudget(tokens=1000).run_with_oom_retry([batch_of(tiny)], run)
    calls = []

    def once(batches: list[MicroBatch]) -> None:
        calls.append(len(batches))
        run(batches)

    with pytest.raises(OutOfMemoryError, match="lower max_completion_length"):
        TokenBudget(tokens=1000).run_with_oom_retry([batch_of(tiny)], once, can_retry=lambda: False)
    assert calls == [1], "other processes wait in this pass"


def test_another_error_is_not_taken_for_a_lack_of_memory(tiny):
    calls = []

    def run(batches: list[MicroBatch]) -> None:
        calls.append(len(batches))
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    budget = TokenBudget(tokens=1000)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        budget.run_with_oom_retry([batch_of(tiny)], run)
    assert calls == [1] and budget.tokens == 1000


@pytest.mark.parametrize("passes", [1, 2])
def test_a_step_that_ran_out_of_memory_midway_is_the_same_step(tiny, make_trainer, passes, caplog):
    """What the first micro-batches had left behind (gradients, sums of metrics) must not count twice."""
    found, cut = [], []
    rows = ({"prompt": "a"}, {"prompt": "a longer prompt, of many more tokens"}, {"prompt": "b"})
    for fails in (False, True):
        model = tiny.exact(tiny.model())
        trainer = make_trainer(model, rows=rows, tokens_per_micro_batch=64, num_iterations=passes, beta=0.1)
        samples, denominator = trainer.get_batch_samples(iter([trainer.prompts]), 1, torch.device("cpu"))
        sizes = [computed(batch) for batch in trainer.loop.pending.batches]
        assert len(sizes) > 1 and sizes[0] < max(sizes)

        def wall(module: Any, args: Any, kwargs: Any, limit: int = max(sizes)) -> None:
            if kwargs["input_ids"].numel() >= limit:
                raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

        if fails:
            model.register_forward_pre_hook(wall, with_kwargs=True)
        trainer.training_step(model, samples[0], denominator)
        cut.append(len(trainer.loop.pending.batches))
        metrics = {k: v for k, v in trainer.metrics_buffer.latest().items() if "time" not in k}
        old = {
            index: batch.old_logps_BC[i, : batch.lengths[i]].tolist()
            for batch in trainer.loop.pending.batches
            for i, index in enumerate(batch.rollout_index)
            if batch.old_logps_BC is not None
        }
        found.append((tiny.gradients(model), metrics, old))
    (one, metrics, old), (other, its_metrics, its_old) = found
    assert cut[1] > cut[0] and "repeating the step with" in caplog.text
    assert tiny.far(one, other) < 1e-12
    assert metrics == pytest.approx(its_metrics, rel=1e-5, abs=1e-7)
    assert len(old) == len(its_old) == (12 if passes == 2 else 0)
    assert all(old[index] == pytest.approx(its_old[index], abs=1e-12) for index in old)


SCRIPT = """
import json, resource, sys
import torch, transformers
from transformers import TrainerCallback
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from dunwu import GRPOConfig, GRPOTrainer

torch.set_num_threads(1)
words = {w: i for i, w in enumerate(["<pad>", "<eos>", "<unk>", *"abcdefghijklmnopqrstuvwxyz "])}
inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
inner.decoder = decoders.Fuse()
tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
)


def make():
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=len(words), hidden_size=32, intermediate_size=16384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, eos_token_id=1, pad_token_id=0, initializer_range=0.05,
    )
    return transformers.Qwen2ForCausalLM(config)


def virtual():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


class Wall(TrainerCallback):
    # Rollouts are there by then.
    def on_step_begin(self, *args, **kwargs):
        resource.setrlimit(resource.RLIMIT_AS, (virtual() + 300 * 2**20, resource.RLIM_INFINITY))

    def on_step_end(self, *args, **kwargs):
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def trained(callbacks):
    options = dict(max_steps=1, prompts_per_step=2, num_generations=16, max_completion_length=24,
                   tokens_per_micro_batch=100_000, logging_steps=1, save_strategy="no", report_to="none",
                   disable_tqdm=True, learning_rate=1e-5)
    config = GRPOConfig(output_dir=sys.argv[1], **options)
    rows = [{"prompt": "count to ten"}, {"prompt": "say a word"}]
    reward = lambda completions, **_: [float(len(set(c))) for c in completions]
    trainer = GRPOTrainer(make(), reward, config, rows, processing_class=tokenizer, callbacks=callbacks)
    trainer.train()
    log = trainer.state.log_history[0]
    return {name: log[name] for name in ("loss", "grad_norm", "entropy")} | {"tokens": trainer.token_budget.tokens}


free = trained([])
print("RESULT " + json.dumps([free, trained([Wall()])]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc are Linux's")
def test_a_step_for_which_the_machine_has_no_memory_is_taken_in_smaller_parts(tmp_path: Path) -> None:
    """The allocator's own error, from a process that may not grow: about 0.7 GB are needed, 0.3 GB are there."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "out")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    free, walled = json.loads(line.removeprefix("RESULT "))
    assert "out of memory at" in done.stdout and "repeating the step with" in done.stdout
    assert free.pop("tokens") == 100_000 and walled.pop("tokens") < 500, "568 tokens are sampled"
    assert free["grad_norm"] > 0.1
    assert walled == pytest.approx(free, rel=1e-4)
