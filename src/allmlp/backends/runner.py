"""What all backends have in common, and which one runs what.

Shapes: b images, c channels, h x w pixels.
"""

import abc
from pathlib import Path

import numpy as np
import torch
from torch import nn

from allmlp.errors import InputError

BACKENDS = ("eager", "compile", "onnxruntime", "openvino", "pt2")
FILE_BACKENDS = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",), ".pt2": ("pt2",)}
"""Suffix of a file to the backends that run it, the usual one first."""


class Runner(abc.ABC):
    """A network that is ready to be called.

    name: one of `BACKENDS`. inputs, outputs: the names of its arrays.
    """

    name: str
    inputs: list[str]
    outputs: list[str]

    @abc.abstractmethod
    def __call__(self, images: np.ndarray, *more: np.ndarray) -> list[np.ndarray]:
        """Every output of a batch.

        Args:
            images: float32 (b, c, h, w), or uint8 (b, h, w, c) where the file takes raw images.
            more: what else the network takes: of detectors the sizes (b, 2) of the images inside their canvas.
        """


def set_threads(threads: int | None) -> int:
    """Let PyTorch compute with this many threads; None leaves it as it is. The number that is now in force.

    Runners of ONNX Runtime and OpenVINO take their number when they are opened: `threads=`, else PyTorch's.

    Raises:
        InputError: below 1.
    """
    if threads is not None:
        if threads < 1:
            raise InputError(f"threads: wanted at least 1; got {threads}.")
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def open_network(
    network: nn.Module, backend: str = "eager", threads: int | None = None, channels_last: bool | None = None
) -> Runner:
    """A module that takes one tensor and gives one, or a flat tuple of them, in evaluation mode on the CPU.

    Args:
        backend: "eager" or "compile", which compiles at the first call and anew for a second batch size.
        threads: see `set_threads`.
        channels_last: the memory layout of images and weights; None chooses by the network.

    Raises:
        InputError: another backend.
    """
    from allmlp.backends.torch_network import NetworkRunner

    if backend not in ("eager", "compile"):
        raise InputError(
            f"backend: wanted eager or compile for a network in memory; got {backend!r}. Export it first: allmlp export"
        )
    set_threads(threads)
    return NetworkRunner(network, backend, channels_last)


def open_file(path: str | Path, backend: str | None = None, threads: int | None = None) -> Runner:
    """An exported file.

    Args:
        path: `.onnx`, `.xml` (OpenVINO, with its `.bin` beside) or `.pt2` (AOTInductor).
        backend: one that runs such files; None takes the usual one.
        threads: see `set_threads`.

    Raises:
        InputError: no such file, or no backend for it.
    """
    path = Path(path)
    known = FILE_BACKENDS.get(path.suffix)
    if known is None:
        raise InputError(f"Wanted an exported file ({', '.join(FILE_BACKENDS)}); got {path}.")
    if not path.is_file():
        raise InputError(f"Wanted an exported file; there is none at {path}.")
    backend = backend or known[0]
    if backend not in known:
        raise InputError(f"backend: wanted {' or '.join(known)} for a {path.suffix} file; got {backend!r}.")
    count = set_threads(threads)
    if backend == "onnxruntime":
        from allmlp.backends.onnx_runtime import OnnxRunner

        return OnnxRunner(path, count)
    if backend == "openvino":
        from allmlp.backends.open_vino import OpenVinoRunner

        return OpenVinoRunner(path, count)
    from allmlp.backends.package import PackageRunner

    return PackageRunner(path)
