"""Where models and data come from: both hubs by their real clients, mirrors, caches, and no network at all."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dunwu.errors import ModelError
from dunwu.hub import SOURCES, explain_error, locate
from dunwu.hub.offline import hub_state, reachable

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
HEAD = "import time, sys\nfrom dunwu.hub import locate, offline_if_unreachable\n"
LOAD = """
from dunwu.model.loading import load_model, load_tokenizer
from dunwu.tasks.read_rows import read_rows
model = load_model("Qwen/Qwen2.5-0.5B-Instruct")
tokenizer = load_tokenizer("Qwen/Qwen2.5-0.5B-Instruct")
rows = read_rows("openai/gsm8k", split="test", config="main")
print("SUM", round(sum(p.double().abs().sum().item() for p in model.parameters()), 6), len(tokenizer), len(rows))
"""
LOCAL = f"""
from dunwu.hub import locate
from dunwu.tasks.read_rows import read_rows
print("AT", locate("{MODEL}"))
print("ROWS", len(read_rows("openai/gsm8k", split="test", config="main")))
"""


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    hub_state.cache_clear()
    yield
    hub_state.cache_clear()


def test_a_folder_always_wins(tmp_path: Path) -> None:
    for source in SOURCES:
        assert locate(str(tmp_path), source=source) == str(tmp_path)


def test_what_can_only_be_a_path_is_never_looked_up(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        locate(str(tmp_path / "nothing"))


def test_an_unknown_source_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"source='modelscop' is unknown; did you mean 'modelscope'\?"):
        locate("org/name", source="modelscop")
    monkeypatch.setenv("DUNWU_SOURCE", "hff")
    with pytest.raises(ValueError, match=r"DUNWU_SOURCE='hff' is unknown; did you mean 'hf'\?"):
        locate("org/name")


@pytest.mark.slow
def test_both_hubs_give_the_same_model_and_data_and_the_cache_does_without_them(home: Any, dead: str) -> None:
    switch = "import os\nos.environ['DUNWU_SOURCE'] = 'modelscope'\n"
    both = home.run(f"{LOAD}print('NAME', model.name_or_path)\n{switch}{LOAD}").stdout
    assert _line(both, "NAME") == MODEL, "an adapter must find the hub's name, not a folder of this machine"
    kinds = ["modelscope" if "/api/v1/" in asked.path else "hf" for asked in home.server.requests]
    assert kinds == sorted(kinds) and set(kinds) == {"hf", "modelscope"}, "one hub, and after the switch the other"
    assert home.server.asked("/api/v1/models") and home.server.asked("/api/v1/datasets")
    assert not home.server.asked("FilePath=pytorch_model.bin"), "weights in an old form are left out"

    home.server.requests.clear()
    cached = home.run(LOAD, HF_ENDPOINT=dead, MODELSCOPE_ENDPOINT=dead)
    assert cached.stdout.count("this process is offline") == 1, cached.stdout
    local = home.run(LOCAL, DUNWU_SOURCE="local").stdout
    assert home.server.requests == [], "local never touches the network"
    assert _line(local, "ROWS") == "20" and (Path(_line(local, "AT")) / "model.safetensors").is_file()
    sums = [line for line in (both + cached.stdout).splitlines() if line.startswith("SUM")]
    assert len(sums) == 3 and len(set(sums)) == 1 and sums[0].endswith(" 20")


@pytest.mark.parametrize("how", ["refused", "503"])
def test_auto_goes_to_modelscope_when_the_first_hub_is_down(home: Any, dead: str, how: str) -> None:
    if how == "503":
        home.server.misbehaviour.closed.add("hf")
    code = HEAD + f'at = locate("{MODEL}"); data = locate("Jiayi-Pan/Countdown-Tasks-3to4", kind="dataset")\n'
    said = home.run(
        code + 'print("AT", at)\nprint("DATA", data)', **({"HF_ENDPOINT": dead} if how == "refused" else {})
    ).stdout
    assert "trying ModelScope" in said and "is zouxuhong/Countdown-Tasks-3to4 on ModelScope" in said
    assert (Path(_line(said, "AT")) / "model.safetensors").is_file()
    assert list(Path(_line(said, "DATA")).rglob("*.parquet"))


def test_a_mirror_in_hf_endpoint_is_the_hub(home: Any, folders: Any) -> None:
    from hub_server import HubServer

    with HubServer({("model", "org/elsewhere"): folders["model", MODEL]}) as mirror:
        assert (
            home.run(HEAD + 'print(locate("org/elsewhere"))', HF_ENDPOINT=mirror.url).stdout.strip()
            == "org/elsewhere"
        )
        assert mirror.requests and not home.server.requests


@pytest.mark.parametrize("way", ["refused", "silent"])
def test_offline_is_noticed_at_once_and_logged(home: Any, dead: str, silent: Callable[[], str], way: str) -> None:
    address = dead if way == "refused" else silent()
    code = HEAD + (
        "start = time.monotonic()\noffline_if_unreachable()\nprint('FIRST', time.monotonic() - start)\n"
        f'try:\n    locate("{MODEL}")\nexcept ValueError as error:\n    print(error)\n'
        "print('SECONDS', time.monotonic() - start)\n"
        "print('SAID', offline_if_unreachable())\n"
        "import os, huggingface_hub.constants as c\nprint('OFFLINE', c.HF_HUB_OFFLINE, os.environ['HF_HUB_OFFLINE'])"
    )
    said = home.run(code, HF_ENDPOINT=address, MODELSCOPE_ENDPOINT=address).stdout
    assert float(_line(said, "FIRST")) < 5 and float(_line(said, "SECONDS")) < 20
    assert f"'{MODEL}' is not in the cache, and {address} cannot be reached from here" in said
    assert (
        f"dunwu fetch {MODEL} --source modelscope --to DIR`" in said and "HF_ENDPOINT=https://hf-mirror.com" in said
    )
    assert "this process is offline: only what is in the cache is used" in _line(said, "SAID")
    assert _line(said, "OFFLINE") == "True 1"


def test_the_switch_reaches_clients_that_were_imported_before(home: Any, dead: str) -> None:
    code = (
        "import datasets, datasets.config, huggingface_hub\n"
        "assert not huggingface_hub.is_offline_mode() and not datasets.config.HF_HUB_OFFLINE\n"
        "from dunwu.hub import offline_if_unreachable\n"
        "assert offline_if_unreachable()\n"
        "assert huggingface_hub.is_offline_mode() and datasets.config.HF_HUB_OFFLINE"
    )
    home.run(code, HF_ENDPOINT=dead)


def test_a_model_that_is_a_file_is_refused_as_one(tmp_path: Path) -> None:
    """Its bytes are no JSON, which was taken for the answer of a hub."""
    from dunwu.model.loading import load_model

    (tmp_path / "model").write_bytes(b"weights")
    with pytest.raises(ModelError, match=r"model' is a file; give the folder with config\.json and weights"):
        load_model(str(tmp_path / "model"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{cut off", encoding="utf-8")
    with pytest.raises(ValueError) as refused:
        load_model(str(tmp_path / "folder"))
    assert "no hub" not in str(refused.value) and "login page" not in str(refused.value)


def test_a_login_page_in_place_of_a_hub_is_reported_as_one(home: Any) -> None:
    home.server.misbehaviour.login_page = True
    code = HEAD + 'try:\n    locate("org/name", source="hf")\nexcept ValueError as error:\n    print(error)'
    assert "is no hub: a login page of this network, or a wrong HF_ENDPOINT" in home.run(code).stdout


def test_a_name_that_is_typed_right_gets_no_other_suggested(home: Any) -> None:
    code = HEAD + (
        'for name in ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instuct"):\n'
        "    try:\n        locate(name)\n    except ValueError as error:\n        print(error)\n"
    )
    right, wrong = home.run(code, HF_HUB_OFFLINE="1").stdout.splitlines()
    assert right == f"'{MODEL}' is not in the cache, and HF_HUB_OFFLINE is set; unset it, or give a folder"
    assert "did you mean 'Qwen/Qwen2.5-0.5B-Instruct'?" in wrong


def test_offline_mode_set_by_the_user_is_respected_without_a_message(home: Any) -> None:
    code = HEAD + (
        "print('SAID', offline_if_unreachable())\n"
        f'for source in ("auto", "hf"):\n    try:\n        locate("{MODEL}", source=source)\n'
        "    except ValueError as error:\n        print(source, error)\n"
    )
    said = home.run(code, HF_HUB_OFFLINE="1").stdout
    assert _line(said, "SAID") == "None" and home.server.requests == []
    assert f"auto '{MODEL}' is not in the cache, and HF_HUB_OFFLINE is set" in said
    assert f"hf '{MODEL}' is not in the cache, and HF_HUB_OFFLINE is set" in said


def test_what_the_hub_refuses_is_reported_before_anything_is_loaded(home: Any) -> None:
    cases = [
        ("Qwen/Qwen2.5-0.5B-Instuct", "hf", None),
        ("gsm8k", "hf", None),
        (MODEL, "hf", "v9"),
        (MODEL, "modelscope", "v9"),
        ("org/nothing", "modelscope", None),
    ]
    code = HEAD + (
        f"for name, source, revision in {cases!r}:\n"
        "    try:\n        print(locate(name, source=source, revision=revision))\n"
        "    except ValueError as error:\n        print('ERROR', error)\n"
    )
    said = [line for line in home.run(code).stdout.splitlines() if line.startswith("ERROR")]
    assert "or it is private; did you mean 'Qwen/Qwen2.5-0.5B-Instruct'?" in said[0]
    assert "did you mean 'openai/gsm8k'?" in said[1]
    assert "has no such revision" in said[2]
    assert "has no revision 'v9' on ModelScope" in said[3]
    assert "there is no 'org/nothing' at" in said[4] and "--source hf" in said[4]
    assert len(said) == len(cases)


def test_a_hub_that_takes_connections_and_never_answers_is_not_waited_for(home: Any) -> None:
    home.run("import huggingface_hub as h\nh.snapshot_download('org/large')")
    home.server.misbehaviour.hang = True
    code = (
        "import time, huggingface_hub\nfrom dunwu.hub import lookup, offline, repo_files\n"
        "repo_files._SECONDS = offline._SECONDS = 1\nstart = time.monotonic()\n"
        'print("AT", lookup.locate("org/large"))\n'
        'try:\n    lookup.locate("org/nothing", source="hf")\n'
        'except ValueError as error:\n    print("ERROR", error)\n'
        'print("SECONDS", time.monotonic() - start, huggingface_hub.is_offline_mode())'
    )
    said = home.run(code, MODELSCOPE_ENDPOINT="http://127.0.0.1:9").stdout
    assert "takes connections and does not answer, so this process is offline" in said
    assert _line(said, "AT") == "org/large" and "'org/nothing' is not in the cache" in _line(said, "ERROR")
    seconds, offline = _line(said, "SECONDS").split()
    assert float(seconds) < 20 and offline == "True"

    late = home.run(code.replace('print("AT", lookup.locate("org/large"))', "")).stdout
    assert "the hub did not answer in time while 'org/nothing' was read" in _line(late, "ERROR")


@pytest.mark.slow
def test_a_gated_model_names_where_to_ask_and_no_key_is_shown(home: Any) -> None:
    home.server.misbehaviour.gated.add(MODEL)
    key = "hf_" + "k" * 34
    code = (
        "import os, sys\nfrom dunwu.model.loading import load_model\n"
        "for name in ('', 'HF_TOKEN'):\n    if name:\n        os.environ[name] = sys.argv[1]\n"
        f'    try:\n        load_model("{MODEL}")\n    except ValueError as error:\n        print("ERROR", error)\n'
    )
    done = home.run("-c", code, key)
    without, with_key = (line for line in done.stdout.splitlines() if line.startswith("ERROR"))
    assert f"is gated: ask for access at {home.server.url}/{MODEL}, then `" in without
    assert "hf auth login`, or set HF_TOKEN" in without
    assert "your key is known and has no access yet" in with_key
    assert any(asked.token for asked in home.server.requests)
    assert key not in done.stdout + done.stderr


def test_the_proxy_is_what_is_asked_where_one_is_set(monkeypatch: pytest.MonkeyPatch, dead: str, home: Any) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert not reachable(dead)
    hub_state.cache_clear()
    monkeypatch.setenv("HTTP_PROXY", home.server.url)
    assert reachable(dead)
    hub_state.cache_clear()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert not reachable(dead)
    hub_state.cache_clear()
    monkeypatch.delenv("HTTP_PROXY")
    monkeypatch.setenv("ALL_PROXY", home.server.url.removeprefix("http://"))
    monkeypatch.delenv("NO_PROXY")
    assert reachable("http://nowhere.invalid")
    assert not reachable("https://nowhere.invalid"), "this proxy makes no connections"


def test_a_name_server_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:

    def silent(*_: object, **__: object) -> None:
        time.sleep(60)
        raise OSError("timed out")  # the thread that asks outlives this test

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    start = time.monotonic()
    assert not reachable("https://hub.example")
    assert time.monotonic() - start < 8


def test_a_network_that_cuts_the_tls_handshake_counts_as_none() -> None:
    def cut() -> None:
        for _ in range(2):
            taken, _ = listening.accept()
            taken.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=cut, daemon=True).start()
        start = time.monotonic()
        assert not reachable(f"https://127.0.0.1:{listening.getsockname()[1]}")
        assert time.monotonic() - start < 20


def test_a_name_that_does_not_exist_is_no_hub() -> None:
    start = time.monotonic()
    assert not reachable("https://hub.invalid")
    assert time.monotonic() - start < 20


def test_a_damaged_weight_file_is_reported(folders: Any, tmp_path: Path) -> None:
    import shutil

    from dunwu.model.loading import load_model

    shutil.copytree(folders["model", MODEL], tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(
        ValueError, match=r"is cut short or damaged .* `.*dunwu fetch NAME --to .*/model` brings what"
    ):
        load_model(str(tmp_path / "model"))


def test_a_full_disk_is_reported_and_other_errors_are_left_alone() -> None:
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = OSError(28, "No space left on device")
    explained = str(explain_error(wrapped, "org/name"))
    assert "the disk is full" in explained and "HF_HOME" in explained
    for error in (KeyError("x"), OSError("no file named config.json"), ValueError("y"), ConnectionResetError("z")):
        assert explain_error(error, "org/name") is None


@pytest.mark.slow
def test_a_recipe_trains_from_the_source_that_it_names(home: Any, dead: str) -> None:
    recipe = home.folder / "recipe.yaml"
    recipe.write_text(
        f"model: {MODEL}\nsource: hf\ntask: {{name: gsm8k}}\n"
        "train: {output_dir: run, max_steps: 1, prompts_per_step: 2, num_generations: 2, report_to: none,\n"
        "  max_completion_length: 8, save_strategy: 'no', disable_tqdm: true, use_cpu: true}\n",
        encoding="utf-8",
    )
    done = home.run("-m", "dunwu", "train", "recipe.yaml", "--source", "modelscope", HF_ENDPOINT=dead)
    assert home.server.asked("/api/v1/models") and home.server.asked("/api/v1/datasets"), done.stdout
    assert not [asked for asked in home.server.requests if "/resolve/" in asked.path]
    wrong = home.run("-m", "dunwu", "train", "recipe.yaml", "--source", "hugging", ok=False)
    assert wrong.returncode == 2 and "source='hugging' is unknown" in wrong.stderr


def _line(text: str, word: str) -> str:
    """The rest of the line that begins with `word`."""
    return next(line for line in text.splitlines() if line.startswith(f"{word} ")).removeprefix(f"{word} ")
