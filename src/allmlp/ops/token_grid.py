"""Token-mixing weights at another image size.

A token-mixing matrix has one row or column for each cell of a (height, width) grid, in row-major order. When the
image size changes, these rows and columns are images of the weights and can be resampled (`resample_inputs`,
`resample_outputs`) or, when the new grid is an integer multiple of the old, tiled (`tile_order`).

Shapes: n old tokens, m new tokens, both height * width, after `prefix` tokens (class tokens) that are copied.
"""

import torch
from torch import Tensor

Grid = tuple[int, int]


def interpolation_matrix(old: Grid, new: Grid) -> Tensor:
    """The matrix (m, n), float64, that resamples a flattened map from grid `old` to grid `new`.

    Bilinear with half-pixel centres, antialiased where the map shrinks. Every row sums to 1, and the matrix is the
    identity when the grids are equal.
    """
    rows, columns = (_axis_matrix(o, n) for o, n in zip(old, new))
    return torch.kron(rows, columns)


def _axis_matrix(old: int, new: int) -> Tensor:
    if old == new:
        return torch.eye(old, dtype=torch.float64)
    step = old / new
    reach = max(step, 1.0)  # a shrinking map averages over what it skips
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * step
    cells = torch.arange(old, dtype=torch.float64) + 0.5
    weights = (1 - (cells[None, :] - centres[:, None]).abs() / reach).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def resample_outputs(weight: Tensor, old: Grid, new: Grid, dim: int = 0, prefix: int = 0) -> Tensor:
    """Resample the axis `dim` of a weight or bias that produces tokens, so that it produces the new grid's.

    A map that was constant over the old grid stays constant, at the same value. The first `prefix` entries are kept.
    """
    return _resample(weight, interpolation_matrix(old, new), dim, prefix)


def resample_inputs(weight: Tensor, old: Grid, new: Grid, dim: int = 1, prefix: int = 0) -> Tensor:
    """Resample the axis `dim` of a weight that reads tokens, keeping its sum.

    The values are resampled as a map and divided by the ratio of the areas; at borders, where interpolation gives
    some cells more than their share, by that share. So the sum over the axis is exactly what it was, and a token map
    that is constant over the grid gives the same output at every size.
    """
    matrix = interpolation_matrix(old, new)
    return _resample(weight, matrix / matrix.sum(0, keepdim=True), dim, prefix)


def _resample(weight: Tensor, matrix: Tensor, dim: int, prefix: int) -> Tensor:
    if matrix.shape[0] == matrix.shape[1] and torch.equal(matrix, torch.eye(len(matrix), dtype=matrix.dtype)):
        return weight
    moved = weight.movedim(dim, -1)
    kept, cells = moved[..., :prefix], moved[..., prefix:]
    cells = (cells.double() @ matrix.to(cells.device).T).to(weight.dtype)
    return torch.cat([kept, cells], dim=-1).movedim(-1, dim).contiguous()


def tile_order(old: Grid, factors: Grid) -> tuple[Tensor, Tensor]:
    """For each token of the grid `old` times `factors`: the tile it lies in and its place inside that tile.

    Both are integer tensors of length m, in row-major order of the new grid. Tiles are numbered row by row.
    Source: MLP-Mixer, arXiv 2105.01601, appendix on higher resolutions.
    """
    rows = torch.arange(old[0] * factors[0])[:, None]
    columns = torch.arange(old[1] * factors[1])[None, :]
    tile = factors[1] * (rows // old[0]) + columns // old[1]
    place = old[1] * (rows % old[0]) + columns % old[1]
    return tile.reshape(-1), place.reshape(-1)


def integer_factors(old: Grid, new: Grid) -> Grid | None:
    """How many times the old grid fits in the new one along each axis, or None if not a whole number of times."""
    if new[0] % old[0] or new[1] % old[1]:
        return None
    return new[0] // old[0], new[1] // old[1]
