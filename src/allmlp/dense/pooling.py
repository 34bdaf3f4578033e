"""Adaptive average pooling as two small matrix products.

The same numbers as `torch.nn.functional.adaptive_avg_pool2d`, in operations that every exporter knows at any size.
Shapes: b images, c channels, h x w the map, k bins a side.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def bins(length: int, count: int, like: Tensor) -> Float[Tensor, "k l"]:
    """The matrix (count, length) that averages `length` cells in `count` bins.

    Bin i holds cells floor(i * length / count) up to, but without, ceil((i + 1) * length / count); bins overlap where
    the length is no multiple of the count.
    """
    index = torch.arange(count, device=like.device)[:, None]
    cell = torch.arange(length, device=like.device)[None, :]
    inside = (cell * count >= index * length - (index * length) % count) & (cell * count < (index + 1) * length)
    inside = inside.to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


def average_pool(x: Float[Tensor, "b c h w"], count: int) -> Float[Tensor, "b c k k"]:
    """The map averaged in `count` x `count` bins."""
    return bins(x.shape[-2], count, x) @ x @ bins(x.shape[-1], count, x).T
