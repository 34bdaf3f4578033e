"""Exponential moving average of a network's weights, which is what is evaluated and saved."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """A second network whose weights trail those of the first: a <- d a + (1 - d) w after each optimiser step.

    With warm-up, d = min(decay, (1 + n) / (10 + n)) at update n (counted from 0), so that early, far-off weights are
    soon forgotten. Buffers (batch-norm statistics) are copied, not averaged.

    Args:
        network: the network that learns; it is copied, in evaluation mode and without gradients.
        decay: in (0, 1). warmup: whether the decay rises from 0.1.
    """

    def __init__(self, network: nn.Module, decay: float, warmup: bool) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.warmup = warmup
        self.updates = 0

    def decay_at(self, update: int) -> float:
        """The decay in use at an update, counted from 0."""
        return min(self.decay, (1 + update) / (10 + update)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the network's present weights."""
        share = 1 - self.decay_at(self.updates)
        self.updates += 1
        mine = [parameter.data for parameter in self.network.parameters()]
        theirs = [parameter.data for parameter in network.parameters()]
        torch._foreach_lerp_(mine, theirs, share)
        for own, other in zip(self.network.buffers(), network.buffers(), strict=True):
            own.copy_(other)

    def to(self, device: torch.device) -> None:
        """Move to the device that the network is on."""
        self.network.to(device)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights; `updates` is a function of the step and is kept by the caller."""
        return self.network.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Continue from saved weights."""
        self.network.load_state_dict(state)
        self.updates = updates
