"""The page of presets: its table is what the code has, and its commands give the algorithms that it says."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path

from dunwu.config import GRPOConfig
from dunwu.config.presets import PRESETS
from dunwu.core.policy_losses import find_policy_loss
from dunwu.recipes.recipe import load_recipe
from dunwu.recipes.sweep import plan_runs
from dunwu.recipes.wiring import make_config

PAGE = (Path(__file__).parents[2] / "docs" / "presets.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line) for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines()
]


def table_row(name: str) -> str:
    """A preset's row, from the code."""
    choices = PRESETS[name]
    options = inspect.signature(find_policy_loss(str(choices["policy_loss"]))).parameters.values()
    shown = [f"`{one.name}={one.default}`" for one in options if one.kind is one.KEYWORD_ONLY]
    names = ("scale_rewards", "importance_sampling_level", "policy_loss", "loss_aggregation")
    return " | ".join([f"| `{name}`", *(str(choices[one]) for one in names), f"{', '.join(shown) or 'none'} |"])


def config_of(words: list[str]) -> GRPOConfig:
    """The training options of `dunwu train RECIPE --option value …`."""
    options = {name.removeprefix("--"): value for name, value in zip(words[3::2], words[4::2], strict=True)}
    return make_config(load_recipe(words[2], options))


def test_the_table_of_presets_is_what_the_code_has() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| `\w+` \| \w+ \| (token|sequence|none) \|", line)]
    assert rows == [table_row(name) for name in PRESETS]
    assert all(set(choices) <= set(PAGE.split("`")) | {"policy_loss"} for choices in PRESETS.values())


def test_grpo_and_dr_grpo_differ_in_the_two_choices_that_the_page_names() -> None:
    one, other = PRESETS["grpo"], PRESETS["dr_grpo"]
    assert {name for name in one if one[name] != other[name]} == {"scale_rewards", "loss_aggregation"}
    (by_hand,) = [words for words in COMMANDS if "seq_sum_norm" in words]
    assert config_of(by_hand).algorithm() == config_of([*by_hand[:3], "--train.loss_type", "dr_grpo"]).algorithm()


def test_dapo_and_bnpo_are_the_same_choices_and_dapo_is_the_default() -> None:
    assert PRESETS["dapo"] == PRESETS["bnpo"]
    assert GRPOConfig.loss_type == "dapo"


def test_an_option_of_a_command_arrives_in_the_algorithm() -> None:
    plain = [words for words in COMMANDS if words[:2] == ["dunwu", "train"] and "--sweep" not in words]
    _, dapo, cispo, rloo = [config_of(words).algorithm() for words in plain]
    assert dict(dapo.loss_options) == {"epsilon_low": 0.2, "epsilon_high": 0.28, "delta": None}
    assert (cispo.policy_loss, dict(cispo.loss_options)) == ("cispo", {"cap": 4.0})
    assert (rloo.advantage_baseline, rloo.scale_rewards) == ("leave_one_out", "none")


def test_the_sweep_makes_the_nine_runs_where_the_page_says() -> None:
    (words,) = [words for words in COMMANDS if "--sweep" in words]
    assert words[3] == "--sweep" and words[5:] == ["--seeds", "3"]
    planned = plan_runs(words[2], {}, seeds=3, swept=[words[4]])
    assert len(planned) == 9 and f"`{planned[0].folder}`" in PAGE
    assert f"`{planned[0].folder.parent}/comparison.md`" in PAGE
