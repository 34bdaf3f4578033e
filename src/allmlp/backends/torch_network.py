"""Run a PyTorch module as it is, or compiled."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from allmlp.backends.runner import Runner


def likes_channels_last(network: nn.Module) -> bool:
    """Whether most of a network's layers are convolutions over neighbours."""
    convs = sum(isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1) for module in network.modules())
    return convs > max(2, sum(isinstance(module, nn.Linear) for module in network.modules()))


def as_arrays(found: Tensor | Sequence[Tensor]) -> list[np.ndarray]:
    """What a network gave, as arrays."""
    return [part.numpy() for part in ([found] if isinstance(found, Tensor) else found)]


class NetworkRunner(Runner):
    """A module in evaluation mode, "eager" or "compile"; it moves to channels-last memory where that suits it."""

    def __init__(self, network: nn.Module, backend: str, channels_last: bool | None = None) -> None:
        self.name = backend
        self.inputs = list(getattr(network, "input_names", ["images"]))
        self.outputs = list(getattr(network, "output_names", ["output"]))
        self.network = network.eval()
        self.channels_last = likes_channels_last(network) if channels_last is None else channels_last
        if self.channels_last:
            network.to(memory_format=torch.channels_last)
        self._call: Any = torch.compile(network, dynamic=False) if backend == "compile" else network

    @torch.inference_mode()
    def __call__(self, images: np.ndarray, *more: np.ndarray) -> list[np.ndarray]:
        x = torch.from_numpy(images)
        if self.channels_last and x.ndim == 4 and x.dtype == torch.float32:
            x = x.contiguous(memory_format=torch.channels_last)
        return as_arrays(self._call(x, *map(torch.from_numpy, more)))
