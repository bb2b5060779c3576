"""The reference is the policy as it was given: KL is exactly 0 at the start, and grows by what the policy learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dunwu.core.records import MicroBatch
from dunwu.errors import CheckpointError, ConfigError
from dunwu.model.logprobs import forward_logps
from dunwu.model.reference import ReferenceModel
from dunwu.rollout.micro_batches import make_micro_batches


def batch_of(tiny) -> MicroBatch:
    groups = tiny.groups(((3, (9, 2, 5)), (6, (4, 12))))
    (batch,) = make_micro_batches(groups, loss_aggregation="token_mean", tokens=1000, temperature=0.8)
    return batch


def adapted(tiny, **options: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **options)
    return get_peft_model(tiny.model(), config)


def loaded_adapter(tiny, folder: Path, **options: Any) -> Any:
    """An adapter that was trained before, as SFT leaves it."""
    from peft import PeftModel

    adapted(tiny, init_lora_weights=False, **options).save_pretrained(folder)
    return PeftModel.from_pretrained(tiny.model(), folder, is_trainable=True)


def policies(tiny, folder: Path) -> dict[str, Any]:
    frozen_below = tiny.model()
    frozen_below.model.embed_tokens.requires_grad_(False)
    return {
        "all weights": tiny.model(),
        "tied": tiny.model(tie_word_embeddings=True),
        "another architecture": tiny.model("gpt2"),
        "partly frozen": frozen_below,
        "fresh adapter": adapted(tiny),
        "trained adapter": loaded_adapter(tiny, folder / "lora"),
        "trained DoRA": loaded_adapter(tiny, folder / "dora", use_dora=True),
        "PiSSA, which changes the base": adapted(tiny, init_lora_weights="pissa"),
        "with a trained head": loaded_adapter(tiny, folder / "head", modules_to_save=["lm_head"]),
    }


KINDS = (
    "all weights",
    "tied",
    "another architecture",
    "partly frozen",
    "fresh adapter",
    "trained adapter",
    "trained DoRA",
    "PiSSA, which changes the base",
    "with a trained head",
)


def move(policy: torch.nn.Module) -> None:
    """As an optimizer does: what is trainable changes."""
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_the_policy_as_it_was_given(tiny, tmp_path, kind):
    """Measured against the base, a policy that comes from SFT has a KL of 1.5 nats before its first step."""
    policy, batch = policies(tiny, tmp_path)[kind].train(), batch_of(tiny)
    start, _ = forward_logps(policy, batch)
    reference = ReferenceModel(policy)
    assert torch.equal(reference.logps(batch), start), "KL at the first step is 0, to the bit"
    move(policy)
    moved, _ = forward_logps(policy, batch)
    assert (moved - start).abs().max() > 1e-2
    assert torch.equal(reference.logps(batch), start)
    again, _ = forward_logps(policy, batch)
    assert torch.equal(again, moved) and again.requires_grad, "the policy's own parameters are back"
    assert policy.training and not reference.logps(batch).requires_grad


def test_the_policys_parameters_are_back_after_an_error_too(tiny):
    policy, batch = tiny.model(), batch_of(tiny)
    reference, parameters = ReferenceModel(policy), list(policy.parameters())
    move(policy)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    hook = policy.model.layers[1].register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError):
        reference.logps(batch)
    hook.remove()
    assert all(one is other for one, other in zip(policy.parameters(), parameters, strict=True))


def test_an_adapters_reference_is_neither_trained_nor_saved(tiny, tmp_path):
    """It costs an adapter's memory, adds no parameter for an optimizer, and no file to what is saved."""
    policy = loaded_adapter(tiny, tmp_path / "sft")
    names = [name for name, _ in policy.named_parameters()]
    reference = ReferenceModel(policy)
    copies = reference.state()
    assert [name for name, _ in policy.named_parameters()] == names and list(policy.peft_config) == ["default"]
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert copies is not None and sum(value.numel() for value in copies.values()) == trained
    reference.logps(batch_of(tiny))
    policy.save_pretrained(tmp_path / "saved")
    saved = sorted(p.relative_to(tmp_path / "saved").as_posix() for p in (tmp_path / "saved").rglob("*"))
    assert saved == ["README.md", "adapter_config.json", "adapter_model.safetensors"]


def test_a_resumed_runs_reference_is_that_of_its_start(tiny, tmp_path):
    """An adapter that is drawn at random is another one when the script runs again."""
    policy, batch = adapted(tiny, init_lora_weights=False), batch_of(tiny)
    reference = ReferenceModel(policy)
    start = reference.logps(batch)
    move(policy)
    torch.save(reference.state(), tmp_path / "state.pt")
    resumed = adapted(tiny, init_lora_weights=False)
    move(resumed)
    second = ReferenceModel(resumed)
    assert not torch.equal(second.logps(batch), start)
    second.load_state(torch.load(tmp_path / "state.pt"))
    assert torch.equal(second.logps(batch), start)
    with pytest.raises(CheckpointError, match="resume with the model and adapter that the run began with"):
        ReferenceModel(tiny.model()).load_state(reference.state())


def test_weights_that_the_start_of_a_run_has_anyway_are_not_saved(tiny):
    """A copy of the whole model in each checkpoint would double it."""
    assert ReferenceModel(tiny.model()).state() is None
    assert len(ReferenceModel(tiny.model(), updatable=True).state()) == len(list(tiny.model().parameters()))


def test_mixing_in_moves_every_weight_by_its_share(tiny):
    """π_ref ← 1/4 π + 3/4 π_ref, twice: from 0 towards 1 it is at 1/4, then at 7/16."""
    policy, batch = tiny.model(), batch_of(tiny)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    reference = ReferenceModel(policy, updatable=True)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.fill_(1.0)
    for expected in (1 / 4, 7 / 16):
        reference.mix_in(policy, 0.25)
        assert all(torch.equal(w, torch.full_like(w, expected)) for w in reference.state().values())
    mixed = reference.logps(batch)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.fill_(7 / 16)
    assert torch.equal(forward_logps(policy, batch)[0], mixed)


def test_an_adapters_reference_cannot_be_updated(tiny):
    with pytest.raises(ConfigError, match=r"sync_ref_model does not work with an adapter.*sync_ref_model=False"):
        ReferenceModel(adapted(tiny), updatable=True)


SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
from accelerate import Accelerator
from conftest import Tiny
from dunwu.model.logprobs import forward_logps
from dunwu.model.reference import ReferenceModel
from dunwu.rollout.micro_batches import make_micro_batches

accelerator = Accelerator(cpu=True)
policy = Tiny.model()
reference = ReferenceModel(policy)
prepared = accelerator.prepare(policy)
seen = []
policy.model.layers[0].self_attn.q_proj.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
(batch,) = make_micro_batches(Tiny.groups(((3, (9, 2)),)), loss_aggregation="token_mean", tokens=1000)
of_policy = forward_logps(prepared, batch)[0]
of_reference = reference.logps(batch)
with torch.no_grad():
    of_policy.sum()
    policy.model.layers[0].mlp.up_proj.weight.add_(0.5)
after = reference.logps(batch)
with accelerator.autocast():
    inside = reference.logps(batch)
    moved = forward_logps(prepared, batch)[0]
again = forward_logps(prepared, batch)[0]
print("RESULT " + json.dumps({
    "precision": accelerator.mixed_precision,
    "dtypes": [str(dtype) for dtype in seen],
    "kl": float((of_policy - of_reference).abs().max()),
    "stays": torch.equal(after, of_reference) and torch.equal(inside, of_reference),
    "moved": float((again - of_policy).abs().max()),
    "cached": torch.equal(moved, again),
}))
"""


@pytest.mark.slow
def test_under_mixed_precision_the_reference_computes_as_the_policy_does(tmp_path):
    """accelerate patches the policy's own forward alone: a copy of the model would compute in float32, ten times
    slower on a GPU, and bfloat16's rounding would look like a KL. Autocast's cache of bfloat16 weights must not mix
    the two up either."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(Path(__file__).parents[1])],
        env=os.environ | {"ACCELERATE_MIXED_PRECISION": "bf16", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    found = json.loads(line.removeprefix("RESULT "))
    assert found["precision"] == "bf16" and set(found["dtypes"]) == {"torch.bfloat16"} and len(found["dtypes"]) == 6
    assert found["kl"] == 0.0 and found["stays"] and found["moved"] > 1e-2 and found["cached"]


def test_the_reference_follows_the_policy_to_its_dtype_of_compute_under_plain_autocast(tiny):
    policy, batch = tiny.model(), batch_of(tiny)
    reference = ReferenceModel(policy)

    def logps() -> tuple[Tensor, Tensor]:
        return forward_logps(policy, batch)[0].detach(), reference.logps(batch)

    exact, its_exact = logps()
    with torch.autocast("cpu", torch.bfloat16):
        rounded, its_rounded = logps()
    assert torch.equal(exact, its_exact) and torch.equal(rounded, its_rounded)
    assert (rounded - exact).abs().max() > 1e-4
