"""The scripts are the tutorials': their rewards score as the faithful ones do, their settings are those described."""

from __future__ import annotations

import ast
import random
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from dunwu.rewards import tutorials
from dunwu.tasks.gsm8k import SYSTEM_PROMPT, XML_COT_FORMAT

AS_PRINTED = Path(__file__).parent / "as_printed"

COURSE = {
    "output_dir": "outputs/Qwen-0.5B-GRPO",
    "learning_rate": 5e-6,
    "adam_beta1": 0.9,
    "adam_beta2": 0.99,
    "weight_decay": 0.1,
    "warmup_ratio": 0.1,
    "lr_scheduler_type": "cosine",
    "logging_steps": 1,
    "bf16": True,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 4,
    "num_generations": 16,
    "max_prompt_length": 256,
    "max_completion_length": 200,
    "num_train_epochs": 1,
    "save_steps": 100,
    "max_grad_norm": 0.1,
    "log_on_each_node": False,
    "use_vllm": False,
    "vllm_gpu_memory_utilization": 0.3,
    "vllm_device": "cuda:0",
    "report_to": "wandb",
}

TEXTS = (
    "<reasoning>\nx\n</reasoning>\n<answer>\n72\n</answer>\n",
    "<reasoning>\nx\ny\n</reasoning>\n<answer>\n72\n</answer>\n",
    "<reasoning>x</reasoning> <answer>72</answer>",
    "<reasoning>\nx\n</reasoning>\n<answer>\n72\n</answer>\nand more",
    "<answer>\n7,2\n</answer>\n<answer>\n²\n</answer>",
    "72",
    "",
    " 1+2=3\n</think>\n<answer>(1 + 2) * 24</answer>",
    " 1+2=3\n</think>\n<answer>24*3</answer>",
    " x</think>\n<answer> 24 * (2 + 1) </answer>",
    " x</think><answer>24*(2+1)</answer>",
    " x</think>\n<answer>24*(2+1)=72</answer>",
    "y" * 1001 + "</think>\n<answer>1.24//2</answer>",
)


def functions_of(name: str) -> ModuleType:
    """A script's functions and constants, without running it: what it imports, loads and trains is left out."""
    tree = ast.parse((AS_PRINTED / name).read_text(encoding="utf-8"))
    constant = (ast.Constant, ast.JoinedStr)
    kept = [
        node
        for node in tree.body
        if (isinstance(node, ast.FunctionDef) and node.name.endswith(("_func", "_answer", "_xml", "_len")))
        or (isinstance(node, ast.Assign) and isinstance(node.value, constant))
        or (isinstance(node, ast.Import) and node.names[0].name in ("re", "os", "random"))
    ]
    module = ModuleType(Path(name).stem)
    exec(compile(ast.Module(body=kept, type_ignores=[]), name, "exec"), vars(module))
    return module


def config_of(name: str) -> dict[str, Any]:
    """The keyword arguments of a script's `GRPOConfig(...)`, those that are constants or named ones."""
    source = (AS_PRINTED / name).read_text(encoding="utf-8")
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    call = next(node for node in calls if getattr(node.func, "id", "") == "GRPOConfig")
    values = {word.arg: word.value for word in call.keywords}
    named = vars(functions_of(name))
    return {
        str(word): named[value.id] if isinstance(value, ast.Name) else ast.literal_eval(value)
        for word, value in values.items()
    }


@pytest.mark.parametrize("script", ["t1_course.py", "t2_notebook.py"])
@pytest.mark.parametrize("name", ["correctness", "int", "strict_format", "soft_format", "xmlcount"])
def test_the_courses_rewards_in_the_scripts_score_as_the_tutorial_rewards(script: str, name: str) -> None:
    module, name = functions_of(script), f"{name}_reward_func"
    said = [[{"role": "assistant", "content": text}] for text in TEXTS]
    prompts = [[{"role": "user", "content": "how many?"}]] * len(said)
    columns = {"prompts": prompts, "completions": said, "answer": ["72"] * len(said)}
    scores = getattr(module, name)(**columns)
    assert scores == getattr(tutorials, name)(**columns)
    assert len(set(scores)) > 1, "the texts tell right from wrong"
    assert (module.SYSTEM_PROMPT, module.XML_COT_FORMAT) == (SYSTEM_PROMPT, XML_COT_FORMAT)


@pytest.mark.parametrize("name", ["format_reward_func", "equation_reward_func", "thought_len_reward_func"])
def test_datawhale_r1s_rewards_in_the_script_score_as_the_tutorial_rewards(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # the tutorial's functions write their samples where they are
    random.seed(0)
    columns = {"completions": list(TEXTS), "target": [72] * len(TEXTS), "nums": [[1, 2, 24]] * len(TEXTS)}
    scores = getattr(functions_of("t3/train_Datawhale-R1.py"), name)(**columns)
    assert scores == getattr(tutorials, name)(**columns)
    assert set(scores) == {0.0, 1.0}


def test_the_quick_starts_reward_pays_for_distance_as_printed() -> None:
    module = functions_of("t4/train_grpo.py")
    assert module.reward_len(completions=["", "x" * 20, "x" * 23]) == [20, 0, 3]


def test_the_settings_are_those_of_the_course_and_the_notebook() -> None:
    course, notebook = config_of("t1_course.py"), config_of("t2_notebook.py")
    assert {name: course[name] for name in COURSE} == COURSE
    assert set(course) - set(COURSE) == {"run_name"}
    changed = {"per_device_train_batch_size": 16}
    without_vllm = {name: value for name, value in COURSE.items() if not name.startswith("vllm_")}
    assert {name: notebook[name] for name in without_vllm} == without_vllm | changed


def test_the_settings_of_datawhale_r1_are_those_described() -> None:
    text = (AS_PRINTED / "t3" / "Datawhale-R1.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(text)
    described = {
        "model_name_or_path": "Qwen/Qwen2.5-3B-Instruct",
        "torch_dtype": "bfloat16",
        "attn_implementation": "flash_attention_2",
        "tf32": True,
        "swanlab": True,
        "max_steps": 450,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 8,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "learning_rate": 5e-7,
        "warmup_ratio": 0.03,
        "seed": 2025,
        "beta": 0.001,
        "max_prompt_length": 256,
        "max_completion_length": 4096,
        "num_generations": 8,
        "use_vllm": True,
        "vllm_gpu_memory_utilization": 0.5,
        "save_steps": 50,
    }
    assert {name: settings[name] for name in described} == described
    assert {"workspace", "project", "experiment_name", "vllm_device", "model_revision"} <= settings.keys()
    assert not re.search(r"[0-9a-f]{40}|api_key", text)
