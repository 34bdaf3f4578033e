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
    """The program of a module in evaluation mode; the first axis of every input is the batch.

    A network's `free_axes`, pairs of axis and name, are those of its first input that may have any length of 2 or more.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    shapes: list[dict[int, Any]] = [{} for _ in inputs]
    if dynamic_batch:
        # An example of one image would make the exporter believe that there is always one, so it is doubled.
        inputs = tuple(torch.cat([part, part]) if len(part) == 1 else part for part in inputs)
        batch = torch.export.Dim("batch", min=1)
        shapes = [{0: batch} for _ in inputs]
    shapes[0] |= {axis: torch.export.Dim(name, min=2) for axis, name in getattr(network, "free_axes", ())}
    return torch.export.export(network.eval(), inputs, dynamic_shapes=tuple(shapes))
