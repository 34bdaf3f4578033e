"""A runner in a network's place, so that prediction and evaluation need not know of backends."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from allmlp.backends.runner import Runner
from allmlp.dense import Detections, to_lists


class StandIn(nn.Module):
    """Called like the network itself; images of the runner's shape go to the runner, others to the network.

    Args:
        network: the module that was exported, in evaluation mode on the CPU.
        runner: what runs its form (`allmlp.backends.forms`).
        shape: (c, h, w) that the runner takes.
        task: classify, segment or detect.
        batch: how many images at a time the runner takes; None for any number.
    """

    def __init__(
        self, network: Any, runner: Runner, shape: tuple[int, int, int], task: str, batch: int | None = None
    ) -> None:
        super().__init__()
        self.network, self.runner, self.shape, self.task, self.batch = network, runner, shape, task, batch
        self.canvas = getattr(network, "canvas", None)

    def forward(self, images: Tensor, sizes: Any = None) -> Any:
        """What the network gives: logits, or a list of dictionaries of a detector."""
        if tuple(images.shape[1:]) != self.shape:
            return self.network(images) if sizes is None else self.network(images, sizes)
        arrays = [images.contiguous().numpy()]
        if self.task == "detect":
            height, width = self.shape[1:]
            given = [(height, width)] * len(images) if sizes is None else sizes
            arrays.append(np.asarray(given, dtype=np.float32))
        found = [torch.from_numpy(part) for part in self._run(arrays)]
        return to_lists(Detections(*found)) if self.task == "detect" else found[0]

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Call the runner, in pieces of its batch, the last one filled up with its first image."""
        count, batch = len(arrays[0]), self.batch
        if batch is None or batch == count:
            return self.runner(*arrays)
        pieces = []
        for start in range(0, count, batch):
            piece = [array[start : start + batch] for array in arrays]
            missing = batch - len(piece[0])
            pieces.append(self.runner(*(np.concatenate([part, *[part[:1]] * missing]) for part in piece)))
        return [np.concatenate(parts)[:count] for parts in zip(*pieces)]
