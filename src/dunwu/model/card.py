"""The model card of a model that GRPO trained: README.md with what made it, how good it is and how to load it."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dunwu._utils.yaml_1_2 import dump_yaml

__all__ = ["CardResult", "ModelCard", "base_name", "card_text", "full_model_card", "package_versions", "write_card"]

_MARK = "<!-- Written by Dunwu: a card with this line is replaced when the model is saved again. -->"
_TEMPLATES = ("[More Information Needed]", "generated_from_trainer")
"""What is in the drafts that PEFT and transformers leave."""

_EMBEDDED = "the model embedded in Dunwu"

_CITATION = """\
```bibtex
@article{shao2024deepseekmath,
  title   = {DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models},
  author  = {Shao, Zhihong and Wang, Peiyi and Zhu, Qihao and Xu, Runxin and Song, Junxiao and Bi, Xiao and
             Zhang, Haowei and Zhang, Mingchuan and Li, Y. K. and Wu, Y. and Guo, Daya},
  year    = {2024},
  journal = {arXiv preprint arXiv:2402.03300}
}
```"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardResult:
    """One figure before and after training.

    Example: `CardResult(label="correct, greedy", before="32.0 % ± 2.1", after="72.4 % ± 2.0")`
    """

    label: str
    """What was measured."""
    before: str
    """As it is to be read, with its interval."""
    after: str
    """The same after training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a card says; `card_text` writes it.

    Example: `ModelCard(name="quickstart", base="Qwen/Qwen3-0.6B", loss="dapo", rewards={"equation_solves": 1.0})`
    """

    name: str
    """The model's name: its folder's, or the one on the hub."""
    base: str = ""
    """The model that was trained: a hub's name or a folder; empty where it has neither."""
    adapter: str = ""
    """The kind of adapter, such as `LORA`; empty where all weights are in the folder."""
    hub_name: str = ""
    """The name that the model has on a hub."""
    loss: str = "grpo"
    """`loss_type`."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """What else decided the training, by the names that people read."""
    rewards: Mapping[str, float] = field(default_factory=dict)
    """Name of each reward function, and its weight."""
    task: str = ""
    """The task's name, where a recipe named one."""
    datasets: tuple[str, ...] = ()
    """Names on a hub of the data that was trained on."""
    results: tuple[CardResult, ...] = ()
    """Figures before and after."""
    results_of: str = ""
    """What the figures were measured on, and what stands behind the ±."""
    prompt: str | Sequence[Mapping[str, str]] = "Why is the sky blue?"
    """What the snippet asks: messages, or text."""
    has_template: bool = True
    """Whether the tokenizer has a chat template."""
    max_new_tokens: int = 256
    """Token limit of the snippet: the run's."""
    recipe: str = ""
    """File in the same folder that trains this again."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package to version."""
    tags: tuple[str, ...] = ()
    """Tags beside ours."""
    language: str = ""
    """The model's language, by its code."""
    license: str = ""
    """The model's licence, by its name on the hub."""


def card_text(card: ModelCard) -> str:
    """The whole README.md."""
    sections = [
        _MARK,
        f"# {card.name}",
        _summary(card),
        _table("Training", ("", ""), _training_rows(card)),
        _table("Rewards", ("reward", "weight"), [(f"`{name}`", f"{w:g}") for name, w in card.rewards.items()]),
        _results(card),
        f"## Load it\n\n{_loading(card)}",
        _again(card),
        _table("Versions", ("package", "version"), list(card.versions.items())),
        f"## Citation\n\nGRPO was introduced in\n\n{_CITATION}",
    ]
    return f"---\n{_front_matter(card)}---\n\n" + "\n\n".join(text for text in sections if text) + "\n"


def write_card(folder: Path, text: str) -> bool:
    """Write README.md, unless somebody has written one by hand; returns whether it was written."""
    file = folder / "README.md"
    if file.is_file():
        there = file.read_text(encoding="utf-8", errors="replace")
        if there.strip() and _MARK not in there and not any(sign in there for sign in _TEMPLATES):
            return False
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return True


def full_model_card(text: str) -> str | None:
    """An adapter's card as that of the model that it was merged into; None for a card that is not ours."""
    if _MARK not in text:
        return None
    text = text.replace("library_name: peft\n", "library_name: transformers\n")
    text = text.replace("base_model_relation: adapter\n", "base_model_relation: finetune\n")
    was, now = (
        r"This is an adapter \((\w+)\) of (.+?), trained",
        r"This is \2 with an adapter (\1) merged in, trained",
    )
    text = re.sub(was, now, text)
    text = re.sub(r"(?m)^from (peft|dunwu\.embedded) import .*\n", "", text)
    return re.sub(r"(?m)^model = PeftModel.*$", _loading_lines("")[1], text)


def base_name(base: str) -> str:
    """A base as people read it: a hub's name; of a folder its last part, which is all that others may know of it."""
    path = Path(base)
    if path.parts[-3:] == ("dunwu", "embedded", "model"):
        return _EMBEDDED
    return base if _is_hub_name(base) else path.name


def package_versions(*names: str) -> dict[str, str]:
    """The versions of the installed ones of these packages.

    Example: `list(package_versions("torch", "no-such-package"))` is `["torch"]`.
    """
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _front_matter(card: ModelCard) -> str:
    # The hub refuses a card whose base_model is no name of its own.
    known = {"base_model": card.base, "base_model_relation": "adapter" if card.adapter else "finetune"}
    content: dict[str, object] = {
        **(known if _is_hub_name(card.base) else {}),
        "library_name": "peft" if card.adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": list(dict.fromkeys(["grpo", "dunwu", *card.tags])),
    }
    more = {"datasets": list(card.datasets), "language": card.language, "license": card.license}
    return dump_yaml(content | {name: value for name, value in more.items() if value})


def _summary(card: ModelCard) -> str:
    kind = f"an adapter ({card.adapter}) of" if card.adapter else "a fine-tuned version of"
    whose = f"[{card.base}](https://huggingface.co/{card.base})" if _is_hub_name(card.base) else base_name(card.base)
    task = f" on the task `{card.task}`" if card.task else ""
    what = f"This is {kind} {whose}" if card.base else "This model was"
    method = f"trained with GRPO (`loss_type: {card.loss}`){task}, using Dunwu."
    return f"{what}{',' if card.base else ''} {method}"


def _training_rows(card: ModelCard) -> list[tuple[str, object]]:
    data = [("data", ", ".join(card.datasets))] if card.datasets else []
    return [("loss", f"`{card.loss}`"), *card.settings.items(), *data]


def _results(card: ModelCard) -> str:
    rows = [(result.label, result.before, result.after) for result in card.results]
    table = _table("Before and after", ("", "before", "after"), rows)
    return f"{table}\n\n{card.results_of}" if table and card.results_of else table


def _again(card: ModelCard) -> str:
    if not card.recipe:
        return ""
    return (
        f"## Train it again\n\n`{card.recipe}` beside this file has every option of the run:\n\n"
        f"```bash\ndunwu train {card.recipe} --train.output_dir again\n```"
    )


def _loading(card: ModelCard) -> str:
    if card.has_template:
        asked = [{"role": "user", "content": card.prompt}] if isinstance(card.prompt, str) else list(card.prompt)
        messages = f"messages = {json.dumps(asked, ensure_ascii=False)}"
        options = 'add_generation_prompt=True, return_dict=True, return_tensors="pt"'
        encoded = [messages, f"inputs = tokenizer.apply_chat_template(messages, {options})"]
    else:
        encoded = [f'inputs = tokenizer({json.dumps(card.prompt, ensure_ascii=False)}, return_tensors="pt")']
    imports, loaded = _loading_lines(card.base if card.adapter else "")
    lines = [
        *imports,
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        f'\nname = "{card.hub_name or card.name}"  # this folder, or its name on a hub',
        "tokenizer = AutoTokenizer.from_pretrained(name)",
        loaded,
        *encoded,
        f"answer = model.generate(**inputs, max_new_tokens={card.max_new_tokens}, do_sample=False)",
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :]))',
    ]
    return "```python\n" + "\n".join(lines) + "\n```"


def _loading_lines(adapter_of: str) -> tuple[list[str], str]:
    """Imports beside transformers' own, and the line that loads the model."""
    if not adapter_of:
        return [], "model = AutoModelForCausalLM.from_pretrained(name)"
    imports, base = ["from peft import PeftModel"], f'"{base_name(adapter_of)}"'
    if base_name(adapter_of) == _EMBEDDED:
        imports, base = ["from dunwu.embedded import embedded_model_path", *imports], "embedded_model_path()"
    return imports, f"model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base}), name)"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    lines = [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]
    return f"## {title}\n\n" + "\n".join(lines)


def _is_hub_name(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and name[0] not in ".~" and not Path(name).exists()
