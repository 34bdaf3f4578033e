"""Features of regions, from the pyramid level that fits each region's size.

Differs from torchvision's `MultiScaleRoIAlign`: aligned to half pixels, as many samples as a region has cells, and, if
wanted, shapes that do not depend on the data.
Source: Mask R-CNN, arXiv 1703.06870, section 3; level rule of arXiv 1612.03144, equation 1.
Shapes: k regions, each (image, x1, y1, x2, y2) in pixels; c channels; s the side of the pooled square.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import roi_align

from allmlp.dense.boxes import at_least_float32

_OUTSIDE = -1e4  # pixels; no sample of a region there lies on a map, so it pools to exactly 0


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
    samples: int = 0,
    fixed_shapes: bool = True,
) -> Float[Tensor, "k c s s"]:
    """Pool every region to `side` x `side` from its level.

    Args:
        samples: points along each side of a bin; 0: as many as the bin has cells.
        fixed_shapes: pool all regions from each level, those of other levels moved off the map where they give 0, and
            add up, so that no shape depends on the data; else each level pools its own, with the same result, faster.
    """
    boxes = at_least_float32(regions)
    levels = region_levels(boxes[:, 1:], len(maps), finest)

    def pool(level: int, rois: Tensor) -> Tensor:
        features = at_least_float32(maps[level])
        rois = rois.to(features.dtype)
        return roi_align(features, rois, side, 1 / strides[level], samples, aligned=True)

    if fixed_shapes:
        away = torch.cat([boxes[:, :1], torch.full_like(boxes[:, 1:], _OUTSIDE)], dim=1)
        parts = [pool(level, torch.where((levels == level)[:, None], boxes, away)) for level in range(len(maps))]
        pooled = sum(parts[1:], parts[0])
    else:
        order = levels.argsort(stable=True)
        rows = boxes[order].split(levels.bincount(minlength=len(maps)).tolist())
        pooled = torch.cat([pool(level, own) for level, own in enumerate(rows)])[order.argsort()]
    return pooled.to(maps[0].dtype)


def to_regions(boxes: Float[Tensor, "_b _n 4"] | Sequence[Float[Tensor, "_n 4"]]) -> Float[Tensor, "k 5"]:
    """One list of regions from one list of boxes an image."""
    if isinstance(boxes, Tensor):
        image = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)[:, None, None]
        return torch.cat([image.expand(-1, boxes.shape[1], 1), boxes], dim=2).flatten(0, 1)
    return torch.cat([torch.cat([b.new_full((len(b), 1), i), b], dim=1) for i, b in enumerate(boxes)])
