"""Slow, obvious versions of operations, to compare the fast ones with."""

import torch
from torch import Tensor


def source_cell(place: int, size: int, padding: str) -> int | None:
    """The cell inside a row of `size` that a place, perhaps outside it, shows; None for a zero."""
    if padding == "zeros":
        return place if 0 <= place < size else None
    if padding == "circular":
        while place < 0:
            place += size
        while place >= size:
            place -= size
        return place
    if padding == "replicate":
        return 0 if place < 0 else min(place, size - 1)
    while not 0 <= place < size:  # reflect: mirrored at the border cell, as often as needed
        if size == 1:
            return 0
        place = -place if place < 0 else 2 * (size - 1) - place
    return place


def slow_axial_shift(
    x: Tensor, shift_size: int, dim: int, dilation: int = 1, padding: str = "zeros", channel_dim: int = 1
) -> Tensor:
    """result[.., c, .., j] = x[.., c, .., j - offset(c)], cell by cell."""
    moved = x.movedim((channel_dim, dim), (0, 1))
    result = torch.zeros_like(moved)
    channels, size = moved.shape[:2]
    width = -(-channels // shift_size)
    for c in range(channels):
        offset = dilation * (c // width - (shift_size - 1) // 2)
        for j in range(size):
            source = source_cell(j - offset, size, padding)
            if source is not None:
                result[c, j] = moved[c, source]
    return result.movedim((0, 1), (channel_dim, dim))
