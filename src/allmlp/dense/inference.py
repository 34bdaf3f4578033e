"""Segmenting whole images: at one scale, at several with flips, and in windows that slide over large ones.

Pure functions over any callable from images (b, i, h, w), normalised, to logits (b, n, h, w).
Source: mmsegmentation 0.11 in svip-lab/AS-MLP-Semantic-Segmentation @ c9838f9 (mmseg/models/segmentors/
    encoder_decoder.py, Apache-2.0); EANet's multi-scale rule: MenghaoGuo/EANet @ 59c03cb (facts only).
Differs: images are resized as tensors, without rounding to 8 bits in between.
Shapes: b images, i image channels, n classes, h x w pixels.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from allmlp.data.dense_ops import fit_size
from allmlp.errors import InputError

Network = Callable[[Tensor], Tensor]
Size = tuple[int, int]

RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
ADE20K_SCALE = (512, 2048)  # short and long side


def resize_image(images: Float[Tensor, "b i _h _w"], size: Size) -> Float[Tensor, "b i h w"]:
    """Bilinear without antialiasing, as OpenCV resizes; the images themselves if they have the size."""
    if images.shape[-2:] == torch.Size(size):
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def whole_image(
    network: Network, images: Float[Tensor, "b i h w"], size: Size | None = None
) -> Float[Tensor, "b n h w"]:
    """Logits of images seen at `size` (None: as they are), bilinearly back at the images' own size."""
    logits = network(images if size is None else resize_image(images, size))
    return resize_image(logits, (images.shape[-2], images.shape[-1]))


def sliding_window(
    network: Network, images: Float[Tensor, "b i h w"], window: Size, stride: Size | None = None
) -> Float[Tensor, "b n h w"]:
    """Logits of a large image, averaged where windows overlap.

    Args:
        network: sees `window` pixels at a time, or the whole of a smaller image.
        window: (height, width).
        stride: between windows; default two thirds of the window. The last ones lie at the image's edges.
    """
    height, width = images.shape[-2:]
    stride = stride or (max(1, window[0] * 2 // 3), max(1, window[1] * 2 // 3))
    if not all(0 < step <= side for step, side in zip(stride, window)):
        raise InputError(f"Wanted strides from 1 to the window {window}; got {stride}.")
    total: Tensor | None = None
    count = images.new_zeros(1, 1, height, width)
    for top in _starts(height, window[0], stride[0]):
        for left in _starts(width, window[1], stride[1]):
            rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
            logits = network(images[..., rows, columns])
            if total is None:
                total = logits.new_zeros(len(images), logits.shape[1], height, width)
            total[..., rows, columns] += logits
            count[..., rows, columns] += 1
    if total is None:
        raise InputError(f"Wanted an image with pixels; got {height} x {width}.")
    return total / count


def _starts(length: int, window: int, stride: int) -> list[int]:
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(index * stride, length - window), 0) for index in range(count)]


def single_scale(
    network: Network, images: Float[Tensor, "b i h w"], scale: Size = ADE20K_SCALE
) -> Float[Tensor, "b n h w"]:
    """Class probabilities of images seen at the largest size within `scale` (short side, long side)."""
    return whole_image(network, images, fit_size(images.shape[-2], images.shape[-1], *scale)).softmax(dim=1)


def multi_scale(
    network: Network,
    images: Float[Tensor, "b i h w"],
    scale: Size | None = ADE20K_SCALE,
    ratios: Sequence[float] = RATIOS,
    flip: bool = True,
    average: str = "probabilities",
    remainder: tuple[int, int] | None = None,
    align_corners: bool = False,
) -> Float[Tensor, "b n h w"]:
    """Scores of each class, averaged over images seen at several sizes and mirrored.

    Args:
        network: images to logits.
        images: at their own size.
        scale: (short side, long side) that `ratios` multiply; None: the image's own size.
        ratios: the sizes, in units of `scale`.
        flip: see each size mirrored too.
        average: what is averaged, "probabilities" (UPerNet) or "logits" (EANet).
        remainder: (m, r): pad zeros right and below until each side is r modulo m; EANet wants (8, 1).
        align_corners: how logits go back to the images' size.

    Returns:
        Probabilities or logits at the images' own size; their argmax over n is the segmentation.
    """
    if average not in ("probabilities", "logits"):
        raise InputError(f"Wanted average 'probabilities' or 'logits'; got {average!r}.")
    height, width = images.shape[-2:]
    total: Tensor | None = None
    for ratio in ratios:
        if scale is None:
            size = (max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5)))
        else:
            size = fit_size(height, width, int(scale[0] * ratio), int(scale[1] * ratio))
        seen = resize_image(images, size)
        for mirrored in (False, True) if flip else (False,):
            logits = _padded(network, seen.flip(-1) if mirrored else seen, remainder)
            logits = F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=align_corners)
            logits = logits.flip(-1) if mirrored else logits
            scores = logits.softmax(dim=1) if average == "probabilities" else logits
            total = scores if total is None else total + scores
    if total is None:
        raise InputError("Wanted at least one ratio; got none.")
    return total / (len(ratios) * (2 if flip else 1))


def _padded(network: Network, images: Tensor, remainder: tuple[int, int] | None) -> Tensor:
    """The network's logits of images padded to sides with a remainder, cut to the images again."""
    if remainder is None:
        return network(images)
    modulus, rest = remainder
    height, width = images.shape[-2:]
    below, right = (rest - height) % modulus, (rest - width) % modulus
    return network(F.pad(images, (0, right, 0, below)))[..., :height, :width]


def labels_at(scores: Float[Tensor, "b n _h _w"], size: Size, rows: int = 128) -> Int[Tensor, "b h w"]:
    """The class of each pixel of scores resized bilinearly to `size`, some rows at a time.

    Equal to the argmax of the resized scores, whose n full-size maps never exist at once: 150 classes of a
    4000 x 3000 photo would take 7.2 GB.
    """
    height, width = size
    source = (torch.arange(height, device=scores.device, dtype=torch.float64) + 0.5) * (scores.shape[-2] / height) - 0.5
    source = source.clamp(min=0)
    low = source.floor().long().clamp(max=scores.shape[-2] - 1)
    high, part = (low + 1).clamp(max=scores.shape[-2] - 1), (source - low).to(scores.dtype)[:, None]
    bands = []
    for top in range(0, height, rows):
        band = slice(top, top + rows)
        lines = scores[..., low[band], :] * (1 - part[band]) + scores[..., high[band], :] * part[band]
        lines = F.interpolate(lines, size=(lines.shape[-2], width), mode="bilinear", align_corners=False)
        bands.append(lines.argmax(dim=1))
    return torch.cat(bands, dim=1)
