"""The boxes that a region proposal network starts from.

Differs from torchvision's generator: sizes are not rounded, and the level's stride, not a list, sets the size.
Source: Faster R-CNN, arXiv 1506.01497, as mmdet 2.11 lays anchors out (reference numbers: 8 x stride, ratios .5, 1, 2).
Shapes: a anchors a cell, h x w cells of a level.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def cell_anchors(
    stride: int, scale: float, ratios: Sequence[float], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "a 4"]:
    """The anchors of the cell at (0, 0), centred there: area (scale * stride)^2, one for each height / width ratio."""
    roots = torch.tensor(ratios, dtype=torch.float64).sqrt()
    heights, widths = scale * stride * roots, scale * stride / roots
    return (torch.stack([-widths, -heights, widths, heights], dim=1) / 2).to(dtype)


def grid_anchors(
    size: tuple[int, int],
    stride: int,
    scale: float = 8.0,
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "n 4"]:
    """All anchors of a level of `size` (h, w) cells, in the order row, column, ratio: (h * w * a, 4) in pixels.

    The cell in row y and column x has its centre at (stride * x, stride * y): on the top left corner of its pixels.
    """
    rows = torch.arange(size[0], device=device, dtype=dtype) * stride
    columns = torch.arange(size[1], device=device, dtype=dtype) * stride
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    centres = torch.stack([x, y, x, y], dim=-1)
    return (centres[:, :, None] + cell_anchors(stride, scale, ratios, dtype).to(device)).reshape(-1, 4)
