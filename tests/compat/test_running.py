"""`dunwu run` executes scripts written for TRL as they are, and says what it did for them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = '''
import torch
from datasets import Dataset, IterableDataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer as Same

assert Same is GRPOTrainer
MODEL = "{model}"


def rows():
    for n in range(1, 13):
        yield {"prompt": f"{n} 3 4 = {n + 7}", "number": n}


class Paid:
    """A reward with a state, as some scripts have."""

    __name__ = "paid"

    def __call__(self, completions, number, **kwargs):
        return [float(len(text) % (n + 1)) for text, n in zip(completions, number)]


def short(completions, **kwargs):
    return [-abs(20 - len(text)) for text in completions]


class Told(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        print("TOLD", sorted(logs) if "loss" in logs else "")


model = AutoModelForCausalLM.from_pretrained(
    MODEL, torch_dtype=torch.bfloat16, attn_implementation="flash_attention_2", device_map="cuda"
).to("cuda")
tokenizer = AutoTokenizer.from_pretrained(MODEL)
tokenizer.pad_token = tokenizer.eos_token
ids = tokenizer.apply_chat_template([{"role": "user", "content": "1 2"}], add_generation_prompt=True)
print("IDS", isinstance(ids, list), type(model.dtype), model.dtype)
args = GRPOConfig(
    output_dir="out", learning_rate=1e-5, warmup_ratio=0.1, per_device_train_batch_size=1,
    gradient_accumulation_steps=4, num_generations=8, max_prompt_length=64, max_completion_length=20, max_steps=3,
    save_steps=2, vllm_device="cuda:0", report_to="none", beta=0.04, logging_steps=1,
    eval_strategy="steps", eval_steps=2,
)
stream = IterableDataset.from_generator(rows)
held = Dataset.from_list(list(rows())[:2])
trainer = GRPOTrainer(
    model=model, tokenizer=tokenizer, reward_funcs=[short, Paid()], args=args, train_dataset=stream,
    eval_dataset={"easy": held, "hard": held}, callbacks=[Told()],
)
result = trainer.train()
args.distributed_state.wait_for_everyone()
trainer.log_metrics("train", result.metrics)
trainer.save_metrics("train", result.metrics)
trainer.save_state()
trainer.model.config.use_cache = True
trainer.save_model(args.output_dir)
if trainer.accelerator.is_main_process:
    trainer.create_model_card({"tags": ["rl", "grpo"]})
    trainer.model.config.save_pretrained(args.output_dir)
asked = trainer.tokenizer(["1 2 3"], return_tensors="pt").to("cuda")
print("ASKED", tuple(model.generate(**asked, max_new_tokens=2, do_sample=False).shape))
'''


def launch(folder: Path, source: str, *words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(source, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOME": str(folder)}
    command = [sys.executable, "-m", "dunwu.run", *before, "script.py", *words]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.slow
def test_a_script_of_then_trains_and_then_resumes(tmp_path: Path) -> None:
    from dunwu.embedded import embedded_model_path

    source = SCRIPT.replace("{model}", str(embedded_model_path()))
    done = launch(tmp_path, source)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    assert "IDS True <class 'torch.dtype'> torch.bfloat16" in said
    assert "ASKED (1, " in said
    for sentence in (
        "'flash_attention_2' is not installed here: sdpa",
        "device_map asks for cuda, and there is none here",
        "'cuda' is not here: cpu",
        "warmup_ratio=0.1 is now warmup_steps=0.1",
        "the dataset is a stream: reading its first 12 rows",
        "4 prompts × 8 completions = 32 a step",
        "batch size read as prompts; as completions it would hold no whole group of 8",
    ):
        assert sentence in said, sentence
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "README.md", "train_results.json", "trainer_state.json", "checkpoint-3"} <= names
    history = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    first = history[0]
    assert first["completion_length"] == first["completions/mean_length"]
    assert first["rewards/short"] == first["rewards/short/mean"]
    assert first["rewards/paid"] == first["rewards/paid/mean"]
    assert {"kl", "reward", "reward_std", "loss", "grad_norm", "learning_rate"} <= set(first)
    evaluated = next(entry for entry in history if "eval_hard_reward" in entry)
    assert "eval_hard_reward" in evaluated and any("eval_easy_reward" in entry for entry in history)
    again = launch(tmp_path, source.replace("max_steps=3", "max_steps=5"), before=("--resume",))
    said = again.stdout + again.stderr
    assert again.returncode == 0, said[-3000:]
    assert "--resume: going on from out/checkpoint-3" in said
    history = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_what_goes_wrong_is_a_sentence_where_it_is_ours_and_a_traceback_where_it_is_the_script_s(
    tmp_path: Path,
) -> None:
    ppo = launch(tmp_path, "print('LOADED')\nfrom trl import PPOTrainer\n")
    assert ppo.returncode == 2
    assert "script.py, line 2: trl.PPOTrainer is not in Dunwu: a value model is not here" in ppo.stderr
    assert "LOADED" not in ppo.stdout
    config = launch(tmp_path, "from trl import GRPOConfig\n\nGRPOConfig(output_dir='o', entropy_coef=0.1)\n")
    assert config.returncode == 2
    assert "script.py, line 3: entropy_coef=0.1" in config.stderr
    assert "Traceback" not in config.stderr
    mistyped = launch(tmp_path, "import trl\n\ntrl.GRPOConfig(output_dir='o', max_prompt_lenght=3)\n")
    assert mistyped.returncode == 2
    assert (
        "line 3: GRPOConfig has no argument 'max_prompt_lenght'; did you mean 'max_prompt_length'?" in mistyped.stderr
    )
    own = launch(tmp_path, "import sys\nprint(sys.argv, __name__)\n1 / 0\n", "--mine", "3")
    assert own.returncode == 1
    assert "['script.py', '--mine', '3'] __main__" in own.stdout
    assert "Traceback" in own.stderr and "ZeroDivisionError" in own.stderr
    left = launch(tmp_path, "raise SystemExit(7)\n")
    assert left.returncode == 7


@pytest.mark.slow
def test_one_line_in_a_notebook_is_enough_and_loading_a_saved_config_changes_nothing(tmp_path: Path) -> None:
    source = """
import sys, pickle
from dunwu.trl import GRPOConfig
saved = pickle.dumps(GRPOConfig(output_dir="o", vllm_device="auto", report_to="none"))
pickle.loads(saved)
assert "trl" not in sys.modules, "reading a config does not take trl's name"
import trl as real
assert real.__version__ == "1.16.0"
import dunwu.compat
import trl
assert trl.__version__ == "1.16.0+dunwu" and trl.GRPOConfig is GRPOConfig
from trl.trainer import GRPOTrainer
for name, words in (("PPOTrainer", "a value model"), ("nothing_such", "which has GRPOConfig")):
    try:
        getattr(trl, name)
    except ImportError as error:
        assert words in str(error), error
    else:
        raise AssertionError(name)
try:
    import trl.extras.vllm_client
except ImportError as error:
    assert "trl.extras is not in Dunwu" in str(error)
assert not hasattr(trl, "__wrapped__")
print("FINE")
"""
    (tmp_path / "cells.py").write_text(source, encoding="utf-8")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "cells.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "FINE" in done.stdout
    assert "trl was imported before Dunwu took its name" in done.stdout
