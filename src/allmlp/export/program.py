"""From a module to a torch.export program, the common start of every format.

Shapes: b images, c channels, h x w pixels.
"""

from typing import Any

import torch
from torch import Tensor, nn


def output_names(network: nn.Module) -> list[str] | None:
    """The names of what a network gives, if it says them in `output_names`."""
    names = getattr(network, "output_names", None)
    return list(names) if names else None


def dynamic_batch_shapes(dynamic_batch: bool) -> tuple[dict[int, Any], ...] | None:
    """What `torch.export` is told of the one input: its first axis may have any length."""
    return ({0: torch.export.Dim("batch", min=1)},) if dynamic_batch else None


def export_program(network: nn.Module, example: Tensor, dynamic_batch: bool) -> torch.export.ExportedProgram:
    """The program of a module in evaluation mode that takes one tensor; the first axis of it is the batch.

    An example of one image would make the exporter believe that there is always one, so it is doubled.
    """
    if dynamic_batch and len(example) == 1:
        example = torch.cat([example, example])
    return torch.export.export(network.eval(), (example,), dynamic_shapes=dynamic_batch_shapes(dynamic_batch))
