"""Keys are refused by name, found in scripts, and in no sentence of ours."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from dunwu._utils.secrets import redact, reject_secrets, warn_of_secrets_in
from dunwu.cli import main
from dunwu.errors import ConfigError
from dunwu.recipes.recipe import load_recipe

WANDB = "0123456789abcdef0123456789abcdef01234567"
HUB = "hf_" + "AbCd1234" * 4
SWANLAB = "Zq8sWanLabKey4tests77"


@pytest.mark.parametrize(
    ("content", "name", "place"),
    [
        ({"wandb_api_key": "x"}, "wandb_api_key", "WANDB_API_KEY"),
        ({"train": {"wandb_key": WANDB}}, "train.wandb_key", "wandb login"),
        ({"swanlab_key": SWANLAB}, "swanlab_key", "SWANLAB_API_KEY"),
        ({"train": {"hub_token": "x"}}, "train.hub_token", "HF_TOKEN"),
        ({"model_options": {"token": HUB}}, "model_options.token", "hf auth login"),
        ({"task": {"name": "own", "api-key": "x"}}, "task.api-key", "environment"),
        ({"task": {"client_secret": "x"}}, "task.client_secret", "environment"),
        ({"password": "x"}, "password", "environment"),
        ({"train": {"run_name": WANDB}}, "train.run_name", "WANDB_API_KEY"),
        ({"train": {"run_name": f"see https://u:{HUB}@host"}}, "train.run_name", "environment"),
        ({"rewards": ["format", HUB]}, "rewards", "HF_TOKEN"),
    ],
)
def test_a_key_is_refused_by_its_name_or_its_looks(content: dict[str, Any], name: str, place: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^{name} contains a key, which does not belong in the recipe\. "
    ) as refused:
        reject_secrets(content, "the recipe")
    assert place in str(refused.value)
    for value in (WANDB, HUB, SWANLAB):
        assert value not in str(refused.value)


def test_options_with_names_like_a_key_are_accepted() -> None:
    reject_secrets(
        {
            "model_options": {"revision": WANDB, "token": True},
            "task": {"answer_key": "gold", "pad_token": "<pad>", "key": "row", "tokens_per_micro_batch": 8},
            "train": {"hub_token": None, "wandb_api_key": "", "hub_model_id": "me/hf_small"},
        },
        "the recipe",
    )


def test_a_recipe_and_its_overrides_may_contain_no_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"model: embedded\ntask: gsm8k\nswanlab_key: {SWANLAB}\n")
    with pytest.raises(
        ValueError, match=r"swanlab_key contains a key, which does not belong in a recipe .*mine\.yaml"
    ) as refused:
        load_recipe(str(path))
    assert SWANLAB not in str(refused.value)
    with pytest.raises(ValueError, match=r"train\.hub_token contains a key") as refused:
        load_recipe("quickstart", {"train.hub_token": HUB})
    assert HUB not in str(refused.value)
    path.write_text(f"model: [embedded\nwandb_api_key: {WANDB}\n")
    with pytest.raises(ValueError, match="not valid YAML") as refused:
        load_recipe(str(path))
    assert WANDB not in str(refused.value)


@pytest.mark.parametrize(
    ("line", "what", "place"),
    [
        (f'wandb.login(key="{WANDB}")', "login", "wandb login"),
        (f'wandb.login("{WANDB}")', "login", "WANDB_API_KEY"),
        (f'os.environ["WANDB_API_KEY"] = "{WANDB}"', "WANDB_API_KEY", "WANDB_API_KEY"),
        (f'os.environ.setdefault("SWANLAB_API_KEY", "{SWANLAB}")', "SWANLAB_API_KEY", "SWANLAB_API_KEY"),
        (f'os.environ.update({{"SWANLAB_API_KEY": "{SWANLAB}"}})', "SWANLAB_API_KEY", "swanlab login"),
        (f'swanlab.login(api_key="{SWANLAB}", save=True)', "api_key", "SWANLAB_API_KEY"),
        (f'login(token="{HUB}")', "token", "HF_TOKEN"),
        (f'model = load("Qwen/Qwen2.5", token="{HUB}")', "token", "HF_TOKEN"),
        (f'WANDB_API_KEY: str = "{WANDB}"', "WANDB_API_KEY", "wandb login"),
        (f'k = "{WANDB}"', "this line", "WANDB_API_KEY"),
        (f"!wandb login {WANDB}", "login", "wandb login"),
        (f"%env SWANLAB_API_KEY={SWANLAB}", "SWANLAB_API_KEY", "SWANLAB_API_KEY"),
        (f"!swanlab login -k {SWANLAB}", "login", "swanlab login"),
    ],
)
def test_a_script_with_a_literal_key_gets_its_line_and_name_and_the_remedy(line: str, what: str, place: str) -> None:
    (said,) = warn_of_secrets_in(f"import os\n\n{line}\nx = 1\n", "train.py")
    assert said.startswith("train.py, line 3: ")
    assert place in said
    assert f"line 3: {what} contains a key" in said
    for value in (WANDB, HUB, SWANLAB):
        assert value not in said


def test_a_script_that_takes_its_keys_from_elsewhere_gets_no_warning() -> None:
    clean = """
import os, getpass, wandb
wandb.login()
wandb.login(key=os.environ["WANDB_API_KEY"])
os.environ["WANDB_API_KEY"] = getpass.getpass()
os.environ["WANDB_PROJECT"] = "grpo"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
tokenizer.pad_token = "<|endoftext|>"
site.login("a user", "of something")
row = {"key": "answer", "token": ""}
# wandb.login(key="PUT_YOUR_OWN_KEY_HERE")
model = load("Qwen/Qwen2.5", revision="0123456789abcdef0123456789abcdef01234567", token="auto")
if token == "0123456789": pass
%pip install wandb
!wandb login
!accelerate launch train.py --lr=1e-5
"""
    assert warn_of_secrets_in(clean, "train.py") == []


def test_the_command_line_repeats_no_key_that_was_given_in_the_wrong_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in (["chat", "m", HUB], ["fetch", "a/b", "--to", "c", HUB], ["train", "quickstart", HUB]):
        with pytest.raises(SystemExit):
            main(words)
        printed = capsys.readouterr().err
        assert "***" in printed and HUB not in printed


def test_a_call_over_several_lines_is_read_as_one() -> None:
    (said,) = warn_of_secrets_in(f'wandb.login(\n    relogin=True,\n    key="{SWANLAB}",\n)\n', "train.py")
    assert said.startswith("train.py, line 1: login contains a key") and SWANLAB not in said


def test_options_that_name_each_other_in_circles_are_searched_once() -> None:
    """Nine lines of YAML aliases make 10^9 values, and an alias to itself has no end."""
    content = yaml.safe_load("a: &a [x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in pairwise("abcdefghij")
    ))  # fmt: skip
    content["itself"] = content
    reject_secrets(content, "the recipe")
    with pytest.raises(ConfigError, match=r"^api_key contains a key"):
        reject_secrets({**content, "innocent": ["x"], "api_key": content["a"]}, "the recipe")


def test_an_address_is_repeated_without_its_user_and_password() -> None:
    shown = redact("no answer from https://me:p%40ss@host:8080/path and http://token@other, see a@b.c")
    assert shown == "no answer from https://host:8080/path and http://other, see a@b.c"


def test_a_text_that_is_no_python_is_still_searched() -> None:
    (said,) = warn_of_secrets_in(f"print 'old'\nkey: {HUB}\n", "notes.txt")
    assert said.startswith("notes.txt, line 2: ") and HUB not in said


def test_masked_text_shows_no_key_of_the_environment_or_by_its_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWANLAB_API_KEY", SWANLAB)
    shown = redact(f"a {SWANLAB} b {HUB} c {WANDB} d local-{WANDB} e")
    assert shown == "a *** b *** c *** d *** e"
