"""Run an AOTInductor package."""

from pathlib import Path

import numpy as np
import torch

from allmlp.backends.runner import Runner
from allmlp.backends.torch_network import as_arrays


class PackageRunner(Runner):
    """A compiled program; it needs torch, but neither this package nor a compiler."""

    name = "pt2"

    def __init__(self, path: Path) -> None:
        self._call = torch._inductor.aoti_load_package(str(path))
        self.inputs = ["images"]
        self.outputs = ["output"]

    @torch.inference_mode()
    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        return as_arrays(self._call(*map(torch.from_numpy, arrays)))
