"""From a picture to a model's input: resizing, augmentation, normalisation.

A transform has two halves. `prepare` brings one picture to the model's size as uint8. Except under the "imagenet"
recipe it is the same every time, so its result can be kept. `finish` augments and normalises a batch of those.

Shapes: B batch, C channels, H, W height and width of the model's input.
"""

import math
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from allmlp.data.augment import AugmentSettings
from allmlp.data.bands import resize_bands
from allmlp.data.randomness import reseed, restored, sample_seed, seeded
from allmlp.data.small_augment import augment_small
from allmlp.data.spec import ImageSpec
from allmlp.errors import InputError

Picture = Image.Image | np.ndarray


def build_transform(
    spec: ImageSpec, settings: AugmentSettings | None = None, training: bool = False
) -> "ImageTransform":
    """The transform of a model's images: augmenting by `settings` when `training`, plain otherwise.

    Evaluation, and training under the recipes "none" and "small", begin with the resizing that `spec` describes. It is
    timm's, to the bit, for grey and RGB images.
    """
    return ImageTransform(spec, settings or AugmentSettings("none"), training)


class ImageTransform:
    """A picture -> a normalised float32 tensor (C, H, W).

    Attributes:
        spec: Size and normalisation.
        recipe: The augmentation's name; "none" when evaluating.
        random_prepare: Whether `prepare` draws random numbers, so that its results cannot be kept.
        channels: Channels to load pictures with. RandAugment knows colours only: a grey model's pictures are then
            augmented in RGB and made grey afterwards.
    """

    def __init__(self, spec: ImageSpec, settings: AugmentSettings, training: bool):
        self.spec, self.settings, self.training = spec, settings, training
        self.recipe = settings.recipe if training else "none"
        self.random_prepare = self.recipe == "imagenet"
        self.channels = 3 if self.random_prepare and spec.channels == 1 else spec.channels
        self._erase: Callable[[Tensor], Tensor] | None = None
        self._pictures: Callable[[Image.Image], Tensor] | None = None
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        self._factor = (1 / (255 * std))[:, None, None]
        self._offset = (mean / std)[:, None, None]
        self._mean = mean * 255
        if self.random_prepare:
            self._pictures, self._erase = _imagenet_training(spec, settings)
        elif spec.channels in (1, 3):
            self._pictures = _resizing(spec)

    @property
    def at_least(self) -> tuple[int, int] | None:
        """(height, width) below which a picture need not be decoded, or None where every pixel counts.

        Only in training: evaluation reads every file whole, so that its numbers are those of other tools. Of a picture
        decoded at twice this, the least random crop still has as many pixels as the model takes.
        """
        if not self.training:
            return None
        part = 2 * math.sqrt(self.settings.crop_area[0]) if self.random_prepare else self.spec.crop_pct
        return math.ceil(self.spec.height / part), math.ceil(self.spec.width / part)

    def __call__(self, picture: Picture, generator: torch.Generator | None = None) -> Tensor:
        """Transform one picture; `generator` gives the randomness when training (the global one if None)."""
        seed = int(torch.randint(2**62, (), generator=generator)) if self.recipe != "none" else 0
        return self.finish(self.prepare(picture, seed)[None], [seed])[0]

    def prepare(self, picture: Picture, seed: int = 0) -> Tensor:
        """Bring a picture to the model's size: uint8 (C, H, W); float32 in the same range for an array of bands."""
        if isinstance(picture, np.ndarray):
            if self.random_prepare:
                raise InputError(
                    f'The "imagenet" augmentation wants grey or RGB images; got {picture.shape[2]} channels. '
                    'Type augment "small" instead.'
                )
            return resize_bands(picture, self.spec)
        if not self.random_prepare:
            return self._pictures(picture)  # type: ignore[misc]
        with seeded(sample_seed(seed, 0)):
            prepared = self._pictures(picture)  # type: ignore[misc]
        if self.spec.channels == 1:
            from torchvision.transforms.v2.functional import rgb_to_grayscale

            prepared = rgb_to_grayscale(prepared)
        return prepared

    def finish(self, prepared: Tensor, seeds: list[int]) -> Tensor:
        """Augment and normalise a batch from `prepare`: (B, C, H, W) -> float32 (B, C, H, W), image b by `seeds[b]`."""
        images = prepared.to(torch.float32, copy=True)
        if self.recipe == "small":
            images = augment_small(images, self.settings, seeds, erase_with=self._mean)
        images = images.mul_(self._factor).sub_(self._offset)
        if self._erase is not None:
            with restored():
                for image, seed in zip(images, seeds):
                    reseed(sample_seed(seed, 1))
                    self._erase(image)  # in place
        return images


def _resizing(spec: ImageSpec) -> Callable[[Image.Image], Tensor]:
    from timm.data import create_transform

    # What timm calls "use_prefetcher" ends in uint8: its loader would normalise later, as `finish` does here.
    return create_transform(
        input_size=(spec.channels, *spec.size),
        is_training=False,
        use_prefetcher=True,
        interpolation=spec.interpolation,
        mean=spec.mean,
        std=spec.std,
        crop_pct=spec.crop_pct,
        crop_mode=spec.crop_mode,
    )


def _imagenet_training(
    spec: ImageSpec, settings: AugmentSettings
) -> tuple[Callable[[Image.Image], Tensor], Callable[[Tensor], Tensor] | None]:
    """timm's training transform to uint8, and its random erasing for after normalisation."""
    from timm.data import create_transform
    from timm.data.random_erasing import RandomErasing

    if spec.channels not in (1, 3):
        raise InputError(
            f'The "imagenet" augmentation wants grey or RGB images; got {spec.channels} channels. '
            'Type augment "small" instead.'
        )
    policy = settings.auto_augment or None
    try:
        transform = create_transform(
            input_size=(3, *spec.size),
            is_training=True,
            use_prefetcher=True,
            scale=settings.crop_area,
            ratio=settings.crop_ratio,
            hflip=settings.flip_probability,
            color_jitter=settings.color_jitter or None,  # type: ignore[arg-type]  # timm: None is off
            auto_augment=policy,
            interpolation=settings.interpolation,
            mean=spec.mean if spec.channels == 3 else spec.mean * 3,
            std=spec.std if spec.channels == 3 else spec.std * 3,
        )
    except (AssertionError, ValueError, KeyError) as error:
        raise InputError(
            f"auto_augment wants a policy of timm's, such as rand-m9-mstd0.5-inc1; got {policy!r}."
        ) from error
    for step in transform.transforms:
        for operation in (*getattr(step, "ops", ()), *chain(*getattr(step, "policy", ()))):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterize
    if not settings.erase:
        return transform, None
    return transform, RandomErasing(settings.erase, mode="pixel", max_count=1, device="cpu")


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep the highest bits of every value; 0, which the strongest policies ask for and Pillow 13 refuses, is black."""
    return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)
