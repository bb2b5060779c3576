"""A script that uses what Dunwu lacks is told so before anything is loaded."""

from pathlib import Path

import pytest

from dunwu.trl.script_check import missing_names, source_of
from dunwu.trl.supported_names import HERE, instead

IMAGES = " is for images, which are not in Dunwu: prompts are text or chat messages"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("from trl import PPOTrainer, PPOConfig\n", ["line 1: trl.PPOConfig", "line 1: trl.PPOTrainer"]),
        ("import trl\nx = 1\ntrainer = trl.DPOTrainer()\n", ["line 3: trl.DPOTrainer"]),
        ("import trl as t\nt.SFTTrainer\n", ["line 2: trl.SFTTrainer"]),
        ("from trl.trainer.ppo_trainer import PPOTrainer\n", ["line 1: trl.trainer.ppo_trainer"]),
        ("from trl.trainer import RLOOTrainer\n", ["line 1: trl.RLOOTrainer"]),
        ("import trl.extras.vllm_client\n", ["line 1: trl.extras.vllm_client"]),
        (
            "from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration\n",
            [f"line 1: transformers.Qwen2VLForConditionalGeneration{IMAGES}"],
        ),
        (
            "from transformers import AutoModelForVision2Seq\nfrom trl import GRPOTrainer\n",
            [f"line 1: transformers.AutoModelForVision2Seq{IMAGES}"],
        ),
        ("def late():\n    from trl import KTOTrainer\n", ["line 2: trl.KTOTrainer"]),
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
        "try:\n    from trl import DPOTrainer\nexcept ImportError:\n    DPOTrainer = None\n",
        "from trlx import PPOTrainer\nself.trl.PPO\n",
    ],
)
def test_what_is_here_is_not_complained_about(source: str) -> None:
    assert missing_names(source, "script.py") == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("PPOTrainer", "a value model is not here"),
        ("AutoModelForCausalLMWithValueHead", "a value model is not here"),
        ("RLOOTrainer", "loss_type='reinforce', advantage_baseline='leave_one_out'"),
        ("DPOTrainer", "preference pairs"),
        ("OnlineDPOConfig", "preference pairs"),
        ("SFTConfig", "supervised training"),
        ("RewardTrainer", "reward models are used, not trained"),
        ("LogCompletionsCallback", "log_completions=True"),
        ("prepare_multimodal_messages", "images are not here"),
        ("extras.vllm_client", "no server to start"),
        ("SomethingNew", "which has GRPOConfig, GRPOTrainer"),
    ],
)
def test_each_missing_name_has_something_to_do_instead(name: str, words: str) -> None:
    assert name not in HERE
    assert words in instead(name)


def test_what_is_no_script_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no script"):
        source_of(tmp_path / "none.py")
    with pytest.raises(ValueError, match=r"put `import dunwu\.compat` before"):
        source_of(tmp_path / "some.ipynb")
    with pytest.raises(ValueError, match="line 2: "):
        missing_names("x = 1\nif:\n", "script.py")
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no Python script"):
        source_of(tmp_path / "bytes.py")
