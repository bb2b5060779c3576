"""Every example in a docstring runs: code in backticks, in a paragraph that begins with `Example`."""

import ast
import importlib
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import dunwu
from dunwu.config import GRPOConfig
from dunwu.core.records import Completion, Grade, MicroBatch, Prompt, Rollout
from dunwu.engines import make_engine
from dunwu.engines.fast.kv_cache import KVCache
from dunwu.engines.fast.slots import SlotState
from dunwu.recipes.evaluation import GradedCompletion
from dunwu.rewards import RewardRunner

SOURCE = Path(dunwu.__file__).parent
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
SPAN = re.compile(r"`([^`]+)`(?:(?: is| →) `([^`]+)`)?")
"""Code, and what it comes to where the text says so: `x` is `y`, `x` → `y`."""


class Example(NamedTuple):
    """One paragraph: the module that it is in, the name of what it documents, and its text on one line."""

    module: str
    qualname: str
    text: str


def modules() -> Iterator[tuple[str, ast.Module]]:
    """All modules but those of `dunwu.compat`, whose import changes the process."""
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[0] != "compat":
            name = ".".join(("dunwu", *parts)).removesuffix(".__init__")
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def documented(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """A module, and all classes, functions and methods in it by their qualified names."""
    yield prefix, node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, DEFINITIONS):
            yield from documented(child, f"{prefix}.{child.name}".removeprefix("."))


def example_paragraphs(node: ast.AST) -> list[str]:
    docstring = ast.get_docstring(node) or ""  # type: ignore[arg-type]
    paragraphs = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", docstring)]
    return [paragraph for paragraph in paragraphs if paragraph.startswith("Example")]


EXAMPLES = [
    Example(name, qualname, text)
    for name, tree in modules()
    for qualname, node in documented(tree)
    for text in example_paragraphs(node)
]


@pytest.fixture(scope="module")
def stand_ins(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What examples name without making it."""
    tokenizer, policy, device = tiny.tokenizer(), tiny.model(), torch.device("cpu")
    row = {"nums": [3, 14, 17], "target": 51}
    p = Prompt(row_index=7, row=row, original="3 14 17 = 51", text="3 14 17 = 51", ids=(5, 12, 23, 6))
    c = Completion(ids=(31, 7, 2), sampler_logps=(-0.41, -1.2, -0.02), finish_reason="stop", text="17*3")
    scores = {"equation": 1.0, "format": 0.5}
    r1, r2, r3, r4 = (Rollout(completion=c, reward=1.5, scores=scores, advantage=a) for a in (0.5, -0.5, 0.5, -0.5))
    g1, g2 = tiny.groups([(4, (3, 2)), (3, (1, 4))])
    m1, m2, m3 = (micro_batch() for _ in range(3))
    graded = partial(GradedCompletion, prompt=p, completion=c)
    return {
        "torch": torch,
        **{"p": p, "c": c, "r1": r1, "r2": r2, "r3": r3, "r4": r4, "g1": g1, "g2": g2, "m1": m1, "m2": m2, "m3": m3},
        **{"group": g1, "prompts": [p], "policy": policy, "tokenizer": tokenizer, "device": device},
        "right": graded(grade=Grade(strict=True, lenient=True, formatted=True)),
        "wrong": graded(grade=Grade(strict=False, lenient=False, formatted=True)),
        "config": policy.config,
        "args": GRPOConfig(output_dir=str(tmp_path_factory.mktemp("run")), report_to="none"),
        "engine": make_engine(policy, tokenizer),
        "scorer": RewardRunner([lambda completions, **_: [0.0] * len(completions)]),
        "cache": KVCache.make(policy.config, slots=4, length=24, dtype=torch.float32, device=device),
        "state": SlotState.make(slots=4, completions=8, max_new_tokens=12, vocabulary=0, device=device),
    }


def micro_batch() -> MicroBatch:
    """Two completions, of 2 tokens and 1, to one prompt of 3."""
    return MicroBatch(
        prompts=((5, 9, 7),),
        prompt_index=(0, 0),
        lengths=(2, 1),
        completion_ids_BC=torch.tensor([[3, 1], [1, 0]]),
        mask_BC=torch.tensor([[1.0, 1.0], [1.0, 0.0]]),
        sampler_logps_BC=torch.zeros(2, 2),
        advantages_B=torch.tensor([0.7, -0.7]),
        weights_BC=torch.ones(2, 2),
    )


def is_expression(code: str) -> bool:
    try:
        ast.parse(code, mode="eval")
    except SyntaxError:
        return False
    return True


@pytest.mark.parametrize("example", EXAMPLES, ids=[f"{e.module}.{e.qualname}" for e in EXAMPLES])
def test_an_example_does_what_it_shows(example: Example, stand_ins: dict[str, Any]) -> None:
    spans = [(code, result) for code, result in SPAN.findall(example.text) if "(" in code or "=" in code]
    assert spans, "an example has code in backticks"
    namespace = stand_ins | vars(importlib.import_module(example.module))
    for code, result in spans:
        if is_expression(code):
            value = eval(code, namespace)
            assert not result or value == eval(result, namespace)
        else:
            assert not result, f"{code} has no value to compare"
            exec(code, namespace)


def test_there_are_examples_to_run() -> None:
    assert len(EXAMPLES) >= 40


def is_frozen_dataclass(node: ast.AST) -> bool:
    decorators = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", ())]
    return any(text.startswith("dataclass(") and "frozen=True" in text for text in decorators)


def test_every_public_frozen_dataclass_has_an_example() -> None:
    without = [
        f"{name}.{qualname}"
        for name, tree in modules()
        for qualname, node in documented(tree)
        if is_frozen_dataclass(node) and not qualname.startswith("_") and not example_paragraphs(node)
    ]
    assert without == []
