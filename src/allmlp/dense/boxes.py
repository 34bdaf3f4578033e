"""Boxes as deltas to other boxes, clipped to their image.

Source: R-CNN's box coding (arXiv 1311.2524, appendix C) with the limits of Mask R-CNN's reference implementations.
Shapes: n boxes, each (x1, y1, x2, y2) in pixels, x1 < x2 and y1 < y2; `...` any leading axes.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from allmlp.errors import InputError

# No single step makes a box more than 62.5 times wider or narrower.
MAX_LOG_RATIO = abs(math.log(16 / 1000))

Stds = tuple[float, float, float, float]


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor in float32 if it is of lower precision: coordinates of large images need it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def encode_boxes(anchors: Float[Tensor, "n 4"], boxes: Float[Tensor, "n 4"], stds: Stds) -> Float[Tensor, "n 4"]:
    """What `decode_boxes` turns back into `boxes`: shifts by the anchor's size, log ratios, each divided by its std."""
    anchor_centre, anchor_size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    deltas = torch.cat([(centre - anchor_centre) / anchor_size, torch.log(size / anchor_size)], dim=1)
    return deltas / deltas.new_tensor(stds)


def decode_boxes(anchors: Float[Tensor, "*a 4"], deltas: Float[Tensor, "*b 4"], stds: Stds) -> Float[Tensor, "*c 4"]:
    """Boxes from anchors and deltas, whose leading axes broadcast; log ratios are cut at +-`MAX_LOG_RATIO`."""
    deltas = deltas * deltas.new_tensor(stds)
    size = anchors[..., 2:] - anchors[..., :2]
    centre = (anchors[..., :2] + anchors[..., 2:]) / 2 + deltas[..., :2] * size
    half = size * deltas[..., 2:].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def clip_boxes(boxes: Float[Tensor, "*n 4"], size: Float[Tensor, "*m 2"]) -> Float[Tensor, "*n 4"]:
    """Boxes cut at the edges of images of `size` (height, width), a tensor so that exported programs take any.

    The leading axes of `size` broadcast to those of the boxes.
    """
    height, width = size.unbind(dim=-1)
    return torch.minimum(boxes.clamp(min=0), torch.stack([width, height, width, height], dim=-1))


def has_area(boxes: Float[Tensor, "*n 4"]) -> Tensor:
    """Which boxes have a positive width and height, (...,) bool."""
    return ((boxes[..., 2:] - boxes[..., :2]) > 0).all(dim=-1)


def as_sizes(sizes: Tensor | Sequence[tuple[int, int]] | None, images: Tensor) -> Float[Tensor, "b 2"]:
    """Image sizes (height, width) inside a padded batch, as a tensor (b, 2); None means that nothing is padding.

    Raises:
        InputError: not one pair an image, or an image larger than the batch's canvas.
    """
    batch, (height, width) = images.shape[0], images.shape[-2:]
    if sizes is None:
        sizes = [(height, width)] * batch
    if not isinstance(sizes, Tensor):
        listed = [tuple(size) for size in sizes]
        if len(listed) != batch or any(len(size) != 2 or size[0] > height or size[1] > width for size in listed):
            raise InputError(
                f"Wanted {batch} image sizes (height, width), each at most {height} x {width}, the padded batch's; "
                f"got {listed}."
            )
        sizes = torch.tensor(listed)
    return sizes.to(device=images.device, dtype=torch.promote_types(images.dtype, torch.float32))
