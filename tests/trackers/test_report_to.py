"""Which trackers a run has, and whether each is online: keys where the trackers keep them, and real sockets."""

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dunwu._utils import reachability
from dunwu._utils.logging import forget_logged_once
from dunwu.config import GRPOConfig
from dunwu.trackers import offline, resolve_report_to

WANDB_KEY = "0123456789abcdef0123456789abcdef01234567"
ANSWER = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home, a folder and an environment without any key, mode or proxy."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("WANDB", "SWANLAB", "MLFLOW", "NETRC")):
            monkeypatch.delenv(name)
    for name in ("WANDB_MODE", "SWANLAB_MODE", "MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "x")  # so that what is set below is taken back at the end
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SWANLAB_CONFIG_DIR", str(tmp_path / "etc"))
    monkeypatch.chdir(tmp_path)
    for name in ("mlflow", "wandb.sdk.wandb_setup"):  # as in a process that has not used them
        monkeypatch.delitem(sys.modules, name, raising=False)
    for service in offline.SERVICES.values():
        monkeypatch.setattr(service, "put_offline_by_us", False)
    forget_logged_once()


@pytest.fixture
def listening() -> Iterator[Callable[..., str]]:
    """Starts a server that gives these answers on every connection, one after another; returns its address."""
    open_lines: list[socket.socket] = []

    def start(*answers: bytes) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        open_lines.append(server)
        threading.Thread(target=serve, args=(server, answers), daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}"

    def serve(server: socket.socket, answers: tuple[bytes, ...]) -> None:
        while True:
            try:
                line, _ = server.accept()
            except OSError:
                return
            with line:
                for answer in answers:
                    line.recv(1024)
                    line.sendall(answer)

    yield start
    for line in open_lines:
        line.shutdown(socket.SHUT_RDWR)
        line.close()


@pytest.fixture
def silent() -> str:
    """An address where nobody listens."""
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{line.getsockname()[1]}"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, []),
        ("none", []),
        ([], []),
        (["none"], []),
        ("tensorboard", ["tensorboard"]),
        (["tensorboard", "trackio", "tensorboard"], ["tensorboard", "trackio"]),
    ],
)
def test_every_way_to_write_report_to_becomes_a_list(given: object, found: list[str]) -> None:
    assert resolve_report_to(given) == found  # type: ignore[arg-type]


def test_all_means_those_that_are_installed() -> None:
    assert {"wandb", "swanlab", "tensorboard", "trackio", "mlflow"} <= set(resolve_report_to("all"))


def test_a_name_that_no_tracker_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"report_to='wanbd' is not a tracker; did you mean 'wandb'\?"):
        resolve_report_to(["tensorboard", "wanbd"])


def test_a_missing_package_is_refused_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ValueError, match=r"trackio is not installed: .*pip install .*\[trackers\]'; or report_to='n"):
        resolve_report_to("trackio")
    with pytest.raises(ValueError, match=r"clearml is not installed: .*pip install clearml"):
        resolve_report_to("clearml")


def test_an_old_script_goes_on_without_a_tracker_that_is_not_installed(caplog: pytest.LogCaptureFixture) -> None:
    assert resolve_report_to(["clearml", "tensorboard"], missing="drop") == ["tensorboard"]
    assert "report_to='clearml', and clearml is not installed: the run goes on without it" in caplog.text


def test_without_a_key_nobody_is_asked_and_the_run_is_offline(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline, "reachable", lambda address: pytest.fail("no key: no connection"))
    resolve_report_to(["wandb", "swanlab"])
    resolve_report_to(["wandb", "swanlab"])
    assert (os.environ["WANDB_MODE"], os.environ["SWANLAB_MODE"]) == ("offline", "offline")
    assert caplog.text.count("wandb: no key was found") == 1
    assert "Upload it later with: swanlab sync swanlog/run-*" in caplog.text


def keys_of_wandb(home: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> Iterator[str]:
    """Puts a key in each of the places where wandb looks, one after another."""
    monkeypatch.setenv("WANDB_API_KEY", WANDB_KEY)
    yield "environment"
    monkeypatch.delenv("WANDB_API_KEY")
    for name, file in (("~/.netrc", home / ".netrc"), ("NETRC", home / "elsewhere")):
        file.write_text(f"machine {host}\n  login user\n  password {WANDB_KEY}\n")
        if name == "NETRC":
            monkeypatch.setenv("NETRC", str(file))
        yield name
        file.unlink()
        monkeypatch.delenv("NETRC", raising=False)
    settings = home / ".config" / "wandb" / "settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"[default]\napi_key = {WANDB_KEY}\n")
    yield "settings file"
    settings.unlink()


def test_a_key_in_any_of_wandbs_places_and_a_server_that_answers_mean_online(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listening: Callable[[bytes], str]
) -> None:
    address = listening(ANSWER)
    monkeypatch.setenv("WANDB_BASE_URL", address)
    for place in keys_of_wandb(tmp_path, monkeypatch, address.removeprefix("http://")):
        resolve_report_to("wandb")
        assert "WANDB_MODE" not in os.environ, place
    assert getattr(sys.modules.get("wandb.sdk.wandb_setup"), "_singleton", None) is None, "wandb can still be set up"
    resolve_report_to("wandb")
    assert os.environ["WANDB_MODE"] == "offline"


def test_a_key_in_any_of_swanlabs_places_and_a_server_that_answers_mean_online(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listening: Callable[[bytes], str]
) -> None:
    address = listening(ANSWER)
    key = "password Zq8sWanLabKey4tests77"
    places = {
        ".swanlab/.netrc": f"machine {address}\n  login {address}\n  {key}\n",
        "swanlab.yaml": f"api_key: Zq8sWanLabKey4tests77\napi_host: {address}\n",
        ".env": f"SWANLAB_API_KEY=Zq8sWanLabKey4tests77\nSWANLAB_API_HOST={address}\n",
    }
    for name, text in places.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        resolve_report_to("swanlab")
        assert "SWANLAB_MODE" not in os.environ, name
        path.unlink()
    resolve_report_to("swanlab")
    assert os.environ["SWANLAB_MODE"] == "offline"


def test_a_server_that_does_not_answer_means_offline_until_it_does(
    monkeypatch: pytest.MonkeyPatch,
    silent: str,
    listening: Callable[[bytes], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", WANDB_KEY)
    monkeypatch.setenv("WANDB_BASE_URL", silent)
    resolve_report_to("wandb")
    assert os.environ["WANDB_MODE"] == "offline"
    assert f"wandb: its server {silent.removeprefix('http://')} does not answer" in caplog.text
    assert WANDB_KEY not in caplog.text
    monkeypatch.setenv("WANDB_BASE_URL", listening(ANSWER))
    resolve_report_to("wandb")
    assert "WANDB_MODE" not in os.environ


@pytest.mark.parametrize("mode", ["online", "disabled"])
def test_a_mode_that_the_user_has_set_wins(mode: str, monkeypatch: pytest.MonkeyPatch, silent: str) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_BASE_URL", silent)
    resolve_report_to("wandb")
    assert os.environ["WANDB_MODE"] == mode


def test_the_old_switch_that_turned_wandb_off_still_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DISABLED", "true")
    assert resolve_report_to(["wandb", "tensorboard"]) == ["tensorboard"]


def test_a_proxy_is_asked_for_the_connection(
    monkeypatch: pytest.MonkeyPatch, listening: Callable[[bytes], str], silent: str
) -> None:
    connected = b"HTTP/1.1 200 Connection established\r\n\r\n"
    monkeypatch.setenv("https_proxy", listening(connected, b"HTTP/1.1 400 Not TLS\r\n\r\n"))
    assert reachability.reachable("https://tracker.invalid")
    monkeypatch.setenv("https_proxy", listening(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"))
    assert not reachability.reachable("https://tracker.invalid")
    monkeypatch.setenv("https_proxy", silent)
    assert not reachability.reachable("https://tracker.invalid")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    spoken_to = listening(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert reachability.reachable(spoken_to.replace("http:", "https:")), "it answers, if not in TLS"
    assert not reachability.reachable(listening().replace("http:", "https:")), "cut at the first word"
    assert reachability.reachable(listening(ANSWER))


def test_a_proxy_of_another_kind_is_asked_itself(
    monkeypatch: pytest.MonkeyPatch, listening: Callable[..., str], silent: str
) -> None:
    for kind in ("socks5", "socks5h", "socks4"):
        monkeypatch.setenv("all_proxy", listening(b"\x05\xff").replace("http:", f"{kind}:"))
        assert reachability.reachable("https://tracker.invalid"), kind
        monkeypatch.setenv("all_proxy", silent.replace("http:", f"{kind}:"))
        assert not reachability.reachable("https://tracker.invalid"), kind


def test_no_password_of_an_address_is_sent_or_repeated(
    monkeypatch: pytest.MonkeyPatch, silent: str, caplog: pytest.LogCaptureFixture
) -> None:
    with_password = silent.replace("http://", "http://me:S3cretWord@")
    monkeypatch.setenv("WANDB_API_KEY", WANDB_KEY)
    monkeypatch.setenv("SWANLAB_API_KEY", "Zq8sWanLabKey4tests77")
    for name in ("WANDB_BASE_URL", "SWANLAB_API_HOST", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, with_password)
    resolve_report_to(["wandb", "swanlab", "mlflow"])
    host = silent.removeprefix("http://")
    assert f"wandb: its server {host} does not answer" in caplog.text
    assert f"swanlab: its server {host} does not answer" in caplog.text
    assert f"mlflow: the server {silent} does not answer" in caplog.text
    assert "S3cretWord" not in caplog.text


def test_settings_that_a_tracker_cannot_read_keep_it_offline(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "no address")
    resolve_report_to("wandb")
    assert os.environ["WANDB_MODE"] == "offline"
    assert "wandb: its settings cannot be read (" in caplog.text


def test_mlflow_without_a_server_or_with_a_silent_one_is_kept_here(
    monkeypatch: pytest.MonkeyPatch, silent: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resolve_report_to("mlflow")
    assert "MLFLOW_TRACKING_URI" not in os.environ  # its own default store is what is wanted
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent)
    resolve_report_to("mlflow")
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert f"mlflow: the server {silent} does not answer; this run is recorded on this machine" in caplog.text


def test_mlflow_without_database_packages_writes_plain_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "alembic", None)
    resolve_report_to("mlflow")
    assert os.environ["MLFLOW_TRACKING_URI"] == (tmp_path / "mlruns").as_uri()
    assert os.environ["MLFLOW_ALLOW_FILE_STORE"] == "true"


def test_options_with_a_token_are_refused_because_every_checkpoint_would_hold_it() -> None:
    token = "hf_" + "a1B2" * 8
    refusals: list[dict[str, Any]] = [{"hub_token": token}, {"model_init_kwargs": {"token": token}}]
    for options in refusals:
        with pytest.raises(ValueError, match=r"token contains a key, .*training_args.bin.*HF_TOKEN") as refused:
            GRPOConfig(output_dir="out", report_to=[], **options)
        assert token not in str(refused.value)
