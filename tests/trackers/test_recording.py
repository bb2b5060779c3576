"""All five trackers in one run, offline, with the real packages; each is then read back from what it left on disk."""

import json
import os
import socket
import sqlite3
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    # the trackers' own affairs, met while reading back what they wrote
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

WANDB_KEY = "0123456789abcdef0123456789abcdef01234567"
SWANLAB_KEY = "Zq8sWanLabKey4tests77"
LITERAL_KEY = "fedcba9876543210fedcba9876543210fedcba98"

SCRIPT = """
    from dunwu.trackers import patch_tracker_logins

    patch_tracker_logins()
    import wandb
    from swanlab.integration.transformers import SwanLabCallback
    import swanlab

    wandb.login(key="LITERAL_KEY")
    swanlab.login(api_key="LITERAL_KEY")

    from dunwu import GRPOConfig, GRPOTrainer
    from dunwu.embedded import embedded_model_path

    def sevens(completions, **_):
        return [float(len(text) % 7) for text in completions]

    def sometimes(completions, **_):
        return [1.0 if i % 2 else None for i, _ in enumerate(completions)]

    config = GRPOConfig(
        output_dir="out", max_steps=3, prompts_per_step=2, num_generations=4, max_completion_length=12,
        logging_steps=1, log_completions=True, save_steps=3, disable_tqdm=True, TRACKERS
    )
    rows = [{"prompt": f"{i} 4 5 = {i + 20}"} for i in range(8)]
    trainer = GRPOTrainer(str(embedded_model_path()), [sevens, sometimes], config, rows, CALLBACKS)
    trainer.train()
"""


def free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])


def run(folder: Path, script: str, **environment: str) -> str:
    """What the script printed; it has a home of its own, and servers that do not answer."""
    (folder / "script.py").write_text(textwrap.dedent(script), encoding="utf-8")
    nobody = f"http://127.0.0.1:{free_port()}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "SWANLAB", "MLFLOW", "TRACKIO"))}
    home = {"HOME": str(folder / "home"), "HF_HOME": str(folder / "hf"), "WANDB_BASE_URL": nobody}
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env={**kept, **home, "SWANLAB_API_HOST": nobody, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run's folder and what it printed. Keys are in the environment and in the script, and nobody answers."""
    folder = tmp_path_factory.mktemp("recorded")
    script = SCRIPT.replace("TRACKERS", "report_to=['wandb', 'swanlab', 'tensorboard', 'trackio', 'mlflow']")
    script = script.replace("LITERAL_KEY", LITERAL_KEY).replace(", CALLBACKS", "")
    return folder, run(folder, script, WANDB_API_KEY=WANDB_KEY, SWANLAB_API_KEY=SWANLAB_KEY)


def records(path: Path) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, which wandb and SwanLab both write."""
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield whole
            whole = b""


def the(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def rewards(folder: Path) -> list[float]:
    """The truth, from the trainer's own state."""
    state = json.loads((folder / "out/checkpoint-3/trainer_state.json").read_text(encoding="utf-8"))
    return [entry["reward"] for entry in state["log_history"] if "reward" in entry]


COLUMNS = ["step", "prompt", "completion", "sevens", "sometimes", "reward", "advantage", "finish_reason"]


def test_wandb_has_scalars_and_tables_in_the_same_rows(recorded: tuple[Path, str]) -> None:
    from wandb.proto import wandb_internal_pb2

    folder, _ = recorded
    history = []
    for data in records(the(folder, "wandb/offline-run-*/run-*.wandb")):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            history.append({name: json.loads(value) for name, value in items.items()})
    stepped = [row for row in history if "train/reward" in row]
    assert [row["train/reward"] for row in stepped] == pytest.approx(rewards(folder))
    assert [row["train/global_step"] for row in stepped] == [1, 2, 3]
    for row in stepped:
        file = the(folder, f"wandb/offline-run-*/files/{row['completions/path']}")
        table = json.loads(file.read_text(encoding="utf-8"))
        assert table["columns"] == COLUMNS
        assert len(table["data"]) == 8
        assert table["data"][0][0] == row["train/global_step"]


def test_swanlab_has_scalars_and_tables(recorded: tuple[Path, str]) -> None:
    from swanlab.proto.swanlab.record.v1 import record_pb2

    folder, _ = recorded
    found = {}
    for data in records(the(folder, "swanlog/run-*/run-*.swanlab")):
        record = record_pb2.Record()
        record.ParseFromString(data)
        if record.scalar.key == "train/reward":
            found[record.scalar.step] = record.scalar.value.number
    assert found == pytest.approx(dict(enumerate(rewards(folder), 1)))
    tables = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("swanlog/run-*/media/echarts/*")]
    assert sorted(table["rowData"][0]["step"] for table in tables) == [1, 2, 3]
    assert [column["field"] for column in tables[0]["colDefs"]] == COLUMNS


def test_tensorboard_has_scalars_and_tables(recorded: tuple[Path, str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = recorded
    events = EventAccumulator(str(the(folder, "out/runs/*")))
    events.Reload()
    assert [event.value for event in events.Scalars("train/reward")] == pytest.approx(rewards(folder))
    texts = events.Tensors("completions/text_summary")
    assert [text.step for text in texts] == [1, 2, 3]
    table = texts[0].tensor_proto.string_val[0].decode()
    assert table.splitlines()[0] == f"| {' | '.join(COLUMNS)} |"
    assert len(table.splitlines()) == 2 + 8
    assert "<answer>" not in table and "&lt;answer&gt;" in "".join(
        text.tensor_proto.string_val[0].decode() for text in texts
    )


def test_trackio_has_scalars_and_tables(recorded: tuple[Path, str]) -> None:
    folder, _ = recorded
    with sqlite3.connect(the(folder, "hf/trackio/huggingface.db")) as store:
        entries: list[dict[str, Any]] = [json.loads(row[0]) for row in store.execute("select metrics from metrics")]
    store.close()
    assert [entry["train/reward"] for entry in entries if "train/reward" in entry] == pytest.approx(rewards(folder))
    tables = [entry for entry in entries if "completions" in entry]
    assert [entry["train/global_step"] for entry in tables] == [1, 2, 3]
    assert list(tables[0]["completions"]["_value"][0]) == COLUMNS


def test_mlflow_has_scalars_and_tables_and_a_finished_run(recorded: tuple[Path, str]) -> None:
    folder, _ = recorded
    with sqlite3.connect(folder / "mlflow.db") as store:
        (status,) = store.execute("select status from runs").fetchone()
        values = store.execute("select value from metrics where key = 'reward' order by step").fetchall()
    store.close()
    assert status == "FINISHED"
    assert [value for (value,) in values] == pytest.approx(rewards(folder))
    for step in (1, 2, 3):
        path = the(folder, f"mlruns/0/*/artifacts/completions/step_{step:06}.json")
        table = json.loads(path.read_text(encoding="utf-8"))
        assert table["columns"] == COLUMNS
        assert len(table["data"]) == 8


def test_offline_trackers_are_logged_once_with_the_command_that_uploads(recorded: tuple[Path, str]) -> None:
    _, printed = recorded
    for name, command in (("wandb", "wandb sync wandb/offline-run-*"), ("swanlab", "swanlab sync swanlog/run-*")):
        said = [line for line in printed.splitlines() if line.startswith(f"{name}: its server 127.0.0.1:")]
        assert len(said) == 1
        assert said[0].endswith(f"does not answer; this run is recorded offline. Upload it later with: {command}")
    assert printed.count("mlflow: no MLFLOW_TRACKING_URI is set; this run is recorded on this machine") == 1


def test_no_key_is_printed_or_in_any_file_of_the_run(recorded: tuple[Path, str]) -> None:
    """Neither those of the environment nor the one that the script logs in with; the trackers' files included."""
    folder, printed = recorded
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "script.py"]
    assert any(path.name == "training_args.bin" for path in files)
    for key in (WANDB_KEY, SWANLAB_KEY, LITERAL_KEY):
        assert key not in printed
        holders = [str(path.relative_to(folder)) for path in files if key.encode() in path.read_bytes()]
        assert holders == []


def test_swanlabs_own_callback_runs_without_a_key_and_without_report_to(tmp_path: Path) -> None:
    """As the Countdown tutorial has it: `SwanLabCallback(workspace=…, project=…, experiment_name=…)`, online."""
    callback = 'callbacks=[SwanLabCallback(workspace="w", project="p", experiment_name="e", mode="cloud")]'
    script = SCRIPT.replace("TRACKERS", "report_to='none'").replace("CALLBACKS", callback)
    script = script.replace('    swanlab.login(api_key="LITERAL_KEY")\n', "").replace("LITERAL_KEY", LITERAL_KEY)
    printed = run(tmp_path, script)
    assert "swanlab: no key was found (set SWANLAB_API_KEY, or log in once with `swanlab login`)" in printed
    assert len(list(tmp_path.glob("swanlog/run-*/media/echarts/*"))) == 3
    assert b"train/reward" in the(tmp_path, "swanlog/run-*/run-*.swanlab").read_bytes()


def test_trackio_has_one_run_for_training_and_what_comes_after_it(tmp_path: Path) -> None:
    """Its callback closed the run after training: an evaluation opened a second one, and `finish` raised."""
    script = SCRIPT.replace("TRACKERS", "report_to='trackio'").replace(", CALLBACKS", ", eval_dataset=rows[:2]")
    script = "\n".join(line for line in script.splitlines() if "wandb" not in line and "swanlab" not in line.lower())
    script += """
    trainer.evaluate()
    trainer.train()
    import trackio
    trackio.finish()
    """
    printed = run(tmp_path, script)
    assert printed.count("Created new run") == printed.count("Run finished") == 1
    with sqlite3.connect(the(tmp_path, "hf/trackio/huggingface.db")) as store:
        entries = [json.loads(row[0]) for row in store.execute("select metrics from metrics")]
        (runs,) = store.execute("select count(distinct run_name) from metrics").fetchone()
    store.close()
    assert runs == 1
    assert len([entry for entry in entries if "eval/reward" in entry]) == 1
    assert len([entry for entry in entries if "train/reward" in entry]) == 6


def test_a_script_that_starts_its_own_runs_without_a_key_is_kept_offline_and_goes_on(tmp_path: Path) -> None:
    printed = run(
        tmp_path,
        """
        import wandb  # imported before: its functions are wrapped where they are
        from dunwu.trackers import patch_tracker_logins
        patch_tracker_logins()
        patch_tracker_logins()
        assert wandb.login() is False
        run = wandb.init(project="p", mode="online")
        assert run.settings.mode == "offline"
        run.log({"a": 1})
        run.finish()
        import swanlab
        assert swanlab.login(api_key="abcdefghijklmnopqrstu") is False
        swanlab.init(project="p", workspace="w", experiment_name="e", mode="cloud")
        swanlab.log({"a": 1.0})
        swanlab.finish()
        """,
    )
    assert list(tmp_path.glob("wandb/offline-run-*")) and list(tmp_path.glob("swanlog/run-*"))
    assert printed.count("this run is recorded offline") == 2  # each once, however often it is asked


def test_what_the_user_has_set_is_left_alone(tmp_path: Path) -> None:
    printed = run(
        tmp_path,
        """
        from dunwu.trackers import patch_tracker_logins, resolve_report_to
        patch_tracker_logins()
        assert resolve_report_to(["wandb", "swanlab"]) == ["wandb", "swanlab"]
        import os, swanlab, wandb
        assert (os.environ["WANDB_MODE"], os.environ["SWANLAB_MODE"]) == ("disabled", "disabled")
        wandb.init(project="p").log({"a": 1})
        swanlab.init(project="p")
        """,
        WANDB_MODE="disabled",
        SWANLAB_MODE="disabled",
    )
    assert "recorded offline" not in printed
    assert not list(tmp_path.glob("wandb/*run-*")) and not list(tmp_path.glob("swanlog/run-*"))
