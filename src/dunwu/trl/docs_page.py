"""Prints docs/trl_arguments.md from the entries that handle the arguments.

python -m dunwu.trl.docs_page > docs/trl_arguments.md
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dunwu.training.trainer_arguments import TRL_ARGUMENTS
from dunwu.trl.arguments import LEGACY_ARGUMENTS, LegacyArgument
from dunwu.trl.supported_names import ALTERNATIVES, SUPPORTED
from dunwu.trl.versioned_defaults import VERSIONED, defaults_of

__all__ = ["page"]

_INTRO: Final = """# Arguments of earlier TRL versions

*Printed by `python -m dunwu.trl.docs_page` from the code that handles them; do not edit.*

`dunwu run script.py` runs a script written for TRL 0.14 to 1.16 unmodified. In a notebook, put `import dunwu.compat`
before all other lines; with several processes, use `accelerate launch … -m dunwu.run script.py …`. `GRPOConfig` takes
every argument below and [all of today's](../src/dunwu/config.py); whatever is replaced or ignored is logged at the
start.
"""

_EXCLUDED: Final = """## What "any script" excludes

Scripts that train with GRPO on text run; what a script may use besides is this.

- **Other trainers and their data**: the names in the table below are refused with their line, before anything is
  loaded.
- **Images, tools and rollouts of the script's own**: a processor or a column of images, and the arguments of
  `GRPOTrainer` in the second table, are refused.
- **Arguments that would change the run**: the table *Refused* at the end of this page. With `use_vllm` and the like a
  run is another one in speed only: completions come from Dunwu's engine.
- **What reaches into TRL's trainer**: a subclass that overrides how TRL samples, scores or computes its loss is
  refused with the plug that takes its place; `trainer._metrics` and the like are not there. Callbacks, `log`,
  `create_optimizer` and the rest of transformers' trainer work.
- **Modules for TRL's own use**: `trl.extras`, `trl.import_utils`, `trl.experimental`.

What runs and differs on purpose: masked completions leave the denominator of the loss; the KL's correction takes each
token's own ratio, also with `importance_sampling_level='sequence'`; `loss_type='luspo'` takes the ratio of sequences
without being told; `disable_dropout` is on; a script's `log_metric('reward', …)` is logged as `logged/reward`, beside
the run's own; a column that two rewards log with `log_extra` is kept twice.
"""

_BATCH: Final = """## What the batch size counts

`per_device_train_batch_size` counted prompts in TRL 0.14 and has counted completions since. Read the wrong way, a
step is too small or too large by a factor of `num_generations`. With `batch_unit: auto`:

- a script that uses an argument newer than 0.14 counts completions, if batch × accumulation × processes is a multiple
  of `num_generations`;
- otherwise a batch of **1** a device counts prompts: no group fits into one completion;
- otherwise it counts completions if batch × accumulation × processes is a multiple of `num_generations`, else
  prompts.

The launch logs how the batch was read, and what the other reading would have been. `dunwu run --batch-unit
prompts|completions` decides it, and so does `prompts_per_step`, which counts prompts on all processes.

| tutorial | processes × batch × accumulation, G | read as | a step |
|---|---|---|---|
| T1, course | 1 × 1 × 4, 16 | prompts | 4 prompts × 16 |
| T2, notebook | 1 × 16 × 4, 16 | completions | 4 prompts × 16 |
| T3, Datawhale-R1 | 2 × 1 × 8, 8 | prompts | 16 prompts × 8 |
"""

_VERSIONS_TEXT: Final = """## What a script leaves out

Defaults changed, and a tutorial relies on those of its time. Every launch logs `beta`, `loss_type` and `temperature`,
where each comes from, and the command that takes another version's defaults. The version is inferred in this order:

1. `dunwu run --trl 0.14 script.py` decides (in a notebook: `dunwu.compat.set_options(trl_version="0.14")`).
2. A pin decides: `trl==0.14.0` in the script's text, or in a `requirements.txt` beside it.
3. A batch that holds no whole group of completions is for 0.14: every later version refuses it.
4. A script that gives an argument which TRL has dropped since (`max_prompt_length`, `vllm_device`, …) is old. If it
   gives none that came after 0.15, it is read as one for 0.15. This is a presumption: tutorials of early 2025 look
   like this, and a later script may too. Otherwise it is read as one for the newest version that still used every
   argument it gives.
5. If nothing tells, today's defaults are used. TRL's quick start is such a script: it has `beta=0`, so no reference
   model and no `kl` metric; `--trl 0.14` brings both back.

Arguments of transformers, such as `warmup_ratio` or `torch_dtype`, say little about TRL, which runs with many
versions of it. `evaluation_strategy` does: TRL 0.19 and later need a transformers without it.
"""

_AROUND: Final = """## What else is replaced

Only in a process that runs a script for TRL, and logged the first time it has an effect:

- without CUDA, `.to("cuda")`, `.cuda()` and `device_map="cuda"` use the device there is; flash attention that is not
  installed becomes `sdpa`;
- `torch_dtype` in `from_pretrained` is `dtype`; `apply_chat_template` returns the list of ids that transformers 4
  returned;
- two dataclasses may share an option's name (`project`, `trust_remote_code`): both get its value;
- models and data are looked up by `source` (`dunwu run --source modelscope`, or `DUNWU_SOURCE`); what cannot be found
  is an error at once;
- `wandb.login`, `wandb.init`, `swanlab.login`, `swanlab.init` without a key or a network continue offline; a literal
  key in the script causes a warning with its line;
- Python's and numpy's random numbers start from seed 42 on every process, so that a split without a seed is the same
  on all of them and after a resume;
- processes that the script starts with `multiprocessing` (spawn or forkserver) find the same `trl`;
- `completion_length` and `rewards/<function>` are logged beside today's names.

A launcher comes before all of this: `accelerate launch --config_file deepspeed_zero3.yaml` stops if DeepSpeed is not
installed. Leave the file out: `accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no
--dynamo_backend no -m dunwu.run script.py …` (on CPUs with `ACCELERATE_USE_CPU=true` before it).
"""

_VERSIONS: Final = ("0.15", "0.17", "0.18", "0.21", "0.25", "1.9", "1.16")


def page() -> str:
    """The whole page, in Markdown."""
    parts = [_INTRO, _names(), _EXCLUDED, _excluded(), _BATCH, _VERSIONS_TEXT, _defaults(), "", _AROUND]
    return "\n".join([*parts, _arguments(), ""])


def _names() -> str:
    return (
        f"TRL's names: {', '.join(f'`{name}`' for name in sorted(SUPPORTED))}.\n"
        "A script that is certain to use another one is refused before anything is loaded, with what to use\n"
        "instead; one that may use it (in a branch, or in a function that nothing calls) is refused if it gets\n"
        "there, and `hasattr(trl, …)` is false.\n"
    )


def _excluded() -> str:
    names = [f"| {', '.join(f'`{part}`' for part in parts)} | {sentence} |" for parts, sentence in ALTERNATIVES]
    arguments = [f"| `{name}` | {instead} |" for name, instead in TRL_ARGUMENTS.items() if name != "tokenizer"]
    heads = ["| names of TRL with | instead |", "|---|---|"], ["| argument of `GRPOTrainer` | instead |", "|---|---|"]
    return "\n".join([*heads[0], *names, "", *heads[1], *arguments, ""])


def _defaults() -> str:
    heads = " | ".join(f"until {version}" for version in _VERSIONS[:-1])
    lines = [f"| option | {heads} | today |", "|---" * (len(_VERSIONS) + 1) + "|"]
    by_version = [defaults_of(version) for version in _VERSIONS]
    lines += [f"| `{name}` | " + " | ".join(str(found[name]) for found in by_version) + " |" for name in VERSIONED]
    return "\n".join([*lines, "", "With vLLM, TRL 0.14 and 0.15 sampled from all tokens (`top_k` 0)."])


def _arguments() -> str:
    rows = LEGACY_ARGUMENTS.values()
    return "\n".join(
        [
            "## Replaced",
            "",
            *_table("what happens", (row for row in rows if row.migrate is not None)),
            "",
            "## Refused",
            "",
            "The run would not be what the script says.",
            "",
            *_table("why, and what to do", (row for row in rows if row.refused)),
            "",
            "## Ignored",
            "",
            *_table("why", (row for row in rows if row.is_ignored)),
        ]
    )


def _table(title: str, rows: Iterable[LegacyArgument]) -> list[str]:
    """One line a reason, with all its arguments."""
    by_note: dict[str, list[str]] = {}
    for row in rows:
        fine = ", ".join(f"`{value}`" for value in row.silent_values) if row.refused else ""
        by_note.setdefault(row.note, []).append(f"`{row.name}` ({row.versions}{f'; {fine} is fine' if fine else ''})")
    return [
        f"| argument | {title} |",
        "|---|---|",
        *(f"| {', '.join(names)} | {note} |" for note, names in by_note.items()),
    ]


if __name__ == "__main__":
    print(page(), end="")
