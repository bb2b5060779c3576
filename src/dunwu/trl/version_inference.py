"""Which TRL a script was written for: what it shows, and the rule that turns this into one version.

The rule, in this order:

1. `dunwu run --trl VERSION` decides.
2. A pin decides: `trl==VERSION` in the script's text or in a `requirements.txt` beside it.
3. A batch that holds no whole group of completions was an error from 0.15 on: such a script is for 0.14.
4. A script that gives an argument which TRL has dropped since is old. If it gives none that came after 0.15, it is
   read as one for 0.15 (a presumption: the tutorials of early 2025 look like this); otherwise as one for the newest
   version that still used every argument it gives.
5. Otherwise the current defaults apply.

Arguments of transformers count only where a TRL release excluded the versions of transformers that had them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from dunwu.trl.versioned_defaults import CURRENT, OLDEST, release_of

__all__ = ["FIRST_VERSIONS", "Evidence", "InferredVersion", "infer_trl_version"]

_SIMPLE: Final = "0.15"
"""Until this version `GRPOConfig` had little more than the tutorials of early 2025 set."""

FIRST_VERSIONS: Final[Mapping[str, str]] = {
    "chat_template_kwargs": "0.25",
    "delta": "0.18",
    "epsilon": "0.16",
    "epsilon_high": "0.16",
    "generation_kwargs": "0.19",
    "importance_sampling_level": "0.20",
    "log_completions": "0.15",
    "loss_type": "0.17",
    "mask_truncated_completions": "0.17",
    "min_p": "0.16",
    "num_generations_eval": "0.26",
    "off_policy_mask_threshold": "0.27",
    "num_iterations": "0.16",
    "ref_model_mixup_alpha": "0.15",
    "ref_model_sync_steps": "0.15",
    "repetition_penalty": "0.16",
    "reward_weights": "0.15",
    "scale_rewards": "0.16",
    "sync_ref_model": "0.15",
    "top_k": "0.16",
    "top_p": "0.16",
    "use_bias_correction_kl": "0.26",
}
"""Options that Dunwu and TRL share, and the first TRL that had them, where that is later than 0.14."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a script shows of the TRL it was written for.

    Example: `Evidence(last={"max_prompt_length": "0.27"}, first={"epsilon": "0.16"})`
    """

    asked: str | None = None
    """Version given by `--trl`."""
    pinned: tuple[str, str] | None = None
    """Version pinned with `trl==`, and the name of the file that pins it."""
    last: Mapping[str, str] = field(default_factory=dict)
    """Arguments that the script gives → the last version that used them, for those since dropped."""
    first: Mapping[str, str] = field(default_factory=dict)
    """Arguments that the script gives → the first version that had them, where that is later than 0.14."""
    partial_batch: str | None = None
    """A description of the batch where it holds no whole group of completions."""

    @property
    def needs_completions(self) -> bool:
        """Whether the batch can only count completions: it holds whole groups, and the script is newer than 0.14."""
        newer = any(release_of(version) > release_of(OLDEST) for version in self.first.values())
        return newer and self.partial_batch is None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferredVersion:
    """A version, and why.

    Example: `InferredVersion(version="0.15", reason="the last that used vllm_device")`
    """

    version: str
    """A version between 0.14 and 1.16; its defaults are used for what the script leaves out."""
    reason: str
    """Why this one, for the launch."""


def infer_trl_version(evidence: Evidence) -> InferredVersion:
    """The version whose defaults a script relied on, by the rule above.

    Raises:
        ConfigError: for an `asked` or `pinned` version outside 0.14 to 1.16.
    """
    if evidence.asked is not None:
        release_of(evidence.asked)
        return InferredVersion(version=evidence.asked, reason="asked for by --trl")
    if evidence.pinned is not None:
        version, place = evidence.pinned
        release_of(version)
        return InferredVersion(version=version, reason=f"pinned in {place}")
    newest = max(evidence.first, key=lambda name: release_of(evidence.first[name]), default=None)
    lower = OLDEST if newest is None else evidence.first[newest]
    if evidence.partial_batch is not None and release_of(lower) == release_of(OLDEST):
        return InferredVersion(version=OLDEST, reason=f"{evidence.partial_batch}, which every later version refuses")
    return _by_dropped_arguments(evidence.last, lower, newest)


def _by_dropped_arguments(last: Mapping[str, str], lower: str, newest: str | None) -> InferredVersion:
    if not last:
        return InferredVersion(version=CURRENT, reason="nothing in the script tells its version")
    oldest = min(last, key=lambda name: release_of(last[name]))
    upper = last[oldest]
    if release_of(lower) <= release_of(_SIMPLE) < release_of(upper):
        reason = f"it gives {oldest}, dropped after {upper}, and no argument that came after {_SIMPLE}"
        return InferredVersion(version=_SIMPLE, reason=reason)
    if newest is not None and release_of(lower) > release_of(upper):
        return InferredVersion(version=lower, reason=f"the first that had {newest}")
    return InferredVersion(version=upper, reason=f"the last that used {oldest}")
