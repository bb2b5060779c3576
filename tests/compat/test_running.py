"""`dunwu run` executes scripts written for TRL as they are, and logs what it did for them."""

import importlib.util
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
def test_a_script_for_an_earlier_trl_trains_and_resumes(tmp_path: Path) -> None:
    from dunwu.embedded import embedded_model_path

    source = SCRIPT.replace("{model}", str(embedded_model_path()))
    done = launch(tmp_path, source)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    assert "IDS True <class 'torch.dtype'> torch.bfloat16" in said
    assert "ASKED (1, " in said
    for sentence in (
        "'flash_attention_2' is not installed: using sdpa",
        "device_map asks for cuda, and there is none",
        "there is no 'cuda': using cpu",
        "warmup_ratio=0.1 is now warmup_steps=0.1",
        "the dataset is a stream: reading its first 12 rows",
        "4 prompts × 8 completions = 32 a step",
        "batch size read as prompts; as completions it would hold no whole group of 8",
    ):
        assert sentence in said, sentence
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "README.md", "train_results.json", "trainer_state.json", "checkpoint-3"} <= names
    assert {"metrics.jsonl", "rollouts.jsonl", "curves.png"} <= names, "what a recipe's run has"
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
    assert "--resume: continuing from out/checkpoint-3" in said
    history = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_our_errors_are_sentences_and_the_script_s_are_tracebacks(
    tmp_path: Path,
) -> None:
    ppo = launch(tmp_path, "print('LOADED')\nfrom trl import PPOTrainer\n")
    assert ppo.returncode == 2
    assert "script.py, line 2: trl.PPOTrainer is not in Dunwu: there is no value model" in ppo.stderr
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
    late = launch(tmp_path, "import sys, trl\nif sys.argv:\n    trl.PPOTrainer\n")
    assert late.returncode == 2
    assert "script.py, line 3: trl.PPOTrainer is not in Dunwu" in late.stderr
    unknown = launch(tmp_path, "import trl\n", before=("--trl", "0.3"))
    assert unknown.returncode == 2
    assert "--trl '0.3' is not a version of TRL" in unknown.stderr and "Traceback" not in unknown.stderr
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
for name, words in (("PPOTrainer", "no value model"), ("nothing_such", "of TRL it has GRPOConfig")):
    assert not hasattr(trl, name) and getattr(trl, name, None) is None
    assert not hasattr(trl.trainer, name)
    for line in (f"from trl import {name}", f"from trl.trainer import {name}", f"trl.{name}"):
        try:
            exec(line)
        except (ImportError, AttributeError) as error:
            assert words in str(error), error
            assert isinstance(error, AttributeError if line.startswith("trl.") else ImportError)
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
    assert "trl was imported before dunwu.compat" in done.stdout


def test_a_yaml_file_with_a_typo_is_a_sentence_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("output_dir: out\nlerning_rate: 1\n", encoding="utf-8")
    source = "from trl import GRPOConfig, TrlParser\n\nTrlParser(GRPOConfig).parse_args_and_config()\n"
    done = launch(tmp_path, source, "--config", "train.yaml")
    assert done.returncode == 2
    assert "script.py, line 3: train.yaml has the key 'lerning_rate', which is not an option" in done.stderr
    assert "did you mean 'learning_rate'?" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gbk"])
def test_a_script_in_another_encoding_runs(tmp_path: Path, encoding: str) -> None:
    first = "# coding: gbk\n" if encoding == "gbk" else ""
    launch(tmp_path, "")
    (tmp_path / "script.py").write_text(f"{first}print(ascii('训练'))\n", encoding=encoding)
    done = subprocess.run(
        [sys.executable, "-m", "dunwu.run", "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "\\u8bad\\u7ec3" in done.stdout


def test_a_script_that_configures_logging_gets_every_line_once(tmp_path: Path) -> None:
    source = """
import logging
from trl import GRPOConfig

GRPOConfig(output_dir="before", report_to="none", vllm_device="auto")
logging.basicConfig(level=logging.INFO)
GRPOConfig(output_dir="after", report_to="none", vllm_dtype="auto")
"""
    done = launch(tmp_path, source)
    assert done.returncode == 0, done.stderr
    printed = done.stdout + done.stderr
    assert printed.count("ignored: vllm_device (") == 1
    assert printed.count("ignored: vllm_dtype (") == 1


SPAWNING = """
import multiprocessing, random, sys
import trl

def look(number):
    config = trl.GRPOConfig(output_dir="o", report_to="none")
    return trl.__version__, config.beta, __name__, random.random(), sys.argv[1:]

if __name__ == "__main__":
    pool = multiprocessing.get_context("METHOD").Pool(2)
    try:
        found = pool.map_async(look, range(2), chunksize=1).get(timeout=120)
    finally:
        pool.terminate()
    seeded = random.Random(42).random()
    assert all(answer[3] != seeded for answer in found), "workers draw their own random numbers"
    print("FOUND", [answer[:3] for answer in found], [answer[4] for answer in found])
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_a_script_starts_find_dunwu_s_trl_and_its_options(tmp_path: Path, method: str) -> None:
    done = launch(tmp_path, SPAWNING.replace("METHOD", method), "--mine", before=("--trl", "0.14"))
    assert done.returncode == 0, done.stdout + done.stderr
    answer = ("1.16.0+dunwu", 0.04, "__mp_main__")
    assert f"FOUND {[answer, answer]} {[['--mine'], ['--mine']]}" in done.stdout


def test_a_pin_beside_the_script_decides_about_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("trl==0.17.0\n", encoding="utf-8")
    done = launch(tmp_path, "from trl import GRPOConfig\n\nGRPOConfig(output_dir='o', report_to='none')\n")
    assert "default of TRL 0.17.0 (pinned in requirements.txt): beta=0.04, loss_type='bnpo'" in done.stdout


@pytest.mark.slow
def test_trl_s_own_script_for_grpo_runs_as_it_is(tmp_path: Path) -> None:
    """Its rewards by name, a mixture of datasets from YAML, and a reward function of the user's that logs."""
    from dunwu.embedded import embedded_model_path

    spec = importlib.util.find_spec("trl")
    if spec is None or spec.origin is None:
        pytest.skip("TRL is not installed")
    (tmp_path / "data").mkdir()
    rows = "".join(json.dumps({"prompt": f"{n} 3 4 = {n + 7}", "solution": str(n)}) + "\n" for n in range(1, 13))
    (tmp_path / "data" / "train.jsonl").write_text(rows, encoding="utf-8")
    (tmp_path / "mine.py").write_text(
        "def short(completions, log_metric, log_extra, trainer_state, **columns):\n"
        "    log_metric('mine/step', trainer_state.global_step)\n"
        "    log_extra('solution', columns['solution'])\n"
        "    return [-float(len(text)) for text in completions]\n",
        encoding="utf-8",
    )
    (tmp_path / "config.yaml").write_text(
        f"datasets: [{{path: {tmp_path / 'data'}}}]\n"
        f"model_name_or_path: {embedded_model_path()}\n"
        "reward_funcs: [think_format_reward, get_soft_overlong_punishment, mine.short]\n"
        "loss_type: sapo\nsapo_temperature_pos: 0.9\nuse_vllm: true\nbf16: false\n"
        "output_dir: out\nmax_steps: 2\nper_device_train_batch_size: 8\nnum_generations: 4\n"
        "max_completion_length: 12\nreport_to: none\nlogging_steps: 1\n",
        encoding="utf-8",
    )
    script = Path(spec.origin).parent / "scripts" / "grpo.py"
    done = launch(tmp_path, script.read_text(encoding="utf-8"), "--config", "config.yaml")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    assert "sapo_temperature_pos=0.9 is now loss_options['temperature_pos']" in said
    assert "Training completed" in said
    (state,) = (tmp_path / "out").glob("checkpoint-2/trainer_state.json")
    history = json.loads(state.read_text(encoding="utf-8"))["log_history"]
    assert [log["mine/step"] for log in history if "mine/step" in log] == [0.0, 1.0]
    assert {"rewards/think_format_reward/mean", "rewards/soft_overlong_punishment_reward/mean"} <= set(history[0])


WITH_CTRL_C = """
import os, signal
from trl import GRPOConfig, GRPOTrainer

calls = 0

def stopping(completions, **kwargs):
    global calls
    calls += 1
    if calls == {call}:
        os.kill(os.getpid(), signal.SIGINT)
    return [float(len(text)) for text in completions]

args = GRPOConfig(
    output_dir="out", max_steps=4, per_device_train_batch_size=2, num_generations=4, max_completion_length=6,
    batch_unit="prompts", save_strategy="no", report_to="none", learning_rate=1e-4, logging_steps=1,
)
trainer = GRPOTrainer("{model}", stopping, args, [{{"prompt": f"{{n}} 2 = 9"}} for n in range(8)])
trainer.train()
print("TRAINED", trainer.state.global_step)
"""


@pytest.mark.slow
def test_ctrl_c_in_a_script_saves_and_the_command_that_is_printed_goes_on(tmp_path: Path) -> None:
    from dunwu.embedded import embedded_model_path

    source = WITH_CTRL_C.format(call=2, model=embedded_model_path())
    done = launch(tmp_path, source, before=("--plain",))
    assert done.returncode == 130 and "TRAINED" not in done.stdout
    assert "stopped after step 2 of 4; everything so far is saved in out/checkpoint-2; this goes on:" in done.stderr
    assert "run --resume script.py" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "metrics.jsonl").exists(), "--plain leaves out what the script does not ask for"
    again = launch(tmp_path, source.replace("calls == 2", "calls == 0"), before=("--resume",))
    assert again.returncode == 0 and "TRAINED 4" in again.stdout, again.stderr[-2000:]
    assert (tmp_path / "out" / "curves.png").exists()
