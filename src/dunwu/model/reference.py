"""The frozen policy that KL is measured against."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from dunwu.core.records import MicroBatch
from dunwu.model.loading import eval_mode
from dunwu.model.logprobs import forward_logps

__all__ = ["ReferenceModel"]


class ReferenceModel:
    """The frozen policy that KL is measured against: a copy, or a PEFT model with its adapter switched off.

    Args:
        policy: the model to be trained, before its first step.
        moves: whether `mix_in` will be called.

    Raises:
        ValueError: when it is to move and is the policy with its adapter off: the base must not move.
    """

    def __init__(self, policy: Any, *, moves: bool = False) -> None:
        self.policy = policy
        is_base = hasattr(policy, "disable_adapter")
        if is_base and moves:
            raise ValueError("sync_ref_model does not work with an adapter: its reference is the base model itself")
        self.copy: nn.Module | None = None if is_base else _frozen_copy(policy)

    @torch.no_grad()
    def logps(self, batch: MicroBatch, temperature: float) -> Tensor:
        """`reference_logps`, (B, C)."""
        if self.copy is not None:
            return forward_logps(self.copy, batch, temperature)[0]
        with self.policy.disable_adapter(), eval_mode(self.policy):
            return forward_logps(self.policy, batch, temperature)[0]

    @torch.no_grad()
    def mix_in(self, policy: nn.Module, share: float) -> None:
        """π_ref ← share · π + (1 − share) · π_ref (TR-DPO, arXiv 2404.09656, eq. 7)."""
        assert self.copy is not None, "an adapter's reference is refused where it would have to move"
        for kept, current in zip(self.copy.parameters(), policy.parameters(), strict=True):
            kept.lerp_(current.detach().to(kept.dtype), share)

    def state(self) -> dict[str, Tensor] | None:
        """Weights to keep in a checkpoint; None where they are the base model's."""
        return None if self.copy is None else self.copy.state_dict()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""
        if self.copy is not None:
            self.copy.load_state_dict(state)


def _frozen_copy(model: nn.Module) -> nn.Module:
    copied = copy.deepcopy(model).eval()
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    return copied
