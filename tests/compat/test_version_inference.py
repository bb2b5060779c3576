"""The version of TRL that a script was written for is inferred by a rule that is printed with its result."""

import pytest

from dunwu.errors import ConfigError
from dunwu.trl.version_inference import Evidence, infer_trl_version
from dunwu.trl.versioned_defaults import defaults_of, release_of

BATCH = "a batch of 1 × 4 completions holds no whole group of 16"
PROMPTS = {"max_prompt_length": "0.27"}


@pytest.mark.parametrize(
    ("evidence", "version", "reason"),
    [
        (Evidence(), "1.16", "nothing in the script tells its version"),
        (Evidence(first={"vllm_mode": "0.18"}), "1.16", "nothing in the script tells its version"),
        (Evidence(last={"vllm_device": "0.15"}), "0.15", "the last that used vllm_device"),
        (
            Evidence(last=PROMPTS),
            "0.15",
            "it gives max_prompt_length, dropped after 0.27, and no argument that came after 0.15",
        ),
        (Evidence(last=PROMPTS, first={"reward_weights": "0.15"}), "0.15", "it gives max_prompt_length"),
        (Evidence(last=PROMPTS, first={"epsilon": "0.16"}), "0.27", "the last that used max_prompt_length"),
        (Evidence(last={**PROMPTS, "vllm_device": "0.15"}), "0.15", "the last that used vllm_device"),
        (Evidence(last={"vllm_device": "0.15"}, first={"loss_type": "0.17"}), "0.17", "the first that had loss_type"),
        (Evidence(partial_batch=BATCH), "0.14", BATCH),
        (Evidence(partial_batch=BATCH, last=PROMPTS), "0.14", BATCH),
        (Evidence(partial_batch=BATCH, first={"epsilon": "0.16"}), "1.16", "nothing in the script"),
        (Evidence(pinned=("0.16.1", "requirements.txt"), last=PROMPTS), "0.16.1", "pinned in requirements.txt"),
        (Evidence(asked="0.14.0", pinned=("0.16.1", "x")), "0.14.0", "asked for by --trl"),
    ],
)
def test_the_rule(evidence: Evidence, version: str, reason: str) -> None:
    inferred = infer_trl_version(evidence)
    assert inferred.version == version
    assert inferred.reason.startswith(reason)


@pytest.mark.parametrize("version", ["0.14", "0.14.0", "v0.14.0", "0.14.0.dev0"])
def test_a_version_is_the_same_with_and_without_its_patch_number(version: str) -> None:
    assert release_of(version) == (0, 14)
    assert defaults_of(version) == defaults_of("0.14")


@pytest.mark.parametrize("version", ["0.13", "1.17", "2", "latest", "0.3", ""])
def test_a_version_that_never_had_grpo_or_is_unknown_is_refused(version: str) -> None:
    with pytest.raises(ConfigError, match=r"not a version of TRL between 0\.14 and 1\.16"):
        release_of(version)
