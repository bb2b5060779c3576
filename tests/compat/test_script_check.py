"""A script that uses what Dunwu lacks is told so before anything is loaded."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from dunwu.errors import ConfigError
from dunwu.trl.script_check import missing_names, pinned_version, read_script
from dunwu.trl.supported_names import MODULES, SUPPORTED, alternative_to

IMAGES = " is for images, which Dunwu does not support: prompts are text or chat messages"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("from trl import PPOTrainer, PPOConfig\n", ["line 1: trl.PPOConfig", "line 1: trl.PPOTrainer"]),
        ("import trl\nx = 1\ntrainer = trl.DPOTrainer()\n", ["line 3: trl.DPOTrainer"]),
        ("import trl as t\nt.SFTTrainer\n", ["line 2: trl.SFTTrainer"]),
        ("from trl.trainer.ppo_trainer import PPOTrainer\n", ["line 1: trl.trainer.ppo_trainer"]),
        ("from trl.trainer import RLOOTrainer\n", ["line 1: trl.RLOOTrainer"]),
        ("from trl.models import create_reference_model\n", ["line 1: trl.create_reference_model"]),
        ("from trl.chat_template_utils import clone_chat_template\n", ["line 1: trl.clone_chat_template"]),
        ("import trl.extras.vllm_client\n", ["line 1: trl.extras.vllm_client"]),
        (
            "from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration\n",
            [f"line 1: transformers.Qwen2VLForConditionalGeneration{IMAGES}"],
        ),
        (
            "from transformers import AutoModelForVision2Seq\nfrom trl import GRPOTrainer\n",
            [f"line 1: transformers.AutoModelForVision2Seq{IMAGES}"],
        ),
        ("def main():\n    from trl import KTOTrainer\n\nmain()\n", ["line 2: trl.KTOTrainer"]),
        (
            "def train():\n    import trl\n    trl.KTOTrainer()\ndef main():\n    train()\n"
            "if __name__ == '__main__':\n    main()\n",
            ["line 3: trl.KTOTrainer"],
        ),
        ("import trl\nclass Own(trl.DPOTrainer):\n    pass\n", ["line 2: trl.DPOTrainer"]),
        ("try:\n    from trl import DPOTrainer\nexcept KeyboardInterrupt:\n    pass\n", ["line 2: trl.DPOTrainer"]),
        ("try:\n    x = 1\nfinally:\n    from trl import DPOTrainer\n", ["line 4: trl.DPOTrainer"]),
        ("with open('x'):\n    from trl import DPOTrainer\n", ["line 2: trl.DPOTrainer"]),
    ],
)
def test_what_is_missing_is_named_with_its_line(source: str, said: list[str]) -> None:
    found = missing_names(source, "script.py")
    assert sorted(sentence.split(", ", 1)[1].split(" is not in Dunwu")[0] for sentence in found) == said


@pytest.mark.parametrize(
    "source",
    [
        "from trl import GRPOConfig, GRPOTrainer, ModelConfig, TrlParser, get_peft_config\n",
        "from trl.trainer.grpo_trainer import GRPOTrainer\nfrom trl.trainer.utils import get_kbit_device_map\n",
        "import trl\ntrl.GRPOTrainer\nprint(trl.__version__)\n",
        "from trl.scripts.utils import TrlParser, ScriptArguments\n",
        "from trl.rewards import accuracy_reward\nfrom trl.data_utils import maybe_apply_chat_template\n",
        "from trl import DatasetMixtureConfig, RichProgressCallback, get_dataset\nimport trl.rewards\n",
        "try:\n    from trl import DPOTrainer\nexcept ImportError:\n    DPOTrainer = None\n",
        "from trlx import PPOTrainer\nself.trl.PPO\n",
        "def late():\n    from trl import KTOTrainer\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from trl import DPOTrainer\n",
        "import typing\nif typing.TYPE_CHECKING:\n    from trl import DPOTrainer\nx: 'DPOTrainer' = None\n",
        "if False:\n    from trl import PPOTrainer\n",
        "import trl\nif hasattr(trl, 'DPOTrainer'):\n    trl.DPOTrainer\n",
        "import trl\nx = trl.DPOTrainer if hasattr(trl, 'DPOTrainer') else None\n",
        "import trl\nhasattr(trl, 'DPOTrainer') and trl.DPOTrainer\n",
        "import trl\nclass Own:\n    def use(self):\n        return trl.DPOTrainer\n",
        "import trl\nmake = lambda: trl.DPOTrainer()\n",
        "try:\n    from trl import DPOTrainer\nexcept (ValueError, ImportError):\n    from trl import KTOTrainer\n",
        "try:\n    from trl import DPOTrainer\nexcept:\n    pass\n",
        "import sys\nmatch sys.argv:\n    case ['x']:\n        from trl import DPOTrainer\n",
    ],
)
def test_what_dunwu_has_or_the_script_may_never_use_is_not_refused(source: str) -> None:
    assert missing_names(source, "script.py") == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("PPOTrainer", "there is no value model"),
        ("AutoModelForCausalLMWithValueHead", "there is no value model"),
        ("RLOOTrainer", "loss_type='reinforce', advantage_baseline='leave_one_out'"),
        ("DPOTrainer", "preference pairs"),
        ("OnlineDPOConfig", "preference pairs"),
        ("SFTConfig", "supervised training"),
        ("RewardTrainer", "reward models are used, not trained"),
        ("TextEnvironment", "GRPOTrainer(environment=…)"),
        ("LogCompletionsCallback", "log_completions=True"),
        ("prepare_multimodal_messages", "images are not supported"),
        ("extras.vllm_client", "no server to start"),
        ("clone_chat_template", "tokenizer.chat_template = other.chat_template"),
        ("BEMACallback", "weights are not averaged"),
        ("WeaveCallback", "report_to has wandb"),
        ("add_response_schema", "GRPOTrainer(environment=…)"),
        ("create_reference_model", "creates the reference model"),
        ("SomethingNew", "GRPOConfig, GRPOTrainer and what their scripts import"),
    ],
)
def test_each_missing_name_has_something_to_do_instead(name: str, words: str) -> None:
    assert name not in SUPPORTED
    assert words in alternative_to(name)


@pytest.mark.slow
def test_every_public_name_of_trl_is_here_or_has_a_reason_of_its_own() -> None:
    try:
        importlib.metadata.version("trl")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the real TRL is not installed: pip install trl==1.16.0")
    # In a process of its own: in this one another test may have made `trl` mean Dunwu.
    code = "import trl, trl.rewards; print('NAMES', *dir(trl), *dir(trl.rewards))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = done.stdout.rpartition("NAMES ")[2].split()
    public = {name for name in names if not name.startswith("_")} - {*MODULES}
    public -= {module.rpartition(".")[2] for module in MODULES}
    assert len(public) > 45
    general = alternative_to("SomethingNew").partition(" is not in Dunwu")[2]
    unsaid = {name for name in public - {*SUPPORTED} if alternative_to(name).endswith(general)}
    assert unsaid == set()


def test_what_is_not_a_script_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no script"):
        read_script(tmp_path / "none.py")
    with pytest.raises(ConfigError, match=r"put `import dunwu\.compat` before"):
        read_script(tmp_path / "some.ipynb")
    with pytest.raises(ConfigError, match="line 2: "):
        missing_names("x = 1\nif:\n", "script.py")
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not a Python script"):
        read_script(tmp_path / "bytes.py")


TEXT = "from trl import PPOTrainer  # 训练\n"


@pytest.mark.parametrize(
    ("content", "encoding"),
    [(TEXT, "utf-8"), (TEXT, "utf-8-sig"), (f"# coding: gbk\n{TEXT}", "gbk"), (TEXT.replace("\n", "\r\n"), "utf-8")],
)
def test_a_script_is_read_in_its_own_encoding(tmp_path: Path, content: str, encoding: str) -> None:
    path = tmp_path / "script.py"
    path.write_bytes(content.encode(encoding))
    source = read_script(path)
    assert "训练" in source
    assert len(missing_names(source, path.name)) == 1


@pytest.mark.parametrize(
    ("source", "requirements", "pinned"),
    [
        ("# pip install trl==0.14.0\n", None, ("0.14.0", "script.py")),
        ("# dependencies = ['trl[vllm] == 0.15.2']\n", None, ("0.15.2", "script.py")),
        ("import trl\n", "torch==2.5.1\ntrl==0.16.1\n", ("0.16.1", "requirements.txt")),
        ("# trl==0.14.0\n", "trl==0.16.1\n", ("0.14.0", "script.py")),
        ("# trl==0.14.0, not trl==0.15.0\n", None, None),
        ("# trl==0.13.0, which had no GRPO\n", None, None),
        ("# trl>=0.14.0, my-trl==0.14.0, trlx==0.14.0\nassert trl.__version__ == '0.14.0'\n", None, None),
    ],
)
def test_a_pinned_version_is_found(
    tmp_path: Path, source: str, requirements: str | None, pinned: tuple[str, str] | None
) -> None:
    if requirements is not None:
        (tmp_path / "requirements.txt").write_text(requirements, encoding="utf-8")
    assert pinned_version(source, tmp_path / "script.py") == pinned
