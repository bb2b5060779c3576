"""The page on old arguments, printed from the rows that handle them.

What it is: `python -m dunwu.trl.docs_page > docs/old_arguments.md`; a test holds the page against it.
What it is not: written by hand anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dunwu.trl.arguments import OLD, Old
from dunwu.trl.supported_names import HERE
from dunwu.trl.versioned_defaults import DATED, defaults_of

__all__ = ["page"]

_INTRO: Final = """# Arguments of then

*Printed by `python -m dunwu.trl.docs_page`, from the code that handles them; do not edit.*

`dunwu run script.py` runs a script written for TRL 0.14 to 1.16 unmodified; in a notebook `import dunwu.compat` comes
before its other lines, and with several processes it is `accelerate launch … -m dunwu.run script.py …`. Its
`GRPOConfig` takes every argument below beside [all of today's](../src/dunwu/config.py). Whatever is mapped or set
aside is said at the start.
"""

_BATCH: Final = """## What the batch size counts

`per_device_train_batch_size` counted prompts in TRL 0.14 and counts completions since. Read the wrong way, a step is
as many times too small or too large as a group has completions. The rule (`batch_unit: auto`): a batch of **1** a
device means prompts, for no group fits into one completion; otherwise it means completions where batch × accumulation
× processes holds whole groups, else prompts. The launch prints what was understood and what the other reading would
be. `dunwu run --batch-unit prompts|completions` decides it; so does `prompts_per_step`, which needs no reading.

| tutorial | processes × batch × accumulation, G | read as | a step |
|---|---|---|---|
| T1, course | 1 × 1 × 4, 16 | prompts | 4 prompts × 16 |
| T2, notebook | 1 × 16 × 4, 16 | completions | 4 prompts × 16 |
| T3, Datawhale-R1 | 2 × 1 × 8, 8 | prompts | 16 prompts × 8 |
"""

_ERAS: Final = """## What a script leaves out

Defaults changed, and a tutorial relies on those of its time. `dunwu run --trl 0.14 script.py` says which time that
is. Without it, the newest TRL that still used every argument the script gives: one with `vllm_device` is of 0.15 or
before, one with `max_prompt_length` of 0.27 or before. A script that nothing dates gets today's. What is taken from
then is printed.
"""

_AROUND: Final = """## What else an old script finds

Only in a process that runs one, and said the first time it does something:

- without CUDA, `.to("cuda")`, `.cuda()` and `device_map="cuda"` go to what the machine has; flash attention that is
  not installed is `sdpa`;
- `torch_dtype` in `from_pretrained` is `dtype`; `apply_chat_template` gives the list of ids that transformers 4 gave;
- two dataclasses may share an option's name (`project`, `trust_remote_code`): both get its value;
- names of models and data are looked up by `source` (`dunwu run --source modelscope`), and what cannot be had is said
  at once;
- `wandb.login`, `wandb.init`, `swanlab.login`, `swanlab.init` without a key or a network go on offline; a literal
  key in the script is warned of, by its line;
- Python's and numpy's random numbers start from seed 42 on every process, so that a split without a seed is the same
  for all of them and after a resume;
- `completion_length` and `rewards/<function>` are logged beside today's names.

A launcher comes before any of this: `accelerate launch --config_file deepspeed_zero3.yaml` stops where DeepSpeed is
not installed. Leave the file out: `accelerate launch --multi_gpu --num_processes 2 --num_machines 1
--mixed_precision no --dynamo_backend no -m dunwu.run script.py …` (on CPUs with `ACCELERATE_USE_CPU=true` before
it).
"""

_VERSIONS: Final = ("0.15", "0.17", "0.18", "0.21", "0.25", "1.9", "1.16")


def page() -> str:
    """The whole page, in Markdown."""
    return "\n".join(
        [_INTRO, _names(), _BATCH, _ERAS, _defaults(), "", _AROUND, "## One by one", "", _arguments(), ""]
    )


def _names() -> str:
    return (
        f"Of TRL's names there are {', '.join(f'`{name}`' for name in sorted(HERE))}. Any other stops the script\n"
        "before anything is loaded, with what to use instead.\n"
    )


def _defaults() -> str:
    heads = " | ".join(f"until {version}" for version in _VERSIONS[:-1])
    lines = [f"| option | {heads} | today |", "|---" * (len(_VERSIONS) + 1) + "|"]
    by_version: list[Mapping[str, Any]] = [defaults_of(version) for version in _VERSIONS]
    lines += [f"| `{name}` | " + " | ".join(str(then[name]) for then in by_version) + " |" for name in DATED]
    return "\n".join(lines)


def _arguments() -> str:
    rows = ["| then | who knew it | now |", "|---|---|---|"]
    return "\n".join(rows + [_line(row) for row in OLD.values()])


def _line(row: Old) -> str:
    if row.refused:
        quiet = f" ({', '.join(f'`{value}`' for value in row.quiet)} is fine)" if row.quiet else ""
        return f"| `{row.name}` | {row.when} | **refused**{quiet}: {row.now} |"
    if row.act is None:
        return f"| `{row.name}` | {row.when} | set aside: {row.now} |"
    return f"| `{row.name}` | {row.when} | {row.now} |"


if __name__ == "__main__":
    print(page(), end="")
