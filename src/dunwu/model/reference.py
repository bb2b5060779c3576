"""The frozen policy that KL is measured against: the policy as it was given, before its first step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dunwu.core.records import MicroBatch
from dunwu.errors import CheckpointError, ConfigError
from dunwu.model.loading import eval_mode, is_adapted
from dunwu.model.logprobs import forward_logps

__all__ = ["ReferenceModel"]


class ReferenceModel:
    """The policy's own modules, run with copies of its trainable weights as they were before the first step.

    Frozen weights are shared with the policy, so the reference of an adapter costs an adapter: fresh, loaded or with
    `modules_to_save`, it is always the policy as it was given. The forward is the policy's too: the same wrappers,
    the same autocast, so that KL is exactly 0 until the policy moves. What is frozen at the start must stay frozen.

    Args:
        policy: the model to be trained, before its first step, as the trainer calls it but outside of DDP.
        updatable: whether `mix_in` will be called.

    Raises:
        ConfigError: where an adapter's reference should be updated.
    """

    def __init__(self, policy: nn.Module, *, updatable: bool = False) -> None:
        if updatable and is_adapted(policy):
            raise ConfigError(
                "sync_ref_model does not work with an adapter: mixing two adapters' factors is not mixing what they "
                "add; train all weights, or leave the reference at the start (sync_ref_model=False)"
            )
        self.policy = policy
        self.updatable = updatable
        self._weights = {
            name: parameter.detach().clone()
            for name, parameter in policy.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def logps(self, batch: MicroBatch) -> Tensor:
        """`reference_logps`, (B, C) nats; 0 in padding."""
        self._follow_devices()
        weights = {f"policy.{name}": value for name, value in self._weights.items()}
        with eval_mode(self.policy):
            logps_BC: Tensor = functional_call(_LogpsOf(self.policy), weights, (batch,))
        return logps_BC

    @torch.no_grad()
    def mix_in(self, policy: nn.Module, weight: float) -> None:
        """π_ref ← weight · π + (1 − weight) · π_ref (TR-DPO, arXiv 2404.09656, eq. 7)."""
        assert self.updatable, "ReferenceModel(updatable=True) is needed to mix weights in"
        self._follow_devices()
        current = dict(policy.named_parameters())
        for name, mine in self._weights.items():
            mine.lerp_(current[name].detach().to(mine.dtype), weight)

    def state(self) -> dict[str, Tensor] | None:
        """Weights that a checkpoint must keep; None where the run's start has them anyway: not updated, no adapter.

        An adapter may be drawn at random, so its copy (a few MB) is always included.
        """
        return dict(self._weights) if self.updatable or is_adapted(self.policy) else None

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` gave.

        Raises:
            CheckpointError: where it is of another model or adapter.
        """
        if not self._weights.keys() <= state.keys():  # older checkpoints contain the whole state_dict
            raise CheckpointError(
                f"the checkpoint's reference has {len(state)} trained weights, and this model {len(self._weights)} "
                "of other names; resume with the model and adapter that the run began with"
            )
        self._weights = {name: state[name].to(mine.device) for name, mine in self._weights.items()}

    def _follow_devices(self) -> None:
        """The policy is moved to its device after this was made."""
        device = {name: parameter.device for name, parameter in self.policy.named_parameters()}
        self._weights = {name: value.to(device[name]) for name, value in self._weights.items()}


class _LogpsOf(nn.Module):
    """`forward_logps` as a module, which is what torch can call with other weights."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: MicroBatch) -> Tensor:
        return forward_logps(self.policy, batch)[0]
