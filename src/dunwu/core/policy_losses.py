"""Policy losses: how ratio and advantage meet. Each is one function with options of its own.

    loss(x: LossInputs, /, *, its options) -> LossOutputs

Yours is named `package.module:function` and needs no entry in `POLICY_LOSSES`.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from dunwu._utils.objects import import_object, is_object_name
from dunwu._utils.suggest import did_you_mean
from dunwu.errors import ConfigError

__all__ = [
    "POLICY_LOSSES",
    "LossInputs",
    "LossOutputs",
    "bind_policy_loss",
    "cispo_loss",
    "clip_loss",
    "clipped_surrogate",
    "find_policy_loss",
    "logp_loss",
    "loss_option_names",
    "sapo_loss",
    "vespo_loss",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """What a policy loss may look at; (B, C) unless the suffix differs.

    Example: `LossInputs(ratio_BC=torch.tensor([[1.0, 1.49]]), policy_logps_BC=torch.tensor([[-0.4, -0.8]]),
    old_logps_BC=torch.tensor([[-0.4, -1.2]]), sampler_logps_BC=None, advantages_B1=torch.tensor([[0.7]]),
    mask_BC=torch.ones(1, 2), entropy_BC=None)`
    """

    ratio_BC: Tensor
    """Importance ratio at the algorithm's level, 1 at a rollout's first update; carries the policy's gradient."""
    policy_logps_BC: Tensor
    """Log-probabilities under the policy; carries the gradient."""
    old_logps_BC: Tensor
    """The policy's when the rollout was first trained on."""
    sampler_logps_BC: Tensor | None
    """The sampler's; None where they are not known."""
    advantages_B1: Tensor
    """One advantage a row, (B, 1)."""
    mask_BC: Tensor
    """1.0 on tokens that are trained on."""
    entropy_BC: Tensor | None
    """Entropy of each token's distribution (nats, no gradient); None where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossOutputs:
    """What a policy loss gives back; (B, C).

    Example: `LossOutputs(loss_BC=torch.tensor([[-0.7, -0.84]]), clipped_high_BC=torch.tensor([[False, True]]))`
    """

    loss_BC: Tensor
    """Loss of each token before weights; carries the gradient."""
    clipped_low_BC: Tensor | None = None
    """Where a bound took the gradient of a token with advantage < 0; None: nowhere."""
    clipped_high_BC: Tensor | None = None
    """Where a bound took the gradient of a token with advantage > 0; None: nowhere."""


def clip_loss(
    x: LossInputs, /, *, epsilon_low: float = 0.2, epsilon_high: float = 0.2, delta: float | None = None
) -> LossOutputs:
    """PPO's clipped surrogate (see `clipped_surrogate`), the loss of GRPO, DAPO, Dr. GRPO and GSPO."""
    loss_BC = clipped_surrogate(x.ratio_BC, x.advantages_B1, low=epsilon_low, high=epsilon_high, delta=delta)
    return LossOutputs(
        loss_BC=loss_BC,
        clipped_low_BC=(x.ratio_BC < 1 - epsilon_low) & (x.advantages_B1 < 0),
        clipped_high_BC=(x.ratio_BC > 1 + epsilon_high) & (x.advantages_B1 > 0),
    )


def cispo_loss(x: LossInputs, /, *, cap: float = 5.0) -> LossOutputs:
    """−min(ρ, cap)·A·log π with ρ constant, so that no token's gradient is ever cut off.

    MiniMax-M1, arXiv 2506.13585, eq. 4. ScaleRL (arXiv 2510.13786) found caps of 4 to 8 to work alike.
    """
    loss_BC = -x.ratio_BC.detach().clamp(max=cap) * x.advantages_B1 * x.policy_logps_BC
    return LossOutputs(loss_BC=loss_BC, clipped_high_BC=(x.ratio_BC > cap) & (x.advantages_B1 > 0))


def logp_loss(x: LossInputs, /) -> LossOutputs:
    """−A·log π: REINFORCE (Williams 1992)."""
    return LossOutputs(loss_BC=-x.advantages_B1 * x.policy_logps_BC)


def sapo_loss(x: LossInputs, /, *, temperature_pos: float = 1.0, temperature_neg: float = 1.05) -> LossOutputs:
    """−(4/τ)·σ(τ(ρ − 1))·A, with τ of its own for A > 0 and for A ≤ 0: a gate that closes smoothly instead of a clip.

    SAPO, arXiv 2511.20347, eq. 5 and 6. Its slope at ρ = 1 is −A, as without a gate; far from 1 it goes to 0.

    Raises:
        ConfigError: for a temperature that is not above 0.
    """
    if min(temperature_pos, temperature_neg) <= 0:
        raise ConfigError(
            f"sapo needs temperatures above 0, got temperature_pos={temperature_pos!r} and "
            f"temperature_neg={temperature_neg!r}; the paper has 1.0 and 1.05"
        )
    tau_B1 = _where(x.advantages_B1 > 0, temperature_pos, temperature_neg, like=x.advantages_B1)
    gate_BC = torch.sigmoid(tau_B1 * (x.ratio_BC - 1)) * 4 / tau_B1
    return LossOutputs(loss_BC=-gate_BC * x.advantages_B1)


def vespo_loss(
    x: LossInputs,
    /,
    *,
    k_pos: float = 2.0,
    lambda_pos: float = 3.0,
    k_neg: float = 3.0,
    lambda_neg: float = 2.0,
) -> LossOutputs:
    """−φ(w)·A·log π with φ(w) = w^k · exp(λ(1 − w)) constant, w the whole sequence's ratio; k, λ by the sign of A.

    VESPO, arXiv 2602.10693. φ(1) = 1; sequences far from the policy that sampled them, on either side, weigh little.
    w is the product over the trained tokens, whatever `importance_sampling_level` says, and kept above 1e-8, as in
    the authors' code.
    """
    with torch.no_grad():
        log_ratio_BC = (x.policy_logps_BC - x.old_logps_BC).clamp(-20.0, 20.0)
        # `where`, not a product: what stands in padding may be anything.
        log_w_B1 = torch.where(x.mask_BC > 0, log_ratio_BC, 0.0).sum(-1, keepdim=True).clamp(math.log(1e-8), 20.0)
        is_good_B1 = x.advantages_B1 >= 0
        k_B1 = _where(is_good_B1, k_pos, k_neg, like=x.advantages_B1)
        lambda_B1 = _where(is_good_B1, lambda_pos, lambda_neg, like=x.advantages_B1).clamp(min=1e-4)
        phi_B1 = (lambda_B1 + k_B1 * log_w_B1 - lambda_B1 * log_w_B1.exp()).exp()
        phi_B1 = phi_B1.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return LossOutputs(loss_BC=-phi_B1 * x.advantages_B1 * x.policy_logps_BC)


POLICY_LOSSES: Final[dict[str, Callable[..., LossOutputs]]] = {
    "clip": clip_loss,
    "cispo": cispo_loss,
    "logp": logp_loss,
    "sapo": sapo_loss,
    "vespo": vespo_loss,
}
"""Name to policy loss. Yours is named `package.module:function` and needs no entry here."""


def find_policy_loss(name: str) -> Callable[..., LossOutputs]:
    """The policy loss called `name`.

    Raises:
        ConfigError: for an unknown name, with the nearest known one, or for something that cannot be called.
    """
    if name in POLICY_LOSSES:
        return POLICY_LOSSES[name]
    if not is_object_name(name):
        raise ConfigError(
            f"there is no policy loss {name!r}{did_you_mean(name, POLICY_LOSSES)}. Your own is given as "
            "package.module:function"
        )
    found = import_object(name, what="a policy loss")
    if not callable(found):
        raise ConfigError(f"a policy loss must be a function; {name} is a {type(found).__name__}")
    loss: Callable[..., LossOutputs] = found
    return loss


def loss_option_names(loss: Callable[..., object]) -> list[str]:
    """Names of a policy loss's own options: its keyword-only parameters."""
    return [p.name for p in inspect.signature(loss).parameters.values() if p.kind is p.KEYWORD_ONLY]


@functools.lru_cache(maxsize=64)
def _bound(name: str, options: tuple[tuple[str, object], ...]) -> Callable[[LossInputs], LossOutputs]:
    loss, given = find_policy_loss(name), dict(options)
    known = loss_option_names(loss)
    for option in given:
        if option not in known:
            hint = did_you_mean(option, known) if known else "; it has none"
            raise ConfigError(f"the policy loss {name} has no option {option!r}{hint}")
    return functools.partial(loss, **given)


def bind_policy_loss(name: str, options: Mapping[str, object]) -> Callable[[LossInputs], LossOutputs]:
    """A policy loss with its options.

    Example: `bind_policy_loss("cispo", {"cap": 4.0})`

    Raises:
        ConfigError: for an unknown loss or option, with the nearest known one.
    """
    try:
        return _bound(name, tuple(sorted(options.items())))
    except TypeError:  # an option that cannot be hashed, such as a list
        return functools.partial(find_policy_loss(name), **options)


def clipped_surrogate(
    ratio_BC: Tensor, advantages_B1: Tensor, *, low: float, high: float, delta: float | None = None
) -> Tensor:
    """−min(ρA, clip(ρ, 1 − low, 1 + high)·A), (B, C): PPO's loss (arXiv 1707.06347, eq. 7).

    low ≠ high is DAPO's clip-higher (arXiv 2503.14476). With `delta`, ρ in the first term is at most delta, which
    bounds the loss of a bad token that became likely (dual clip, arXiv 1912.09729, eq. 5).
    """
    unclipped_BC = ratio_BC if delta is None else ratio_BC.clamp(max=delta)
    return -torch.min(unclipped_BC * advantages_B1, ratio_BC.clamp(1 - low, 1 + high) * advantages_B1)


def _where(condition: Tensor, yes: float, no: float, *, like: Tensor) -> Tensor:
    """`torch.where` of two numbers, in the precision of `like` (it would be float32)."""
    return torch.where(condition, torch.full_like(like, yes), torch.full_like(like, no))
