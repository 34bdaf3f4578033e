"""Gentle augmentation of a whole batch of small images at once, each image by its own seed.

One resampling does flip, shift, turn and zoom together; for 32-pixel images this is about ten times faster than one
image after the other. The geometry is that of `torchvision.transforms.v2.functional.affine`, tests compare them.

Shapes: B batch, C channels, H, W height and width. Values lie in [0, 255].
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from allmlp.data.augment import AugmentSettings

_DRAWS = 13  # numbers drawn for an image, always all of them, so that switching one effect on leaves the others alone
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_GREY = (0.2989, 0.587, 0.114)  # ITU-R 601-2, the weights of torchvision and Pillow


def uniforms(seeds: list[int], count: int) -> Tensor:
    """Numbers in [0, 1), float64 (B, count); each row is the SplitMix64 stream of its seed."""
    states = np.array(seeds, dtype=np.uint64)[:, None] + _GAMMA * np.arange(1, count + 1, dtype=np.uint64)
    states = (states ^ (states >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    states = (states ^ (states >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    states ^= states >> np.uint64(31)
    return torch.from_numpy((states >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def augment_small(images: Tensor, settings: AugmentSettings, seeds: list[int], erase_with: Tensor) -> Tensor:
    """Augment images, float32 (B, C, H, W), image b by `seeds[b]`; `erase_with` (C) fills erased rectangles.

    The images given may be overwritten: fresh memory for every step would cost more than the step.
    """
    draws = uniforms(seeds, _DRAWS).float()
    both_ways = 2 * draws - 1
    if settings.shift or settings.rotate or settings.zoom or settings.flip_probability:
        images = affine(
            images,
            angle=both_ways[:, 0] * settings.rotate,
            shift=both_ways[:, 1:3] * settings.shift * torch.tensor([images.shape[3], images.shape[2]]),
            scale=1 + both_ways[:, 3] * settings.zoom,
            flip=draws[:, 4] < settings.flip_probability,
            fill=settings.fill,
        )
    if settings.color_jitter:
        images = jitter_color(images, 1 + both_ways[:, 5:8] * settings.color_jitter)
    if settings.erase:
        images = erase(images, draws[:, 8] < settings.erase, draws[:, 9:13], erase_with)
    return images


def affine(images: Tensor, angle: Tensor, shift: Tensor, scale: Tensor, flip: Tensor, fill: str = "zeros") -> Tensor:
    """Flip left and right, then zoom and turn about the centre, then shift; bilinear.

    Args:
        images: (B, C, H, W).
        angle: Degrees clockwise (B,). shift: Pixels to the right and down (B, 2). scale: Factor (B,). flip: bool (B,).
        fill: What comes in from outside: "zeros", "border" or "reflection".
    """
    _, _, height, width = images.shape
    turn = torch.deg2rad(angle)
    cos, sin = torch.cos(turn) / scale, torch.sin(turn) / scale
    right, down = shift.unbind(1)
    mirror = torch.where(flip, -1.0, 1.0)
    # From an output pixel back to where it comes from, in half sides from the centre, as grid_sample counts: undo the
    # shift, turn back by the transposed rotation, undo the zoom, undo the flip. Written out, for `F.affine_grid` makes
    # a matrix product of each pixel and takes longer than the sampling.
    x = (torch.arange(width) * 2 + 1) / width - 1 - right[:, None] * (2 / width)
    y = (torch.arange(height) * 2 + 1) / height - 1 - down[:, None] * (2 / height)
    grid = torch.empty(len(images), height, width, 2)
    columns, rows = x[:, None, :], y[:, :, None]
    a, b, c, d = (
        factor[:, None, None]
        for factor in (mirror * cos, mirror * sin * (height / width), -sin * (width / height), cos)
    )
    torch.add(a * columns, b * rows, out=grid[..., 0])
    torch.add(c * columns, d * rows, out=grid[..., 1])
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=fill, align_corners=False)


def jitter_color(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply brightness, contrast and saturation, in this order, by `factors` (B, 3); saturation only of RGB.

    Works in place.
    """
    brightness, contrast, saturation = (factor[:, None, None, None] for factor in factors.unbind(1))
    images.mul_(brightness).clamp_(0, 255)
    mean = _grey(images).mean(dim=(1, 2, 3), keepdim=True)
    images.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, 255)
    if images.shape[1] == 3:
        grey = _grey(images)
        images.mul_(saturation).add_(grey.mul_(1 - saturation)).clamp_(0, 255)
    return images


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    red, green, blue = _GREY
    grey = images[:, 0:1] * red
    return grey.add_(images[:, 1:2], alpha=green).add_(images[:, 2:3], alpha=blue)


def erase(images: Tensor, chosen: Tensor, draws: Tensor, value: Tensor) -> Tensor:
    """Fill a random rectangle of the `chosen` images (bool (B,)) with `value` (C).

    Its area is 2 to 20 % of the image, its aspect ratio 0.3 to 3.3 (log-uniform), its place uniform; `draws` (B, 4)
    are uniform in [0, 1): area, ratio, place down, place across. After Zhong et al., arXiv 1708.04896.
    """
    _, _, height, width = images.shape
    area = (0.02 + 0.18 * draws[:, 0]) * height * width
    ratio = torch.exp((2 * draws[:, 1] - 1) * float(np.log(10 / 3)))
    tall = (area * ratio).sqrt().round().clamp(1, height)
    wide = (area / ratio).sqrt().round().clamp(1, width)
    top = (draws[:, 2] * (height - tall + 1)).floor()
    left = (draws[:, 3] * (width - wide + 1)).floor()
    y, x = torch.arange(height), torch.arange(width)
    rows = (y >= top[:, None]) & (y < (top + tall)[:, None])
    columns = (x >= left[:, None]) & (x < (left + wide)[:, None])
    inside = rows[:, None, :, None] & columns[:, None, None, :] & chosen[:, None, None, None]
    return torch.where(inside, value[:, None, None], images)
