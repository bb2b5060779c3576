"""`dunwu fetch`: whole repositories in plain folders, gone on with after a kill, every hash checked."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dunwu.hub.download import _check_room
from dunwu.hub.repo_files import File, _safe

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
LARGE = ("org/large", "model.safetensors")
FETCH = """
import json, sys
from dunwu.hub import fetch
for name, to, more in json.loads(sys.argv[1]):
    try:
        r = fetch(name, to, **more)
        print(json.dumps([r.kind, r.source, r.files, r.bytes, r.commit, r.reused, list(r.skipped)]))
    except ValueError as error:
        print(json.dumps(str(error)))
"""


def fetched(home: Any, *calls: tuple[str, str, dict[str, Any]], **environment: str) -> list[Any]:
    """What each call of `fetch` reported, or its error as text; all in one process."""
    done = home.run("-c", FETCH, json.dumps(calls), **environment)
    return [json.loads(line) for line in done.stdout.splitlines() if line[:1] in '["']


def same(folder: Path, original: Path, *, but: tuple[str, ...] = ()) -> bool:
    """Whether both hold the same files, hidden ones left out."""

    def content(base: Path) -> dict[str, bytes]:
        files = [path for path in base.rglob("*") if path.is_file()]
        names = {path.relative_to(base).as_posix(): path for path in files}
        return {name: path.read_bytes() for name, path in names.items() if name[0] != "." and name not in but}

    return content(folder) == content(original)


@pytest.mark.parametrize("source", ["hf", "modelscope"])
def test_a_model_and_a_dataset_come_whole_and_are_left_alone_the_second_time(
    home: Any, folders: Any, source: str
) -> None:
    calls = [
        (MODEL, "model", {"source": source}),
        ("openai/gsm8k", "data/gsm8k", {"source": source}),
        (MODEL, "model", {"source": source}),
        ("org/twin", "twin", {"source": source}),
        ("org/twin", "twin", {"source": source, "kind": "dataset"}),
    ]
    model, data, again, twin, chosen = fetched(home, *calls)
    assert model[:2] == ["model", source] and data[:2] == ["dataset", source]
    assert model[5] == 0 and model[6] == ["pytorch_model.bin"] and model[2] == again[2] == again[5]
    assert same(home.folder / "model", folders["model", MODEL], but=("pytorch_model.bin",))
    assert same(home.folder / "data" / "gsm8k", folders["dataset", "openai/gsm8k"])
    asked = "/resolve/" if source == "hf" else "FilePath="
    weights = [each for each in home.server.asked(asked) if "model.safetensors" in each.path]
    assert len(weights) == 1, "what is there and whole is not asked for again"
    assert "there is a model 'org/twin' and a dataset 'org/twin'; say which" in twin
    assert chosen[0] == "dataset"
    assert model[4] == ("master" if source == "modelscope" else model[4]) and (
        source == "modelscope" or len(model[4]) == 40
    )


@pytest.mark.parametrize("source", ["hf", "modelscope"])
def test_a_killed_download_goes_on_where_it_stopped(home: Any, folders: Any, source: str) -> None:
    home.server.misbehaviour.stall[LARGE] = 25 << 20
    code = f'from dunwu.hub import fetch\nfetch("org/large", "large", source="{source}", kind="model")'
    running = subprocess.Popen(
        [sys.executable, "-c", code], cwd=home.folder, env=home.environment(), stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while _on_disk(home.folder / "large") < 18 << 20 and time.monotonic() < deadline:
        time.sleep(0.1)
    running.kill()
    running.wait()
    home.server.misbehaviour.stall.clear()
    before = _on_disk(home.folder / "large")
    home.server.requests.clear()
    (report,) = fetched(home, ("org/large", "large", {"source": source, "kind": "model"}))
    assert report[5] == 1, "config.json came whole the first time"
    ranges = [asked.range for asked in home.server.requests if asked.method == "GET" and asked.range]
    assert len(ranges) == 1 and ranges[0].startswith("bytes="), ranges
    started = int(ranges[0].removeprefix("bytes=").split("-")[0])
    assert 18 << 20 <= started <= before
    assert same(home.folder / "large", folders["model", "org/large"])
    assert not (home.folder / "large" / ".cache" / "dunwu").exists()


@pytest.mark.parametrize("source", ["hf", "modelscope"])
def test_a_connection_that_breaks_half_way_is_taken_up_again(home: Any, folders: Any, source: str) -> None:
    home.server.misbehaviour.cut[LARGE] = 1
    (report,) = fetched(home, ("org/large", "large", {"source": source, "kind": "model"}))
    assert report[2] == 2 and same(home.folder / "large", folders["model", "org/large"])
    assert any(asked.range for asked in home.server.requests), "the second request asks for the rest"


def test_wrong_bytes_come_again_once_and_then_are_named(home: Any, folders: Any) -> None:
    home.server.misbehaviour.wrong = {LARGE: 1, (MODEL, "model.safetensors"): 99, (MODEL, "config.json"): 1}
    repaired, refused = fetched(
        home, ("org/large", "large", {"source": "hf", "kind": "model"}), (MODEL, "model", {"source": "hf"})
    )
    assert repaired[2] == 2 and same(home.folder / "large", folders["model", "org/large"])
    assert "model.safetensors of" in refused and "came twice with other bytes than the hub lists" in refused
    assert "config.json of" not in refused
    assert not (home.folder / "model" / "model.safetensors").exists(), "wrong bytes are not left to be loaded"


@pytest.mark.slow
def test_wrong_bytes_from_modelscope_are_named_too(home: Any) -> None:
    home.server.misbehaviour.wrong = {(MODEL, "model.safetensors"): 99}
    (refused,) = fetched(home, (MODEL, "model", {"source": "modelscope"}))
    assert "model.safetensors" in refused and "other bytes" in refused


def test_a_damaged_file_in_the_folder_is_replaced_and_the_others_are_kept(home: Any, folders: Any) -> None:
    (home.folder / "model").mkdir()
    whole = folders["model", MODEL] / "config.json"
    (home.folder / "model" / "config.json").write_bytes(whole.read_bytes())
    half = (folders["model", MODEL] / "model.safetensors").read_bytes()[:5000]
    (home.folder / "model" / "model.safetensors").write_bytes(half)
    (report,) = fetched(home, (MODEL, "model", {"source": "hf"}))
    assert report[5] == 1 and same(home.folder / "model", folders["model", MODEL], but=("pytorch_model.bin",))


def test_every_refusal_is_a_sentence(home: Any, dead: str) -> None:
    home.server.misbehaviour.gated.add("org/large")
    gated, revision, nothing, here, path, local = fetched(
        home,
        ("org/large", "a", {"source": "hf"}),
        (MODEL, "b", {"source": "hf", "revision": "v9"}),
        ("openai/gsm8", "c", {"source": "hf"}),
        (str(home.folder), "d", {}),
        ("./nothing", "e", {}),
        (MODEL, "f", {"source": "local"}),
    )
    assert "is gated: ask for access at" in gated and "org/large" in gated
    assert "has no such revision" in revision
    assert "did you mean 'openai/gsm8k'?" in nothing
    assert "is on this machine already" in here
    assert "there is no folder './nothing'" in path
    assert "source=local fetches nothing" in local
    start = time.monotonic()
    (off,) = fetched(home, (MODEL, "g", {}), HF_ENDPOINT=dead, MODELSCOPE_ENDPOINT=dead)
    assert f"{dead} cannot be reached from here" in off and "--source modelscope" in off
    assert time.monotonic() - start < 40, "seconds, where the clients alone take minutes"


def test_auto_fetches_from_modelscope_when_the_first_hub_is_down(home: Any, folders: Any, dead: str) -> None:
    (report,) = fetched(home, ("Jiayi-Pan/Countdown-Tasks-3to4", "data", {}), HF_ENDPOINT=dead)
    assert report[:2] == ["dataset", "modelscope"]
    assert same(home.folder / "data", folders["dataset", "zouxuhong/Countdown-Tasks-3to4"])


def test_a_disk_without_room_is_said_before_the_download(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1000000000\.00 GB are still to come and .* GB free"):
        _check_room(tmp_path, [File("weights", 10**18, None, None)])


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "..\\b"])
def test_a_hub_cannot_write_outside_the_folder(path: str) -> None:
    with pytest.raises(ValueError, match="would lie outside the folder"):
        _safe(path)


@pytest.mark.slow
def test_the_command_says_what_came_and_what_is_next_and_the_data_can_be_read(home: Any) -> None:
    model = home.run("-m", "dunwu", "fetch", MODEL, "--to", "m").stdout
    assert f"model {MODEL} from the Hugging Face hub" in model and "left out" in model
    assert "next: dunwu train gsm8k --model m" in model
    data = home.run("-m", "dunwu", "fetch", "openai/gsm8k", "--to", "d", "--source", "modelscope").stdout
    assert "dataset openai/gsm8k from ModelScope, master: 4 files" in data
    assert "next: dunwu train gsm8k --task.source d" in data
    wrong = home.run("-m", "dunwu", "fetch", "org/nothing", "--to", "n", "--source", "hf", ok=False)
    assert wrong.returncode == 2 and wrong.stderr.startswith("dunwu fetch: there is no 'org/nothing'")
    code = (
        "from dunwu.tasks import get_task\nfrom dunwu.tasks.read_rows import read_rows\n"
        "print(len(read_rows('d', split='test', config='main')), len(read_rows('d', config='socratic')))\n"
        "task = get_task('gsm8k', source='d')\nprint(task.rows('test')[0]['question'])\n"
        "try:\n    read_rows('d', split='nothing', config='main')\nexcept ValueError as error:\n    print(error)\n"
    )
    read = home.run(code, HF_HUB_OFFLINE="1").stdout
    assert read.startswith("20 60\nWhat is 0+1?") and "'d' could not be read" in read


def _on_disk(folder: Path) -> int:
    return max((path.stat().st_size for path in folder.rglob("*") if path.is_file()), default=0)


@pytest.mark.parametrize("path", ["../escape.txt", "/etc/passwd", "a/../../b", "..\\b"])
def test_a_listed_path_that_leads_out_of_the_folder_is_refused(path: str) -> None:
    from dunwu.hub.repo_files import File

    with pytest.raises(ValueError, match="outside of the folder"):
        File(path=path, size=1, sha256=None, git_sha1=None)
    assert File(path="a/b..c.txt", size=1, sha256=None, git_sha1=None).path == "a/b..c.txt"
