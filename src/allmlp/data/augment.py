"""What is done to training images at random: the settings."""

from dataclasses import dataclass

from allmlp.data.spec import INTERPOLATIONS
from allmlp.errors import InputError

RECIPES = ("none", "small", "imagenet")


@dataclass(frozen=True)
class AugmentSettings:
    """Augmentation of training images; evaluation never uses it.

    Args:
        recipe: "none": resized as in evaluation. "small": gentle shifts, turns and zooms of the whole image, for small
            images and few of them. "imagenet": random resized crop, flip, RandAugment through timm.
        flip: Probability of mirroring left and right. None: 0 in "small" (letters and digits do not survive it), 0.5 in
            "imagenet".
        shift: "small": largest shift, as a part of the side. rotate: largest turn, degrees. zoom: largest change of
            scale, as a part (0.1 means 0.9 to 1.1).
        fill: "small": what a shift uncovers: "zeros" (black), "border" (the edge repeated) or "reflection".
        color_jitter: Largest relative change of brightness, contrast and saturation. In "imagenet" used only when
            `auto_augment` is empty, as in timm.
        erase: Probability of erasing a random rectangle (both recipes).
        auto_augment: "imagenet": timm's policy string; None for none.
        crop_area, crop_ratio: "imagenet": the random crop's share of the area and its aspect ratio, (least, most).
        interpolation: "imagenet": of the random crop; "random" draws bilinear or bicubic.
    """

    recipe: str = "small"
    flip: float | None = None
    shift: float = 0.1
    rotate: float = 10.0
    zoom: float = 0.1
    fill: str = "border"
    color_jitter: float = 0.0
    erase: float = 0.0
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "random"

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise InputError(f"The augmentation recipe is one of {', '.join(RECIPES)}; got {self.recipe!r}.")
        if self.fill not in ("zeros", "border", "reflection"):
            raise InputError(f"fill is one of zeros, border, reflection; got {self.fill!r}.")
        for name, highest in (
            ("flip", 1),
            ("erase", 1),
            ("shift", 1),
            ("zoom", 0.99),
            ("color_jitter", 1),
            ("rotate", 180),
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= highest:
                raise InputError(f"{name} of the augmentation lies in [0, {highest}]; got {value}.")
        if not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise InputError(f"crop_area is (least, most) in (0, 1], for example (0.08, 1); got {self.crop_area}.")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise InputError(f"crop_ratio is (least, most) above 0, for example (0.75, 1.33); got {self.crop_ratio}.")
        if self.interpolation not in ("random", *INTERPOLATIONS):
            raise InputError(
                f"interpolation is one of random, {', '.join(INTERPOLATIONS)}; got {self.interpolation!r}."
            )

    @property
    def flip_probability(self) -> float:
        """`flip`, or the recipe's own value where it is None."""
        if self.flip is not None:
            return self.flip
        return 0.5 if self.recipe == "imagenet" else 0.0
