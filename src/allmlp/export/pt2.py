"""Write a network as an AOTInductor package."""

from pathlib import Path

import torch
from torch import Tensor, nn

from allmlp.export.program import export_program


def write_pt2(network: nn.Module, example: Tensor, path: str | Path, dynamic_batch: bool = True) -> Path:
    """Compile a module in evaluation mode for this machine's processor; needs a C++ compiler. As `write_onnx`."""
    with torch.no_grad():
        program = export_program(network, example, dynamic_batch)
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    return Path(path)
