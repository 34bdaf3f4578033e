"""The augmentation pipelines of detection and segmentation: the papers' own, and small ones by image size.

Sources: the training and test pipelines of AS-MLP's COCO and ADE20K configurations (Swin Transformer's policies).
Shapes: c channels, h height and w width in pixels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from allmlp.data.dense_ops import (
    BalancedWindow,
    DropCrowds,
    DropEmptyBoxes,
    PhotometricDistortion,
    RandomWindow,
    ResizeKeepRatio,
    fit_size,
)
from allmlp.data.spec import ImageSpec
from allmlp.errors import InputError

IGNORE_LABEL = 255


@dataclass(frozen=True)
class View:
    """The size at which a network sees images: the largest whose sides stay within these bounds, in pixels.

    antialias: low-pass when shrinking; the authors do not.
    """

    short_side: int
    long_side: int
    antialias: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of an image of this size, seen."""
        return fit_size(height, width, self.short_side, self.long_side)


@dataclass(frozen=True)
class DetectionAugment:
    """How images reach a detector. The defaults are the COCO recipes of AS-MLP.

    In training an image is mirrored with probability `flip`; then comes policy A, or with probability `crop_chance`
    policy B. A: resize with the short side drawn from `short_sides`, the long side at most `long_side`. B: resize with
    the short side drawn from `crop_short_sides`; crop a window whose sides are drawn from `crop_range` (it may hold no
    object); then A. In evaluation: resize to (`test_short_side`, `long_side`).

    Args:
        antialias: low-pass when shrinking; the authors do not.
    """

    short_sides: tuple[int, ...] = tuple(range(480, 801, 32))
    long_side: int = 1333
    crop_short_sides: tuple[int, ...] = (400, 500, 600)
    crop_range: tuple[int, int] = (384, 600)
    crop_chance: float = 0.5
    flip: float = 0.5
    test_short_side: int = 800
    antialias: bool = False

    def __post_init__(self) -> None:
        sides = (*self.short_sides, self.long_side, *self.crop_short_sides, *self.crop_range, self.test_short_side)
        if not self.short_sides or not self.crop_short_sides or min(sides) < 1:
            raise InputError(f"Sides to resize to are whole pixels of at least 1; got {sides}.")
        if self.crop_range[0] > self.crop_range[1]:
            raise InputError(f"crop_range is (least, most) in pixels; got {self.crop_range}.")
        _check_chances(crop_chance=self.crop_chance, flip=self.flip)

    @property
    def view(self) -> View:
        """How images are seen in evaluation."""
        return View(self.test_short_side, self.long_side, self.antialias)

    @classmethod
    def small(cls, size: int, flip: float = 0.0) -> "DetectionAugment":
        """For small images on a canvas of `size` x `size` pixels: the same policies, on a smaller scale.

        Windows of half the size to all of it are cropped. Nothing is resized beyond the canvas. No
        mirroring unless asked for: digits and letters do not survive it.
        """
        step = max(1, size // 16)
        return cls(
            short_sides=tuple(range(size * 3 // 4, size + 1, step)),
            long_side=size,
            crop_short_sides=(size,),
            crop_range=(size // 2, size),
            crop_chance=0.25,
            flip=flip,
            test_short_side=size,
            antialias=True,
        )


@dataclass(frozen=True)
class SegmentationAugment:
    """How images reach a segmenter. The defaults are the ADE20K recipe of AS-MLP.

    In training: resize to (`short_side`, `long_side`) times a ratio drawn from `ratio`; crop to `crop` (height, width)
    so that no class fills `most_of_crop` of it (`BalancedWindow`); mirror with probability `flip`; distort the colours;
    pad to `crop` with the mean colour and label 255. In evaluation: resize to (`short_side`, `long_side`), no padding,
    and the label map keeps its own size.

    Args:
        brightness, contrast, saturation, hue: as in `PhotometricDistortion`, in steps of 8-bit values and half degrees.
        rotate, shear: largest turn and slant across and down, in degrees, either way; what comes in from outside has
            the mean colour and label 255. Not in the papers: 0.
        antialias: low-pass when shrinking; the authors do not.
    """

    short_side: int = 512
    long_side: int = 2048
    ratio: tuple[float, float] = (0.5, 2.0)
    crop: tuple[int, int] = (512, 512)
    most_of_crop: float = 0.75
    flip: float = 0.5
    brightness: float = 32
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: int = 18
    rotate: float = 0.0
    shear: float = 0.0
    antialias: bool = False

    def __post_init__(self) -> None:
        if min(self.rotate, self.shear) < 0 or max(self.rotate, self.shear) >= 90:
            raise InputError(f"rotate and shear are degrees in [0, 90); got {self.rotate}, {self.shear}.")
        if min(self.short_side, self.long_side, *self.crop) < 1:
            raise InputError(
                f"Sides are whole pixels of at least 1; got {self.short_side}, {self.long_side}, {self.crop}."
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise InputError(f"ratio is (least, most), both above 0; got {self.ratio}.")
        _check_chances(most_of_crop=self.most_of_crop, flip=self.flip)

    @property
    def view(self) -> View:
        """How images are seen in evaluation."""
        return View(self.short_side, self.long_side, self.antialias)

    @classmethod
    def small(cls, size: int, flip: float = 0.0) -> "SegmentationAugment":
        """For small images on a canvas of `size` x `size` pixels: ratios 0.9 to 1.1, any share of one class in a crop.

        Small scenes are mostly background, which the share rule would fight. No mirroring unless asked for.
        """
        return cls(
            short_side=size,
            long_side=size,
            ratio=(0.9, 1.1),
            crop=(size, size),
            most_of_crop=1.0,
            flip=flip,
            antialias=True,
        )


def build_view_transform(spec: ImageSpec, view: View | None) -> v2.Transform:
    """(image uint8, target) -> (image float32 (c, h, w) as seen, normalised; the target as it is).

    view: None to leave the image at its own size.
    """
    if view is None:
        return v2.Compose(_normalise(spec))
    resize = ResizeKeepRatio((view.short_side,), view.long_side, None, view.antialias, only_image=True)
    return v2.Compose([resize, *_normalise(spec)])


def build_detection_transform(spec: ImageSpec, augment: DetectionAugment, training: bool) -> v2.Transform:
    """(image uint8, target) -> (image float32 (c, h, w), normalised; target).

    In training boxes and masks follow the image, crowd regions and emptied boxes are gone. In evaluation the image
    alone is resized: the target stays in pixels of the original file, as scoring wants it.
    Only mean and std are taken from `spec`; sizes are `augment`'s, because detectors see images of many sizes.
    """
    if not training:
        return build_view_transform(spec, augment.view)
    resize = ResizeKeepRatio(augment.short_sides, augment.long_side, antialias=augment.antialias)
    crop = [
        ResizeKeepRatio(augment.crop_short_sides, augment.long_side, antialias=augment.antialias),
        RandomWindow(*augment.crop_range),
        DropEmptyBoxes(),
    ]
    return v2.Compose(
        [
            DropCrowds(),
            v2.RandomHorizontalFlip(augment.flip),
            v2.RandomChoice([resize, v2.Compose([*crop, resize])], p=[1 - augment.crop_chance, augment.crop_chance]),
            DropEmptyBoxes(),
            *_normalise(spec),
        ]
    )


def build_segmentation_transform(spec: ImageSpec, augment: SegmentationAugment, training: bool) -> v2.Transform:
    """(image uint8, target with `mask`) -> (image float32 (c, h, w), normalised; target with `mask`).

    In training both have the size `augment.crop`. In evaluation the image alone is resized and the label map keeps the
    size of the file. Only mean and std are taken from `spec`.
    """
    if not training:
        return build_view_transform(spec, augment.view)
    slant: list[v2.Transform] = []
    if augment.rotate or augment.shear:
        fill: dict[type | str, Any] = {
            tv_tensors.Image: [255 * mean for mean in spec.mean],
            tv_tensors.Mask: IGNORE_LABEL,
        }
        shear = [-augment.shear, augment.shear, -augment.shear, augment.shear]
        bilinear = v2.InterpolationMode.BILINEAR
        slant = [v2.RandomAffine(augment.rotate, shear=shear, interpolation=bilinear, fill=fill)]
    return v2.Compose(
        [
            ResizeKeepRatio((augment.short_side,), augment.long_side, augment.ratio, augment.antialias),
            *slant,
            BalancedWindow(augment.crop, augment.most_of_crop, ignore_label=IGNORE_LABEL),
            v2.RandomHorizontalFlip(augment.flip),
            PhotometricDistortion(augment.brightness, augment.contrast, augment.saturation, augment.hue),
            *_normalise(spec),
            PadTo(augment.crop),
        ]
    )


class PadTo(v2.Transform):
    """Pad right and bottom to a size (height, width): normalised images with 0, label maps with 255."""

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size

    def transform(self, inpt: object, params: dict) -> object:
        height, width = F.get_size(inpt)
        fill = IGNORE_LABEL if isinstance(inpt, tv_tensors.Mask) else 0
        return F.pad(inpt, [0, 0, max(0, self.size[1] - width), max(0, self.size[0] - height)], fill=fill)


def _normalise(spec: ImageSpec) -> list[v2.Transform]:
    return [
        v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
        v2.Normalize(list(spec.mean), list(spec.std)),
    ]


def _check_chances(**chances: float) -> None:
    for name, value in chances.items():
        if not 0 <= value <= 1:
            raise InputError(f"{name} lies in [0, 1]; got {value}.")
