"""Which boxes are trained towards which objects, and which of them are drawn for a step.

Differs from torchvision's matcher: an object's best boxes become its own only if they overlap enough, and they become
*its* own, even where they overlap another object more.
Source: Faster R-CNN, arXiv 1506.01497, section 3.1.2, with mmdet 2.11's rules for low-quality matches.
Shapes: n boxes (anchors or proposals), g objects.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import box_iou

NEGATIVE = -1
IGNORED = -2

# Overlaps are computed for as many objects at a time as keep the table below this many entries (64 MB in float32).
_TABLE = 1 << 24


def assign(
    boxes: Float[Tensor, "n 4"],
    objects: Float[Tensor, "g 4"],
    positive_iou: float,
    negative_iou: float,
    low_quality_iou: float | None = None,
) -> Int[Tensor, "n"]:
    """The object that each box is trained towards, or `NEGATIVE`, or `IGNORED`.

    A box whose best overlap is at least `positive_iou` gets that object (the first of equals); below `negative_iou` it
    is negative; in between it is ignored. If `low_quality_iou` is given, every box that overlaps an object as much as
    any box does is then given to that object, if this overlap is at least `low_quality_iou`; of several such objects
    the last wins.

    Memory is bounded: the table of overlaps is made in slices.
    """
    count = len(boxes)
    best = boxes.new_zeros(count)
    which = torch.full((count,), NEGATIVE, dtype=torch.long, device=boxes.device)
    own = which.clone()
    step = max(1, _TABLE // max(count, 1))
    for start in range(0, len(objects) if count else 0, step):
        overlaps = box_iou(objects[start : start + step], boxes)
        highest, index = overlaps.max(dim=0)
        better = (highest > best) | (which == NEGATIVE)
        which = torch.where(better, index + start, which)
        best = torch.where(better, highest, best)
        if low_quality_iou is not None:
            most = overlaps.amax(dim=1, keepdim=True)
            theirs = (overlaps == most) & (most >= low_quality_iou)
            number = torch.arange(start, start + len(overlaps), device=boxes.device)[:, None]
            own = torch.maximum(own, torch.where(theirs, number, NEGATIVE).amax(dim=0))
    assigned = torch.where(best >= positive_iou, which, IGNORED)
    assigned = torch.where(best < negative_iou, NEGATIVE, assigned)
    return torch.where(own >= 0, own, assigned)


def sample(
    assigned: Int[Tensor, "n"], count: int, positive_fraction: float
) -> tuple[Int[Tensor, "p"], Int[Tensor, "q"]]:
    """Draw `count` boxes at random: at most `positive_fraction` of them positive, the rest negative.

    Returns:
        Indices of the positive and of the negative boxes drawn; fewer where there are not enough.
    """
    positive = torch.nonzero(assigned >= 0).flatten()
    negative = torch.nonzero(assigned == NEGATIVE).flatten()
    positive = _draw(positive, int(count * positive_fraction))
    return positive, _draw(negative, count - len(positive))


def _draw(indices: Tensor, count: int) -> Tensor:
    if len(indices) <= count:
        return indices
    return indices[torch.randperm(len(indices), device=indices.device)[:count]]
