"""Features of regions, from the pyramid level that fits each region's size.

Differs from torchvision's `MultiScaleRoIAlign`: aligned to half pixels, as many samples as a region has pixels, and
shapes that do not depend on the data.
Source: Mask R-CNN, arXiv 1703.06870, section 3; level rule of arXiv 1612.03144, equation 1.
Shapes: k regions, each (image, x1, y1, x2, y2) in pixels; c channels; s the side of the pooled square.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import roi_align

from allmlp.dense.boxes import at_least_float32


def region_levels(boxes: Float[Tensor, "k 4"], levels: int, finest: float = 56.0) -> Int[Tensor, "k"]:
    """floor(log2(sqrt(area) / finest + 1e-6)), cut to 0 .. levels - 1: level 0 for boxes below twice `finest`."""
    sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    return torch.log2(sides / finest + 1e-6).floor().clamp(0, levels - 1).long()


def pool_regions(
    maps: Sequence[Float[Tensor, "b c _h _w"]],
    strides: Sequence[int],
    regions: Float[Tensor, "k 5"],
    side: int,
    finest: float = 56.0,
) -> Float[Tensor, "k c s s"]:
    """Pool every region to `side` x `side` from its level.

    Each level pools all regions, but those of other levels shrunk to a point, for which no sample is taken and the
    result is exactly 0; the sum over levels is therefore each region's own pooling, with fixed shapes and little work.
    """
    boxes = regions[:, 1:]
    levels = region_levels(boxes, len(maps), finest)
    pooled = at_least_float32(maps[0].new_zeros(len(regions), maps[0].shape[1], side, side))
    for level, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        members = torch.where((levels == level)[:, None], boxes, 0.0)
        rois = torch.cat([regions[:, :1], members], dim=1).to(pooled.dtype)
        pooled = pooled + roi_align(
            at_least_float32(features), rois, side, spatial_scale=1 / stride, sampling_ratio=0, aligned=True
        )
    return pooled.to(maps[0].dtype)


def to_regions(boxes: Sequence[Float[Tensor, "_n 4"]]) -> Float[Tensor, "k 5"]:
    """One list of regions from one list of boxes an image."""
    return torch.cat([torch.cat([b.new_full((len(b), 1), i), b], dim=1) for i, b in enumerate(boxes)])
