"""Networks as what takes pictures as they are: of any size, resized and cropped in the graph.

Pixels come out as Pillow's: rounded after each axis, the width first, as Pillow up to 12 does always and 13 does unless
the height shrinks much more. Values that lie half way may be one step off.

Shapes: b pictures, c channels, H x W pixels of the pictures, n classes.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from allmlp.backends.forms import Form, RawForm
from allmlp.data import ImageSpec
from allmlp.ops.resample import nearest_cells, resize_matrix

Side = Int[Tensor, ""]
"""Cells of an axis, a number that the graph works out."""
Resized = Callable[[Side, Side], tuple[Side, Side]]
"""From a picture's height and width to those after resizing."""


class PictureForm(RawForm):
    """A raw form that brings pictures to the network's size itself: uint8 (b, H, W, c), any H and W, one size a batch.

    Of a classifier `probabilities` (b, n), of a segmenter `labels` uint8 (b, H, W), of a detector what it always gives,
    its boxes in pixels of the picture.
    """

    free_axes = ((1, "height"), (2, "width"))  # of the pictures, beside the batch
    products = 2  # matrix products of the graph that only resize; they are its first ones

    def __init__(self, form: Form, task: str, spec: ImageSpec, antialias: bool = True) -> None:
        """antialias: low-pass before shrinking for the dense tasks."""
        super().__init__(form, task, spec.mean, spec.std)
        self.input_names = ("images",)
        self.size = spec.size
        self.cropped = task == "classify"
        self.resized = _cropped_from(spec) if self.cropped else _fitted_into(*spec.size)
        self.kind, self.antialias = (spec.interpolation, True) if self.cropped else ("bilinear", antialias)
        self.filled = not self.cropped or spec.crop_mode == "border"
        self.register_buffer("colour", (255 * torch.tensor(spec.mean)).round()[:, None, None])

    def forward(self, images: Tensor) -> Any:  # type: ignore[override]
        """Pictures to results."""
        sides = images.shape[1:3]
        whole = [torch.scalar_tensor(side, dtype=torch.int64) for side in sides]
        resized = self.resized(*whole)
        x = self.brought_to(resized, images)
        if self.task == "detect":
            boxes, *others = self.results(x, torch.stack(resized).float().expand(images.shape[0], 2))
            scale = torch.stack(whole).float() / torch.stack(resized).float()
            return boxes * scale.flip(0).repeat(2), *others
        found = self.results(x)
        if self.task == "segment":
            for axis, (side, old, new) in enumerate(zip(sides, whole, resized), start=1):
                found = found.index_select(axis, nearest_cells(torch.arange(side), new, old))
        return found

    def brought_to(self, resized: tuple[Side, Side], images: Tensor) -> Tensor:
        """Pictures resized and cropped or filled up: whole numbers as float32 (b, c, h, w) of the network's size."""
        down, across = (
            resize_matrix(side, new, _corner(new, seen) if self.cropped else 0 * new, seen, self.kind, self.antialias)
            for side, new, seen in zip(images.shape[1:3], resized, self.size)
        )
        x = _as_bytes(down @ _as_bytes(images.permute(0, 3, 1, 2).float() @ across.T))
        if self.filled:
            x = x + self.colour * (1 - down.sum(1).round()[:, None] * across.sum(1).round())  # type: ignore[operator]
        return x


def _as_bytes(x: Tensor) -> Tensor:
    """Values as bytes hold them; a hair more than half a unit, so that halves go up in whatever order one sums."""
    return (x + (0.5 + 2**-11)).floor().clamp(0, 255)


def _cropped_from(spec: ImageSpec) -> Resized:
    """How large a classifier's picture is made before it is cropped, as timm does it."""
    tall, broad = (math.floor(side / spec.crop_pct) for side in spec.size)

    def squash(height: Side, width: Side) -> tuple[Side, Side]:
        return torch.full_like(height, tall), torch.full_like(width, broad)

    def by_short_side(height: Side, width: Side) -> tuple[Side, Side]:
        short = torch.minimum(height, width)
        return tall * height // short, tall * width // short

    def keep_ratio(height: Side, width: Side) -> tuple[Side, Side]:
        # Where the height fits exactly the width is in proportion, and the other way round.
        is_broad = height * broad <= width * tall
        fits_height = is_broad if spec.crop_mode == "center" else ~is_broad
        return (
            torch.where(fits_height, tall, _nearest(height * broad, width)),
            torch.where(fits_height, _nearest(width * tall, height), broad),
        )

    if spec.crop_mode == "squash":
        return squash
    return by_short_side if spec.crop_mode == "center" and spec.height == spec.width else keep_ratio


def _fitted_into(tall: int, broad: int) -> Resized:
    """How large a picture is made that has to fit a canvas, sides rounded half up and at least 1."""

    def resized(height: Side, width: Side) -> tuple[Side, Side]:
        is_broad = height * broad <= width * tall
        return (
            torch.where(is_broad, (2 * height * broad + width) // (2 * width), tall).clamp(min=1),
            torch.where(is_broad, broad, (2 * width * tall + height) // (2 * height)).clamp(min=1),
        )

    return resized


def _corner(resized: Side, seen: int) -> Side:
    """Where the middle of a resized axis begins that is seen; below 0 if the axis is shorter."""
    missing, over = (seen - resized).clamp(min=0), (resized - seen).clamp(min=0)
    return _nearest(over, 2) - missing // 2


def _nearest(a: Tensor, b: Tensor | int) -> Tensor:
    """a / b to the nearest whole number, of two the even one, as Python rounds."""
    up = (2 * a + b) // (2 * b)
    return up - (2 * a + b == 2 * b * up) * (up % 2)
