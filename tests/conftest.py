"""What the tests stand on: a tokenizer of single characters, small random models, a short trainer.

They reach tests as fixtures (`tiny`, `make_trainer`), because the test folder is no package.
"""

from __future__ import annotations

import functools
import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["DUNWU_LANG"] = "en"  # whatever the machine speaks

import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from dunwu.config import GRPOConfig
from dunwu.core.records import Completion, Group, Prompt, Rollout
from dunwu.rollout.prompts import build_prompts
from dunwu.training.trainer import GRPOTrainer

torch.set_num_threads(1)

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<end>")
LETTERS = string.ascii_letters + string.digits + " .,:;=+-*/[]\n"
TEMPLATE = "{{ BOS }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }};{% endfor %}"
GENERATE = "{% if add_generation_prompt %}[assistant]{% endif %}"

_FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, {}),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, {"head_dim": 8}),
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {}),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM, {"sliding_window": 4, "head_dim": 8}),
}


class Tiny:
    """Makers of small real things."""

    special = SPECIAL
    vocabulary = len(SPECIAL) + len(LETTERS)

    @staticmethod
    def tokenizer(
        *, adds_bos: bool = False, adds_eos: bool = False, template: str | None = "plain", pad: str | None = "<pad>"
    ) -> Any:
        """One token a character. `template`: `plain`, `bos` (it writes the begin token itself) or None."""
        vocabulary = {token: i for i, token in enumerate([*SPECIAL, *LETTERS])}
        inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        inner.decoder = decoders.Fuse()
        if adds_bos or adds_eos:
            single = " ".join(["<bos>"] * adds_bos + ["$A"] + ["<eos>"] * adds_eos)
            inner.post_processor = processors.TemplateProcessing(
                single=single, special_tokens=[("<bos>", 2), ("<eos>", 1)]
            )
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=inner,
            eos_token="<eos>",
            bos_token="<bos>",
            unk_token="<unk>",
            extra_special_tokens=["<end>"],
            **({"pad_token": pad} if pad else {}),
        )
        if template is not None:
            begin = "{{ bos_token }}" if template == "bos" else ""
            tokenizer.chat_template = TEMPLATE.replace("{{ BOS }}", begin) + GENERATE
        return tokenizer

    @staticmethod
    def model(family: str = "qwen2", *, seed: int = 0, scale: float = 0.3, **config: Any) -> Any:
        """A random causal model. `scale` of its weights makes its distributions far from uniform."""
        torch.manual_seed(seed)
        shared = {"vocab_size": Tiny.vocabulary, "eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0}
        if family == "gpt2":
            sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": scale}
            dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
            return transformers.GPT2LMHeadModel(transformers.GPT2Config(**(shared | sizes | dropout | config)))
        make_config, make_model, own = _FAMILIES[family]
        sizes = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "initializer_range": scale,
        }
        return make_model(make_config(**(shared | sizes | own | config)))

    @staticmethod
    def exact(model: Any) -> Any:
        """The model in float64 throughout.

        transformers computes norms and rotary angles in float32 whatever the dtype, and a vectorised rsqrt or cosine
        rounds by an element's place in memory: two cuts of one step would differ by 1e-8, and 1e-12 prove nothing.
        """
        model.double()
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = functools.partial(_exact_norm, module)
            if hasattr(module, "inv_freq"):
                module.forward = functools.partial(_exact_angles, module)
        return model

    @staticmethod
    def prompts(*texts: str, tokenizer: Any = None) -> list[Prompt]:
        """Prompts of these texts."""
        rows = [{"prompt": text} for text in texts]
        return build_prompts(rows, tokenizer or Tiny.tokenizer())[0]

    @staticmethod
    def group(prompt: Prompt, completions: Sequence[Completion], advantages: Sequence[float]) -> Group:
        """A group with given advantages (also as its rewards)."""
        rollouts = [
            Rollout(completion=c, reward=a, scores={"given": a}, advantage=a)
            for c, a in zip(completions, advantages, strict=True)
        ]
        return Group(prompt=prompt, rollouts=tuple(rollouts))

    @staticmethod
    def groups(shapes: Sequence[tuple[int, Sequence[int]]], seed: int = 0) -> list[Group]:
        """Groups of random tokens: for each, the tokens of its prompt and of its completions."""
        make = torch.Generator().manual_seed(seed)

        def ids(length: int) -> tuple[int, ...]:
            return tuple(torch.randint(3, Tiny.vocabulary, (length,), generator=make).tolist())

        groups = []
        for prompt, completions in shapes:
            said = [
                Completion(
                    ids=ids(n),
                    sampler_logps=tuple((-torch.rand(n, generator=make)).tolist()),
                    finish_reason="stop",
                    text="x",
                )
                for n in completions
            ]
            worth = torch.randn(len(said), generator=make).tolist()
            groups.append(Tiny.group(replace(Tiny.prompts("x")[0], ids=ids(prompt)), said, worth))
        return groups

    @staticmethod
    def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Copies of all gradients, by parameter name."""
        return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}

    @staticmethod
    def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Copies of all weights, by name."""
        return {name: value.detach().clone() for name, value in model.state_dict().items()}

    @staticmethod
    def backward(trainer: GRPOTrainer, prompts: Sequence[Prompt] | None = None) -> dict[str, torch.Tensor]:
        """One step's gradient through the trainer's own hooks, without the optimizer."""
        trainer.model.zero_grad()
        chosen = list(trainer.prompts if prompts is None else prompts)
        samples, denominator = trainer.get_batch_samples(iter([chosen]), 1, torch.device("cpu"))
        trainer.training_step(trainer.model, samples[0], denominator)
        return Tiny.gradients(trainer.model)

    @staticmethod
    def far(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
        """Norm of the difference, relative to the norm."""
        assert one.keys() == other.keys()
        difference = sum(float((one[n].double() - other[n].double()).square().sum()) for n in one)
        return (difference / sum(float(one[n].double().square().sum()) for n in one)) ** 0.5


def _exact_norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)


def _exact_angles(module: Any, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    angles = position_ids[..., None].double() * module.inv_freq.double()
    both = torch.cat([angles, angles], dim=-1)
    return both.cos() * module.attention_scaling, both.sin() * module.attention_scaling


def lowercase(completions: Sequence[str], **_: Any) -> list[float]:
    """Share of lower-case letters in each completion: about a third from a random model, so that groups differ."""
    return [sum(c.islower() for c in text) / max(1, len(text)) for text in completions]


@pytest.fixture(scope="session")
def tiny() -> type[Tiny]:
    """Makers of small tokenizers, models, prompts and groups."""
    return Tiny


@pytest.fixture
def make_trainer(tmp_path: Path) -> Iterator[Callable[..., GRPOTrainer]]:
    """A trainer of a small random model on six short prompts; keyword arguments are options or trainer arguments."""

    def make(
        model: Any = None,
        reward: Any = lowercase,
        rows: Any = tuple({"prompt": f"say {word}"} for word in ("one", "two", "three", "four", "five", "six")),
        *,
        tokenizer: Any = None,
        extras: dict[str, Any] | None = None,
        **options: Any,
    ) -> GRPOTrainer:
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / "run"),
            "max_steps": 2,
            "prompts_per_step": 2,
            "num_generations": 4,
            "max_completion_length": 8,
            "learning_rate": 1e-3,
            "save_strategy": "no",
            "disable_tqdm": True,
            "report_to": "none",
        }
        return GRPOTrainer(
            Tiny.model() if model is None else model,
            reward,
            GRPOConfig(**(settings | options)),
            list(rows) if isinstance(rows, tuple) else rows,
            processing_class=Tiny.tokenizer() if tokenizer is None else tokenizer,
            **(extras or {}),
        )

    yield make
