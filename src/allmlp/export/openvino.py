"""Write a network as OpenVINO."""

import tempfile
from pathlib import Path

from torch import Tensor, nn

from allmlp.export.onnx import write_onnx


def write_openvino(network: nn.Module, example: Tensor, path: str | Path, dynamic_batch: bool = True) -> Path:
    """Write a module in evaluation mode as OpenVINO's `.xml`, its weights in float32 beside it in `.bin`.

    Arguments as of `write_onnx`, through whose graph it goes.
    """
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        model = openvino.convert_model(write_onnx(network, example, Path(folder) / "model.onnx", dynamic_batch))
        openvino.save_model(model, str(path), compress_to_fp16=False)
    return Path(path)
