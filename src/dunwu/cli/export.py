"""`dunwu export RUN --to merged|gguf`: a trained model for transformers, vLLM and llama.cpp."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dunwu._utils.commands import dunwu_command
from dunwu._utils.language import translated
from dunwu.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from dunwu.recipes.trained_model import TrainedModel

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("model", metavar="RUN", help="a run's folder, a model's folder, a hub name, or `embedded`")
    parser.add_argument(
        "--to",
        required=True,
        choices=("merged", "gguf"),
        help="merged: a folder for transformers and vLLM, adapters merged; gguf: a file for llama.cpp",
    )
    parser.add_argument("--out", metavar="PATH", help="the folder or file (default: RUN-merged or RUN.gguf)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the weights (default: as they were saved; of an adapter, as its base was)",
    )
    parser.add_argument(
        "--converter", metavar="FILE", help="write GGUF with llama.cpp's convert_hf_to_gguf.py, for any family"
    )
    parser.epilog = "What can be done with the result: docs/elsewhere.md"


def run(args: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Load, merge, write, and print how it is used."""
    from dunwu.model.export import new_output
    from dunwu.model.gguf import require_gguf
    from dunwu.recipes.trained_model import find_model

    if args.converter and args.to != "gguf":
        raise ConfigError("--converter is for --to gguf")
    if args.to == "gguf" and not args.converter:
        require_gguf()
    found = find_model(args.model)
    out = Path(args.out) if args.out else _default_out(found, args.to)
    with new_output(out) as part:
        model, tokenizer = _loaded(found, args.dtype)
        _write(args, found, model, tokenizer, part)
    print(translated(_told(out, args.to, model)))
    return 0


def _default_out(found: TrainedModel, to: str) -> Path:
    source = Path(found.source)
    if found.run is None:
        name = found.name if found.name == "embedded" or not source.is_dir() else str(source)
    elif source.resolve() == found.run.path.resolve():
        name = str(found.run.path)
    else:
        name = f"{found.run.path}-{source.name}"  # beside the run, whose folders `checkpoint-N` are its own
    name = name.rstrip("/")
    return Path(f"{name}-merged" if to == "merged" else f"{name}.gguf")


def _loaded(found: TrainedModel, dtype: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from dunwu.model.export import adapter_base, tokenizer_beside, whole_model

    base = adapter_base(found.source)
    if base is not None:
        base = _base(base, found)
    recipe: Mapping[str, Any] = found.recipe.get("model_options") or {}
    wanted = ("revision", "trust_remote_code") if base is not None else ("trust_remote_code",)
    tokenizer = tokenizer_beside(found.source, base)
    options = {name: recipe[name] for name in wanted if name in recipe}
    return whole_model(found.source, base=base, dtype=dtype, options=options), tokenizer


def _base(named: str, found: TrainedModel) -> str:
    """Where an adapter's base is: as the adapter says, or, where that folder is of another machine, as its recipe."""
    from dunwu.hub.sources import looks_like_missing_path
    from dunwu.recipes.wiring import model_source

    if named and not looks_like_missing_path(named):
        return named
    recipe = str(found.recipe.get("model", ""))
    if not recipe or looks_like_missing_path(recipe):
        raise ConfigError(
            f"the base of the adapter in {found.source!r} is not known: it names {named!r}, which is not here; "
            "correct base_model_name_or_path in its adapter_config.json"
        )
    return model_source(recipe)


def _write(
    args: argparse.Namespace,
    found: TrainedModel,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    part: Path,
) -> None:
    from dunwu.model.export import save_whole_model
    from dunwu.model.gguf import convert_by_llama_cpp, write_gguf

    if args.to == "merged":
        save_whole_model(model, tokenizer, part, card_of=found.source)
    elif not args.converter:
        write_gguf(model, tokenizer, part, name=Path(found.name).name)
    else:
        with tempfile.TemporaryDirectory(dir=part.parent, prefix=".export-") as folder:
            save_whole_model(model, tokenizer, Path(folder))
            convert_by_llama_cpp(args.converter, Path(folder), part, dtype=model.dtype)


def _told(out: Path, to: str, model: PreTrainedModel) -> str:
    size = sum(file.stat().st_size for file in ([out] if out.is_file() else out.iterdir())) / 1e6
    kind = str(model.dtype).removeprefix("torch.")
    if to == "gguf":
        return f"{out}: {model.config.model_type} in {kind}, {size:,.1f} MB\nnext: llama-cli -m {out}"
    return (
        f"{out}: {model.config.model_type} in {kind}, {size:,.1f} MB, with tokenizer and chat template\n"
        f"next: AutoModelForCausalLM.from_pretrained({str(out)!r}), vllm serve {out}, or {dunwu_command('chat', out)}"
    )
