"""Geometry and colour operations on an image together with its boxes and masks, as torchvision v2 transforms.

Each takes (image, target) with the image a `tv_tensors.Image` and the boxes and masks in the target tv_tensors, and
draws from torch's global generator (`seeded` fixes it). Sources: the pipelines that AS-MLP's detection and segmentation
configurations name, which are Swin Transformer's; the equations of each step stand at its class.

Shapes: h height and w width in pixels, n objects.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

PER_OBJECT = ("boxes", "labels", "masks", "iscrowd", "area", "annotation_ids")
"""The target's entries that hold one row an object."""


def fit_size(height: int, width: int, short_side: float, long_side: float) -> tuple[int, int]:
    """The largest (height, width) of the same shape whose short and long sides stay within these, in whole pixels.

    Sides are rounded half up and never below 1.

    >>> fit_size(480, 640, 800, 1333)
    (800, 1067)
    """
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def keep_objects(target: dict[str, Any], keep: Tensor) -> dict[str, Any]:
    """The target with only the objects where `keep` (n, boolean) holds; tv_tensors stay tv_tensors."""
    return {
        key: tv_tensors.wrap(value[keep], like=value)
        if key in PER_OBJECT and isinstance(value, tv_tensors.TVTensor)
        else value[keep]
        if key in PER_OBJECT
        else value
        for key, value in target.items()
    }


def uniform(low: float, high: float) -> float:
    """A number in [low, high) from torch's global generator."""
    return float(torch.empty(()).uniform_(low, high))


def integer(low: int, high: int) -> int:
    """A whole number in [low, high], both included, from torch's global generator."""
    return int(torch.randint(low, high + 1, ()))


def _size(flat_inputs: list[Any]) -> tuple[int, int]:
    for value in flat_inputs:
        if isinstance(value, tv_tensors.Image):
            return value.shape[-2], value.shape[-1]
    raise TypeError("wanted a tv_tensors.Image among the inputs")


class ResizeKeepRatio(v2.Transform):
    """Resize to `fit_size`, the short side drawn from a list, or both bounds scaled by one random ratio.

    Args:
        short_sides: bounds of the short side in pixels, one drawn with equal chance.
        long_side: bound of the long side in pixels.
        ratio: (least, most) of a factor on both bounds, drawn evenly; None for 1.
        antialias: low-pass images before shrinking, and take a mask's label at the centre of each new pixel. False is
            what the authors' OpenCV does: its nearest labels lie half a pixel right and below on average, which small
            objects do not forgive.
        only_image: leave boxes and masks as they are, as evaluation wants it.
    """

    def __init__(
        self,
        short_sides: tuple[int, ...],
        long_side: int,
        ratio: tuple[float, float] | None = None,
        antialias: bool = False,
        only_image: bool = False,
    ):
        super().__init__()
        self.short_sides, self.long_side, self.ratio = short_sides, long_side, ratio
        self.antialias, self.only_image = antialias, only_image

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        short = (
            self.short_sides[integer(0, len(self.short_sides) - 1)]
            if len(self.short_sides) > 1
            else self.short_sides[0]
        )
        factor = 1.0 if self.ratio is None else uniform(*self.ratio)
        return {"size": fit_size(*_size(flat_inputs), int(short * factor), int(self.long_side * factor))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if self.only_image and not isinstance(inpt, tv_tensors.Image):
            return inpt
        size = list(params["size"])
        if isinstance(inpt, tv_tensors.Image) and inpt.dtype == torch.uint8:
            # torchvision's own 8-bit path is off by up to 1; in float it is the exact value, rounded
            exact = F.resize(inpt.as_subclass(Tensor).float(), size, antialias=self.antialias)
            return tv_tensors.wrap(exact.round().to(torch.uint8), like=inpt)
        if isinstance(inpt, tv_tensors.Mask) and self.antialias:
            return F.resize(inpt, size, v2.InterpolationMode.NEAREST_EXACT)
        resized = F.resize(inpt, size, antialias=self.antialias)
        return F.clamp_bounding_boxes(resized) if isinstance(resized, tv_tensors.BoundingBoxes) else resized


class RandomWindow(v2.Transform):
    """Crop a window with each side drawn evenly from [min(side, least), min(side, most)], at an even position.

    Boxes are clipped to the window; what is left without area goes in `DropEmptyBoxes`. No object need remain.
    """

    def __init__(self, least: int, most: int):
        super().__init__()
        self.least, self.most = least, most

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        sides = _size(flat_inputs)
        window = [integer(min(side, self.least), min(side, self.most)) for side in sides]
        corner = [integer(0, side - extent) for side, extent in zip(sides, window, strict=True)]
        return {"window": (*corner, *window)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.crop(inpt, *params["window"])


class BalancedWindow(v2.Transform):
    """Crop to a size, drawn again up to `tries` times until no class fills `most` of the labelled pixels or more.

    A window with one class only counts as filled by it. After the last try the window is taken as it comes.

    Args:
        size: (height, width); a smaller image is cropped to its own side.
        most: share of the labelled pixels in [0, 1] that the largest class stays below; 1 takes the first window.
        ignore_label: pixels that do not count.
    """

    def __init__(self, size: tuple[int, int], most: float = 0.75, tries: int = 10, ignore_label: int = 255):
        super().__init__()
        self.size, self.most, self.tries, self.ignore_label = size, most, tries, ignore_label

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = _size(flat_inputs)
        window = min(height, self.size[0]), min(width, self.size[1])
        labels = next((value for value in flat_inputs if isinstance(value, tv_tensors.Mask)), None)

        def corner() -> tuple[int, int]:
            return integer(0, height - window[0]), integer(0, width - window[1])

        top, left = corner()
        if labels is not None and self.most < 1:
            for _ in range(self.tries):
                if self._is_balanced(labels[..., top : top + window[0], left : left + window[1]]):
                    break
                top, left = corner()
        return {"window": (top, left, *window)}

    def _is_balanced(self, labels: Tensor) -> bool:
        counts = torch.bincount(labels.flatten().long(), minlength=self.ignore_label + 1)
        counts[self.ignore_label] = 0
        return int((counts > 0).sum()) > 1 and int(counts.max()) < self.most * int(counts.sum())

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.crop(inpt, *params["window"])


class DropEmptyBoxes(v2.Transform):
    """Take objects out of the target whose box has lost its width or height, with their labels and masks."""

    def forward(self, image: Any, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """(image, target) with the objects that remain."""
        boxes = target["boxes"].as_subclass(Tensor)
        return image, keep_objects(target, (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))


class DropCrowds(v2.Transform):
    """Take crowd regions out of the target: they are there to be ignored in scoring, not to be learnt."""

    def forward(self, image: Any, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """(image, target) with the single objects."""
        return image, keep_objects(target, ~target["iscrowd"].bool())


class PhotometricDistortion(v2.Transform):
    """Random brightness, contrast, saturation and hue of an RGB image of 8 bits, each with probability 1/2.

    In this order: brightness; contrast, with even chance here or last; saturation; hue. With values in [0, 255],
    brightness adds U(-brightness, brightness), contrast multiplies by U(contrast), both clipped; saturation multiplies
    S of HSV by U(saturation), clipped; hue adds a whole number in [-hue, hue) of half degrees. Images with other than
    three channels get brightness and contrast alone.

    Differs from OpenCV's 8-bit arithmetic in that values are rounded once, at the end.
    """

    _transformed_types = (tv_tensors.Image,)

    def __init__(
        self,
        brightness: float = 32,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: int = 18,
    ):
        super().__init__()
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        def on() -> bool:
            return uniform(0, 1) < 0.5

        return {
            "brightness": uniform(-self.brightness, self.brightness) if on() else 0.0,
            "contrast_first": on(),
            "contrast": uniform(*self.contrast) if on() else 1.0,
            "saturation": uniform(*self.saturation) if on() else 1.0,
            "hue": integer(-self.hue, self.hue - 1) if self.hue and on() else 0,
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        x = inpt.as_subclass(Tensor).float()
        x = (x + params["brightness"]).clamp(0, 255)
        if params["contrast_first"]:
            x = (x * params["contrast"]).clamp(0, 255)
        if x.shape[-3] == 3:
            x = scale_saturation(x, params["saturation"])
            if params["hue"]:
                x = F.adjust_hue(x / 255, params["hue"] / 180) * 255
        if not params["contrast_first"]:
            x = (x * params["contrast"]).clamp(0, 255)
        return tv_tensors.wrap(x.round().clamp(0, 255).to(torch.uint8), like=inpt)


def scale_saturation(x: Float[Tensor, "*b 3 h w"], factor: float) -> Float[Tensor, "*b 3 h w"]:
    """Multiply the saturation S = 1 - min / max of HSV by `factor`, at most to 1, with hue and value (max) kept.

    Every channel c becomes max - (max - c) f, where f = min(factor, max / (max - min)).
    """
    value = x.amax(dim=-3, keepdim=True)
    distance = value - x
    limit = value / distance.amax(dim=-3, keepdim=True).clamp(min=1e-12)
    return value - distance * limit.clamp(max=factor)
