"""`dunwu fetch`: whole repositories in plain folders, gone on with after a kill, every hash checked."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dunwu.errors import HubError
from dunwu.hub.download import _check_room, _Part
from dunwu.hub.repo_files import File

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
    assert "there is a model 'org/twin' and a dataset 'org/twin'; choose one" in twin
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


def test_a_file_with_wrong_bytes_is_downloaded_once_more_and_then_named(home: Any, folders: Any) -> None:
    home.server.misbehaviour.wrong = {LARGE: 1, (MODEL, "model.safetensors"): 99, (MODEL, "config.json"): 1}
    repaired, refused = fetched(
        home, ("org/large", "large", {"source": "hf", "kind": "model"}), (MODEL, "model", {"source": "hf"})
    )
    assert repaired[2] == 2 and same(home.folder / "large", folders["model", "org/large"])
    assert "model.safetensors of" in refused and "differed twice from what the hub lists" in refused
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


def test_every_refusal_is_one_sentence(home: Any, dead: str) -> None:
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


def test_a_full_disk_is_reported_before_the_download(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1000000000\.00 GB are still to be downloaded and .* GB free"):
        _check_room(tmp_path, [File("weights", 10**18, None, None)])


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "..\\b", "C:b", ""])
def test_a_hub_cannot_write_outside_the_folder(path: str) -> None:
    with pytest.raises(HubError, match="would lie outside the folder"):
        File(path, 1, None, None)
    assert File("a/b..c.txt", 1, None, None).path == "a/b..c.txt"


def test_a_hub_cannot_write_files_that_git_acts_on_and_must_give_sizes() -> None:
    with pytest.raises(HubError, match=r"'\.git/hooks/pre-commit', which git would act on"):
        File(".git/hooks/pre-commit", 1, None, None)
    for size in ("1", -1, None):
        with pytest.raises(HubError, match="for its size"):
            File("weights", size, None, None)  # type: ignore[arg-type]


def test_a_commit_that_is_a_path_is_refused_before_anything_is_written(home: Any) -> None:
    """Clients make file names of it: huggingface_hub would write three levels above the folder."""
    home.server.misbehaviour.commit = "../../../../ESCAPED"
    (home.folder / "a" / "b").mkdir(parents=True)
    evil, located = fetched(home, (MODEL, "a/b/model", {"source": "hf"})), home.run(
        f'from dunwu.hub import locate\ntry:\n    locate("{MODEL}")\nexcept ValueError as error:\n    print(error)'
    )  # fmt: skip
    assert "gives '../../../../ESCAPED' for the commit of" in evil[0] and "do not trust this hub" in evil[0]
    assert "do not trust this hub" in located.stdout
    assert not list(home.folder.rglob("*ESCAPED*")) and not list(home.folder.parent.glob("*ESCAPED*"))
    home.server.misbehaviour.commit = None
    (whole,) = fetched(home, (MODEL, "a/b/model", {"source": "hf"}))
    assert len(whole[4]) == 40


def test_a_file_that_does_not_end_where_it_should_is_cut_off(tmp_path: Path) -> None:
    with _Part(tmp_path / "part", 5, threading.Event()) as growing:
        growing.write(b"12345")
        with pytest.raises(HubError, match="sends more than the 5 bytes that it lists"):
            growing.write(b"6")
    with _Part(tmp_path / "part", 5, threading.Event()) as resumed, pytest.raises(HubError, match="more than"):
        resumed.write(b"6")


def test_a_hub_that_sends_more_than_it_lists_fills_no_disk(home: Any) -> None:
    home.server.misbehaviour.padding = {LARGE: 30 << 20}
    (refused,) = fetched(home, ("org/large", "large", {"source": "hf", "kind": "model"}))
    assert "sends more than the 41943040 bytes that it lists" in refused
    assert _on_disk(home.folder / "large") <= 40 << 20


def test_an_empty_repository_is_nothing_to_fetch(home: Any, folders: Any, tmp_path: Path) -> None:
    from hub_server import HubServer

    (tmp_path / "nothing").mkdir()
    with HubServer({("model", "org/empty"): tmp_path / "nothing"}) as hub:
        (refused,) = fetched(home, ("org/empty", "empty", {"source": "hf"}), HF_ENDPOINT=hub.url)
    assert "'org/empty' is an empty repository" in refused


def test_files_of_ones_own_are_not_replaced(home: Any) -> None:
    own = home.folder / "project"
    own.mkdir()
    (own / "README.md").write_text("# My own project\n", encoding="utf-8")
    (refused,) = fetched(home, (MODEL, "project", {"source": "hf"}))
    assert (
        f"'project' has files of these names that are not from '{MODEL}': README.md; give another folder" in refused
    )
    assert (own / "README.md").read_text(encoding="utf-8") == "# My own project\n"


def test_a_password_in_the_hubs_address_is_never_repeated(home: Any, dead: str) -> None:
    secret = dead.replace("http://", "http://me:S3cretWord@")
    code = (
        "from dunwu.hub import fetch, locate\n"
        "for call in (lambda: locate('org/name'), lambda: fetch('org/name', 'to')):\n"
        "    try:\n        call()\n    except ValueError as error:\n        print('ERROR', error)\n"
        "from dunwu.hub import offline_if_unreachable\nprint(offline_if_unreachable())"
    )
    done = home.run(code, HF_ENDPOINT=secret, MODELSCOPE_ENDPOINT=secret)
    assert done.stdout.count("ERROR") == 2 and dead in done.stdout
    assert "S3cretWord" not in done.stdout + done.stderr


def test_an_endpoint_without_https_is_refused(home: Any) -> None:
    code = "from dunwu.hub import locate\ntry:\n    locate('org/name')\nexcept ValueError as error:\n    print(error)"
    printed = home.run(code, HF_ENDPOINT="hf-mirror.com").stdout
    assert "HF_ENDPOINT='hf-mirror.com' is not a URL; write it in full: HF_ENDPOINT=https://hf-mirror.com" in printed
    assert "cannot be reached" not in printed


@pytest.mark.slow
def test_the_command_prints_what_was_downloaded_and_what_is_next_and_the_data_can_be_read(home: Any) -> None:
    model = home.run("-m", "dunwu", "fetch", MODEL, "--to", "m").stdout
    assert f"model {MODEL} from the Hugging Face hub" in model and "left out" in model
    assert "\nnext: " in model and "dunwu train gsm8k --model m " in model
    data = home.run("-m", "dunwu", "fetch", "openai/gsm8k", "--to", "d", "--source", "modelscope").stdout
    assert "dataset openai/gsm8k from ModelScope, master: 4 files" in data
    assert "dunwu train gsm8k --task.source d" in data
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
