"""From a module to a torch.export program, the common start of every format.

Shapes: b images.
"""

from typing import Any

import torch
from torch import Tensor, nn

Example = Tensor | tuple[Tensor, ...]


def names_of(network: nn.Module, what: str) -> list[str] | None:
    """A network's own names of its "input" or "output" arrays, if it has them in `input_names` or `output_names`."""
    names = getattr(network, f"{what}_names", None)
    return list(names) if names else None


def export_program(network: nn.Module, example: Example, dynamic_batch: bool) -> torch.export.ExportedProgram:
    """The program of a module in evaluation mode; the first axis of every input is the batch."""
    inputs = example if isinstance(example, tuple) else (example,)
    shapes: Any = None
    if dynamic_batch:
        # An example of one image would make the exporter believe that there is always one, so it is doubled.
        inputs = tuple(torch.cat([part, part]) if len(part) == 1 else part for part in inputs)
        batch = torch.export.Dim("batch", min=1)
        shapes = tuple({0: batch} for _ in inputs)
    return torch.export.export(network.eval(), inputs, dynamic_shapes=shapes)
