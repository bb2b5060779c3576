"""The tutorials' scripts on TRL itself: where each one stops, the smallest edit that goes on, until it trains.

A script of `tests/tutorials/as_printed` is run by plain Python with the TRL that is installed;
the error it stops with is looked up among its edits, the edit is made in a copy, and it is run again. At the end:
what it trained with. Models and data are the tests' stand-ins, from a server on this machine. The tables of
`docs/trl_beside_us.md` are made of what this prints. (To run old scripts on Dunwu: `dunwu run`.)

    python benchmarks/old_scripts_on_trl.py                     # all four: about two minutes
    python benchmarks/old_scripts_on_trl.py t1 --work FOLDER    # keeps the edited copies and their output
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from _common import ROOT

AS_PRINTED = ROOT / "tests" / "tutorials" / "as_printed"
SECONDS = 900
"""Most that one run may take."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One stop, and what goes past it."""

    says: str
    """Part of the error."""
    changes: tuple[tuple[str, str], ...]
    """What is replaced by what, in whichever of the tutorial's files holds it; the first place only."""
    because: str = "versions"
    """`versions`; `no GPU`, `no package` or `no account` where it would also stop a user of 2025 on this machine."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """A tutorial's script, its command line, and the edits that TRL needs, in any order."""

    name: str
    edits: tuple[Edit, ...]
    folder: str = ""
    arguments: tuple[str, ...] = ()


def renamed(old: str, line: str, new: str = "") -> Edit:
    """A keyword that is gone: the line goes too, or gets its new name."""
    return Edit(says=f"unexpected keyword argument '{old}'", changes=((line, new),))


WARMUP = renamed("warmup_ratio", "    warmup_ratio=0.1,\n", "    warmup_steps=0.1,\n")
PROMPT_LENGTH = renamed("max_prompt_length", "    max_prompt_length=256,\n")
NO_GPU = Edit(
    says="Your setup doesn't support bf16/gpu",
    changes=(("    bf16=True,\n", "    bf16=True, use_cpu=True,\n"),),
    because="no GPU",
)
NO_KEY = Edit(
    says="No API key configured",
    changes=(('report_to="wandb"', 'report_to="none"'),),
    because="no account",
)

SCRIPTS: dict[str, Script] = {
    "t1": Script(
        name="t1_course.py",
        edits=(
            WARMUP,
            PROMPT_LENGTH,
            renamed("vllm_device", '    vllm_device="cuda:0",\n'),
            NO_GPU,
            Edit(
                says="generation_batch_size (4) must be divisible by num_generations (16)",
                changes=(("per_device_train_batch_size=1,", "per_device_train_batch_size=4,"),),
            ),
            Edit(
                says="FlashAttention2 has been toggled on",
                changes=((' attn_implementation="flash_attention_2",', ""),),
                because="no package",
            ),
            Edit(
                says="Torch not compiled with CUDA enabled",
                changes=(('.to("cuda")', '.to("cpu")'),),
                because="no GPU",
            ),
            NO_KEY,
        ),
    ),
    "t2": Script(
        name="t2_notebook.py",
        edits=(
            Edit(
                says="wandb.errors",
                changes=(('wandb.login(key="3f9c1e07d2ab48565cb0e94f7a1d8863be20457f")\n', ""),),
                because="no account",
            ),
            WARMUP,
            PROMPT_LENGTH,
            NO_GPU,
            NO_KEY,
        ),
    ),
    "t3": Script(
        folder="t3",
        name="train_Datawhale-R1.py",
        arguments=("--config", "Datawhale-R1.yaml", "--max_steps", "2", "--max_completion_length", "48"),
        edits=(
            Edit(
                says="conflicting option string: --project",
                changes=(
                    ("    project: str\n", "    swanlab_project: str\n"),
                    ("swanlab_args.project", "swanlab_args.swanlab_project"),
                    ("\nproject: ", "\nswanlab_project: "),
                ),
            ),
            Edit(
                says="Your setup doesn't support bf16/gpu",
                changes=(("bf16: true\n", "bf16: true\nuse_cpu: true\n"),),
                because="no GPU",
            ),
            Edit(says="--tf32 requires Ampere", changes=(("tf32: true\n", ""),), because="no GPU"),
            Edit(
                says="Unknown arguments from config file",
                changes=(
                    ("\ntorch_dtype: ", "\ndtype: "),
                    ("\nwarmup_ratio: ", "\nwarmup_steps: "),
                    ("max_prompt_length: 256\n", ""),
                    ("vllm_device: auto\n", ""),
                ),
            ),
            Edit(
                says="no attribute 'trust_remote_code'",
                changes=(("        trust_remote_code=model_args.trust_remote_code,\n", ""),),
            ),
            Edit(
                says="vLLM is not available",
                changes=(("use_vllm: true", "use_vllm: false"),),
                because="no package",
            ),
            Edit(
                says="Failed to initialize SwanLab",
                changes=(("swanlab: true", "swanlab: false"),),
                because="no account",
            ),
        ),
    ),
    "t4": Script(
        folder="t4",
        name="train_grpo.py",
        edits=(
            Edit(
                says="Your setup doesn't support bf16/gpu",
                changes=(("logging_steps=10)", "logging_steps=10, use_cpu=True)"),),
                because="no GPU",
            ),
        ),
    ),
}


def stops(script: Script, work: Path, url: str) -> Iterator[tuple[str, Edit | None]]:
    """Run, edit, run … until it ends well, or with an error that no edit is known for (the last, with None)."""
    if script.folder:
        shutil.copytree(AS_PRINTED / script.folder, work)
    else:
        work.mkdir()
        shutil.copy(AS_PRINTED / script.name, work)
    left = list(script.edits)
    while (error := error_of(script, work, url)) is not None:
        edit = next((e for e in left if e.says in error), None)
        yield error, edit
        if edit is None:
            return
        left.remove(edit)
        for old, new in edit.changes:
            files = {f: f.read_text(encoding="utf-8") for f in sorted(work.glob("*.*")) if f.is_file()}
            file = next((f for f, text in files.items() if old in text), None)
            if file is None:
                raise SystemExit(f"{script.name} does not hold {old!r}, which an edit replaces; mend the edit")
            file.write_text(files[file].replace(old, new, 1), encoding="utf-8")


def error_of(script: Script, work: Path, url: str) -> str | None:
    """The line of the error that ends the script; None where it ends well. All it prints goes to `work/LOG`."""
    home = work / "home"
    home.mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": url,
        "OMP_NUM_THREADS": "1",
        "HTTPS_PROXY": "http://127.0.0.1:9",  # nobody listens there: nothing leaves this machine
        "NO_PROXY": "127.0.0.1,localhost",
    }
    done = subprocess.run(
        [sys.executable, script.name, *script.arguments],
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    (work / "LOG").write_text(done.stdout, encoding="utf-8")
    if done.returncode == 0:
        return None
    errors = re.findall(r"^[\w.]*(?:Error|Exception)\b.*", done.stdout, flags=re.MULTILINE)
    return str(errors[-1] if errors else done.stdout.strip().splitlines()[-1])


TRAINED_WITH = """
import json, sys, warnings
from pathlib import Path
import torch
warnings.simplefilter("ignore")
last = sorted(Path(".").glob("**/checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))[-1]
args = torch.load(last / "training_args.bin", weights_only=False)
state = json.loads((last / "trainer_state.json").read_text())
print(f"{args.generation_batch_size // args.num_generations} prompt(s) × {args.num_generations} completions a step,",
      f"{state['global_step']} steps;", ", ".join(f"{n}={getattr(args, n)}" for n in sys.argv[1:]))
"""
SHOWN = ("beta", "loss_type", "temperature", "max_completion_length", "warmup_steps", "gradient_checkpointing")


def trained_with(work: Path) -> str:
    """What the last checkpoint's own files say about the run."""
    command = [sys.executable, "-c", TRAINED_WITH, *SHOWN]
    return subprocess.run(command, cwd=work, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Print a table for each script, and what it trained with in the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scripts", nargs="*", default=[], help="t1, t2, t3, t4; none: all")
    parser.add_argument("--work", type=Path, help="a new folder for copies and output; default: a temporary one")
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "tutorials")]
    from standins import build

    from hub_server import HubServer

    work = args.work or Path(tempfile.mkdtemp())
    print(", ".join(f"{name} {version(name)}" for name in ("trl", "transformers", "accelerate", "torch")))
    with HubServer(build(work / "stand-ins")) as hub:
        for name in args.scripts or SCRIPTS:
            print(f"\n## {name}: {SCRIPTS[name].name}\n")
            print("| step | TRL says | because of | what had to change |\n|---|---|---|---|", flush=True)
            table(SCRIPTS[name], work / name, hub.url)


def table(script: Script, work: Path, url: str) -> None:
    """The rows of one script."""
    for step, (error, edit) in enumerate(stops(script, work, url), 1):
        if edit is None:
            raise SystemExit(f"{script.name} stops with an error that no edit is known for: {error}")
        edits = "; ".join(f"{shown(old)} → {shown(new)}" for old, new in edit.changes)
        print(f"| {step} | {error} | {edit.because} | {edits} |", flush=True)
    print(f"\nIt trained: {trained_with(work)}", flush=True)


def shown(text: str) -> str:
    """An edit's text on one line, without a key that may be in it."""
    line = re.sub(r"[0-9a-f]{40}", "…", " ".join(text.split()).rstrip(","))
    return f"`{line}`" if line else "gone"


if __name__ == "__main__":
    main()
