"""Compiled decoding steps: where they are kept, what happens without them, and rows that never touch each other."""

from __future__ import annotations

import getpass
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from dunwu.core.records import SamplingParams
from dunwu.engines import FastEngine
from dunwu.engines.fast import cpu_kernel_build
from dunwu.engines.fast.cpu_kernel import MAX_LAYER_BYTES, CpuKernelDecoder, unsupported_reason
from dunwu.engines.fast.cpu_kernel_build import load_library
from dunwu.engines.fast.decoder import Decoder

NEEDS_COMPILER = pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="needs a C compiler")


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    """A user's cache folder with nothing in it, and no library remembered before or after the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DUNWU_NATIVE", raising=False)
    load_library.cache_clear()
    yield tmp_path / "cache" / "dunwu"
    load_library.cache_clear()


def works(tiny, *, compiled):
    """Whether an engine that may compile gives the completions of one that may not, by the steps that it should."""
    model, sampling = tiny.model("llama").eval(), SamplingParams(n=2, max_new_tokens=6)
    engine, plain = (FastEngine(model, tiny.tokenizer(), cpu_kernel=native) for native in (True, False))
    ids = [
        [c.ids for group in e.generate(tiny.prompts("a", "what"), sampling) for c in group] for e in (engine, plain)
    ]
    with torch.inference_mode():
        assert type(engine.decoder()) is (CpuKernelDecoder if compiled else Decoder)
    return ids[0] == ids[1]


@NEEDS_COMPILER
def test_the_library_is_compiled_once_and_kept_in_the_users_cache_folder(tiny, cache_folder):
    """Two seconds at every start would be more than a small run takes; scratch files left behind add up."""
    assert works(tiny, compiled=True)
    (kept,) = cache_folder.iterdir()
    os.utime(kept, (1_000_000_000, 1_000_000_000))
    load_library.cache_clear()
    assert works(tiny, compiled=True)
    assert [path.name for path in cache_folder.iterdir()] == [kept.name]
    assert kept.suffix == ".so" and kept.stat().st_mtime == 1_000_000_000
    assert cache_folder.stat().st_mode & 0o077 == 0, "what is loaded as code is nobody else's to write"


@pytest.mark.parametrize("way", ["DUNWU_NATIVE", "PATH"])
def test_without_a_compiler_or_where_it_is_switched_off_torch_does_the_work(
    tiny, cache_folder, monkeypatch, caplog, way
):
    """Without a compiler rollouts are three times slower, which nobody was told; who switches it off knows."""
    monkeypatch.setenv(way, "0" if way == "DUNWU_NATIVE" else str(cache_folder))
    with caplog.at_level(logging.INFO, logger="dunwu"):
        reason = unsupported_reason(tiny.model(), torch.float32)
        assert reason is not None and "no C compiler" in reason and "DUNWU_NATIVE is 0" in reason
        assert works(tiny, compiled=False)
        load_library.cache_clear()
        assert works(tiny, compiled=False)
    assert not cache_folder.exists()
    told = [r.getMessage() for r in caplog.records if "three times as long" in r.getMessage()]
    assert len(told) == (way == "PATH")
    assert all("there is no C compiler (cc, gcc, clang)" in sentence for sentence in told)


def fake_compiler(folder: Path, monkeypatch, script: str) -> None:
    folder.mkdir()
    for name in ("cc", "gcc", "clang"):
        compiler = folder / name
        compiler.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo no room on this ship >&2; exit 1", "no room on this ship"),
        # It succeeds, and what it makes (after -o, the twelfth word at the latest) is no library.
        ('while [ "$1" != "-o" ]; do shift; done; echo nonsense > "$2"', "file too short"),
    ],
    ids=["fails", "makes nonsense"],
)
def test_a_compiler_that_does_not_work_is_reported_once_and_not_needed(
    tiny, cache_folder, monkeypatch, caplog, script, words
):
    """A user whose compiler is broken has a working trainer, and knows why it is slow."""
    fake_compiler(cache_folder.parent.parent / "bin", monkeypatch, script)
    with caplog.at_level(logging.INFO, logger="dunwu"):
        assert works(tiny, compiled=False)
        assert works(tiny, compiled=False)
    (said,) = [r.getMessage() for r in caplog.records if "compiled decoding steps are off" in r.getMessage()]
    assert words in said


def test_what_is_not_compiled_has_a_reason(tiny):
    """Half precision, and models that no cache of a CPU holds: torch's own products are better there."""
    assert "float32" in (unsupported_reason(tiny.model(), torch.bfloat16) or "")
    assert "float32" in (unsupported_reason(tiny.model().to(torch.bfloat16), torch.float32) or "")
    assert "float32" in (unsupported_reason(tiny.model().to("meta"), torch.float32) or "")
    # Two layers of three 32 × inner products: one more than a cache holds.
    wide = MAX_LAYER_BYTES // (2 * 3 * 32 * 4)
    assert "caches" in (unsupported_reason(tiny.model(intermediate_size=wide), torch.float32) or "")


# -- whose library is loaded ----------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """A compiler that takes little care."""
    monkeypatch.setattr(cpu_kernel_build, "_FLAGS", ("-O0", "-shared", "-fPIC"))


@pytest.fixture
def temporary(tmp_path, monkeypatch, cache_folder, quick):
    """The folder for temporary files, in a process whose cache folder cannot be made."""
    cache_folder.parent.write_text("a file where a folder should be", encoding="utf-8")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp" / f"dunwu-{os.getuid()}"


@NEEDS_COMPILER
def test_a_user_id_without_a_name_and_without_a_home_decodes_with_the_kernel(temporary, monkeypatch):
    """`docker run --user 54321`, OpenShift: the first rollout ended in a KeyError of getpass, or of Path.home."""

    def nobody(*_):
        raise KeyError("getpwuid(): uid not found: 54321")

    def homeless(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(getpass, "getuser", nobody)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert load_library() is not None
    assert [path.suffix for path in temporary.iterdir()] == [".so"]


AS_NOBODY = """
import os
from dunwu.engines.fast import cpu_kernel_build
from dunwu.engines.fast.cpu_kernel_build import load_library
cpu_kernel_build._FLAGS = ("-O0", "-shared", "-fPIC")
os.setgroups([])
os.setgid(54321)
os.setuid(54321)
print(load_library() is not None)
"""


@NEEDS_COMPILER
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can take another user id")
def test_a_process_of_a_user_id_without_a_name_finds_or_does_without_the_kernel():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        environment |= {"TMPDIR": folder, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", AS_NOBODY]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        kept = list(Path(folder).glob("dunwu-54321/*.so"))
        assert done.stdout.splitlines()[-1] == str(bool(kept))


@NEEDS_COMPILER
def test_a_folder_that_is_a_link_is_not_used_though_it_leads_to_a_folder_of_ours(temporary):
    """Anyone can put a link to a folder of ours that others may write to into the shared temporary folder."""
    open_to_all = temporary.parent / "ours"
    open_to_all.mkdir()
    temporary.symlink_to(open_to_all)
    assert load_library() is None
    assert not list(open_to_all.iterdir())


@NEEDS_COMPILER
@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_may_write_to_is_not_used(temporary, mode):
    temporary.mkdir()
    temporary.chmod(mode)
    assert load_library() is None
    assert not list(temporary.iterdir())


@NEEDS_COMPILER
@pytest.mark.parametrize("how", ["a link", "others may write", "another's"])
def test_a_file_that_others_may_have_made_is_made_anew_and_not_loaded(cache_folder, quick, how):
    """The name is predictable; what lay there ran with this user's rights."""
    assert load_library() is not None
    (library,) = cache_folder.iterdir()
    planted = cache_folder.parent / "planted.so"
    planted.write_bytes(b"not what was compiled")
    library.unlink()
    if how == "a link":
        library.symlink_to(planted)
    else:
        shutil.copy(planted, library)
        library.chmod(0o777 if how == "others may write" else 0o700)
    if how == "another's":
        if os.getuid() != 0:
            pytest.skip("only root can give a file away")
        os.chown(library, 54321, 54321)
    load_library.cache_clear()
    assert load_library() is not None
    assert not library.is_symlink() and library.stat().st_uid == os.getuid()
    assert library.stat().st_mode & 0o022 == 0
    assert planted.read_bytes() == b"not what was compiled"


# -- rows that never touch each other --------------------------------------------------------------------------------


@torch.inference_mode()
def logits_of_rows(decoder, ids, steps=6):
    """All prompts in one batch, then so many greedy steps: the logits of every row, (P, steps + 1, V)."""
    lengths = [len(row) for row in ids]
    width = max(lengths)
    cache = decoder.make_cache(len(ids), width + steps)
    padded = torch.tensor([[*row, *[0] * (width - len(row))] for row in ids])
    slots = torch.arange(len(ids)).unsqueeze(1)
    found = [decoder.prefill(padded, torch.tensor(lengths), slots, cache).clone()]
    for step in range(steps):
        positions = torch.tensor(lengths) + step
        found.append(decoder.step(found[-1].argmax(dim=1), positions, width + steps, cache).clone())
    return torch.stack(found, dim=1)


@NEEDS_COMPILER
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
def test_a_row_is_the_same_to_the_last_bit_whatever_rows_are_beside_it_and_however_many_threads(tiny, family):
    """40 rows are a whole chunk of 24 and a part, and tiles of six and of four; alone, a row is a tile of one."""
    model = tiny.model(family, hidden_size=40, num_attention_heads=5, num_key_value_heads=1, intermediate_size=44)
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(5, 80, (1 + i % 13,), generator=generator).tolist() for i in range(40)]
    with torch.inference_mode():
        decoder = CpuKernelDecoder(model.eval())
        decoder.extend_rope(64)
    alone = torch.cat([logits_of_rows(decoder, [row]) for row in ids])
    assert len({tuple(row) for row in alone[:, -1].argmax(dim=1, keepdim=True).tolist()}) > 3
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for rows in (ids, ids[:5], ids[:11], ids[1:39]):
                start = ids.index(rows[0])
                assert torch.equal(logits_of_rows(decoder, rows), alone[start : start + len(rows)])
    finally:
        torch.set_num_threads(1)


@NEEDS_COMPILER
def test_completions_are_the_same_to_the_last_bit_with_any_number_of_rows(tiny):
    """What the engine promises beyond its ids: with compiled steps the log-probabilities do not move either."""
    model, prompts = tiny.model("qwen2").eval(), tiny.prompts("a", "what is 2+2", "hello there")
    model.generation_config.eos_token_id = list(range(5, 25))
    sampling = SamplingParams(n=5, max_new_tokens=20)
    every = [FastEngine(model, tiny.tokenizer(), max_rows=r).generate(prompts, sampling) for r in (None, 1, 4, 7)]
    assert all(groups == every[0] for groups in every)
