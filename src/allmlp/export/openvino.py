"""Write a network as OpenVINO."""

import tempfile
from pathlib import Path

from torch import nn

from allmlp.backends.open_vino import import_openvino
from allmlp.export.onnx import write_onnx
from allmlp.export.program import Example


def write_openvino(
    network: nn.Module, example: Example, path: str | Path, dynamic_batch: bool = True, half: bool = False
) -> Path:
    """Write a module in evaluation mode as OpenVINO's `.xml`, with its weights beside it in `.bin`.

    Arguments as of `write_onnx`, through whose graph it goes.
    """
    openvino = import_openvino()
    with tempfile.TemporaryDirectory() as folder:
        model = openvino.convert_model(write_onnx(network, example, Path(folder) / "model.onnx", dynamic_batch))
        openvino.save_model(model, str(path), compress_to_fp16=half)
    return Path(path)
