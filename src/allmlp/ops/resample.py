"""Resizing as a matrix product along each axis, for graphs that take pictures of any size.

Runtimes resize each in its own way, few as Pillow does, with which models are trained and judged; on sums and products
they agree. Row i of a resizing matrix says how cell i of the result is weighed from the cells of an axis. Sizes enter
as whole numbers, so that no runtime rounds a position.

Source: Pillow 12, Image.Resampling (the filters, what low-passes, and what happens at borders).
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor


def resize_matrix(
    length: int, resized: Int[Tensor, ""], first: Int[Tensor, ""], count: int, kind: str, antialias: bool = True
) -> Float[Tensor, "count length"]:
    """Weights of `count` cells of an axis that is resized, from its `length` cells.

    Args:
        length: cells of the axis now; may be symbolic.
        resized: cells of the whole axis after resizing.
        first: which of those the first row is; below 0 if the axis is to begin further on.
        count: number of rows.
        kind: "nearest", "bilinear", "bicubic" or "lanczos".
        antialias: low-pass before shrinking, as Pillow always does; without it only nearest and bilinear are usual.

    Returns:
        Rows that sum to 1; rows of zeros for cells outside the resized axis.
    """
    cell = torch.arange(count, device=first.device)[:, None] + first
    source = torch.arange(length, device=first.device)
    inside = (cell >= 0) & (cell < resized)
    if kind == "nearest":
        return ((source == nearest_cells(cell, length, resized)) & inside).float()
    # From a result's centre to a cell's, in cells, or in those of the result where it is low-passed.
    unit = resized.clamp(min=length) if antialias else resized
    apart = (((2 * source + 1) * resized - (2 * cell + 1) * length).float() / (2 * unit).float()).abs()
    reach, taken = _FILTERS[kind]
    weights = torch.where((apart < reach) & inside, taken(apart), 0.0)
    return weights / torch.where(inside, weights.sum(1, keepdim=True), 1.0)


def nearest_cells(
    cell: Int[Tensor, "..."], length: int | Int[Tensor, ""], resized: Int[Tensor, ""]
) -> Int[Tensor, "..."]:
    """Which of the `length` cells of an axis lies under the centre of a cell of the axis resized."""
    return (2 * cell + 1) * length // (2 * resized)


def _bicubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -1/2."""
    return torch.where(x < 1, (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2)


def _lanczos(x: Tensor) -> Tensor:
    """sinc(x) sinc(x / 3), of angles that are not 0."""
    angle = math.pi * x.clamp(min=1e-4)
    return 3 * angle.sin() * (angle / 3).sin() / angle**2


_FILTERS: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "bilinear": (1.0, lambda x: 1 - x),
    "bicubic": (2.0, _bicubic),
    "lanczos": (3.0, _lanczos),
}
"""Half the width of each filter, and its value at a distance."""
