"""Write a network as ONNX."""

from pathlib import Path

import torch
from torch import Tensor, nn

from allmlp.export.program import export_program, output_names


def write_onnx(network: nn.Module, example: Tensor, path: str | Path, dynamic_batch: bool = True) -> Path:
    """Write a module in evaluation mode as one ONNX file.

    Args:
        network: takes one tensor and gives one, or a flat tuple of them, named by its `output_names`.
        example: an input; its shape is what the file takes, but for the batch.
        dynamic_batch: whether any number of images fits, or only as many as in the example.
    """
    with torch.no_grad():
        program = export_program(network, example, dynamic_batch)
        written = torch.onnx.export(
            program, input_names=["images"], output_names=output_names(network), dynamo=True, verbose=False
        )
    written.save(str(path))
    return Path(path)
