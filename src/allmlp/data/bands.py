"""Images with other than one or three channels: arrays of bands from `.npy` and TIFF files."""

import math
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from allmlp.data.spec import ImageSpec
from allmlp.errors import InputError


def read_bands(file: IO[bytes], name: str, channels: int) -> np.ndarray:
    """An array (height, width, channels) from a `.npy`, TIFF, RGBA or CMYK file, in the file's own numbers.

    The channel axis may come first or last in the file: the one of the right length is it, the last if both are. A
    plain (height, width) array is one channel, and stands for equal channels where three are wanted.

    Raises:
        ValueError: The file has another number of bands. ModuleNotFoundError: it needs a package that is not there.
    """
    lower = name.lower()
    if lower.endswith(".npy"):
        bands = np.load(file, allow_pickle=False)
    elif lower.endswith((".tif", ".tiff")):
        bands = _read_tiff(file, channels)
    else:
        bands = _four_bands(file)
    if bands.dtype.kind not in "buif":
        raise ValueError(f"its numbers are of type {bands.dtype}; wanted whole numbers or fractions")
    if bands.ndim == 2 and channels in (1, 3):
        return np.repeat(bands[..., None], channels, axis=2)
    if bands.ndim == 3 and bands.shape[2] != channels and bands.shape[0] == channels:
        bands = np.moveaxis(bands, 0, 2)
    if bands.ndim != 3 or bands.shape[2] != channels:
        raise ValueError(f"wanted {channels} channels; got an array of shape {bands.shape}")
    if 0 in bands.shape:
        raise ValueError(f"it holds no pixels (shape {bands.shape})")
    return bands


def _read_tiff(file: IO[bytes], channels: int) -> np.ndarray:
    if channels <= 4:
        try:
            return _four_bands(file)
        except (ValueError, OSError):
            file.seek(0)  # Pillow knows no such layout; tifffile may
    try:
        import tifffile
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"a TIFF file of {channels} bands wants the package tifffile; `pip install tifffile`, or save it as .npy"
        ) from None
    return np.asarray(tifffile.imread(file))


def _four_bands(file: IO[bytes]) -> np.ndarray:
    with Image.open(file) as image:
        bands = np.asarray(image)
        if bands.ndim != 3 or image.mode not in ("RGBA", "CMYK", "RGBX"):
            raise ValueError(f"it is a {image.mode} image; files of other than 1 or 3 channels are .npy or TIFF")
        return bands


def resize_bands(bands: np.ndarray, spec: ImageSpec) -> Tensor:
    """Resize and crop an array (height, width, channels) as `spec` says: float32 (channels, H, W) in [0, 255].

    uint8 counts in 255ths, uint16 in 65535ths, fractions count as they are; no data (NaN) becomes 0.

    Raises:
        InputError: The numbers are of another type.
    """
    if bands.dtype.kind in "iu" and bands.dtype.name not in ("uint8", "uint16"):
        raise InputError(f"Images of {bands.shape[2]} channels hold uint8, uint16 or fractions; got {bands.dtype}.")
    unit = np.float32({"uint8": 1.0, "uint16": 1 / 257}.get(bands.dtype.name, 255.0))
    image = torch.from_numpy(np.nan_to_num(bands.astype(np.float32) * unit)).permute(2, 0, 1)
    old, wanted = tuple(image.shape[1:]), [math.floor(side / spec.crop_pct) for side in spec.size]
    if spec.crop_mode != "squash":
        ratios = [new / side for new, side in zip(wanted, old)]
        ratio = min(ratios) if spec.crop_mode == "border" else max(ratios)
        wanted = [max(1, round(side * ratio)) for side in old]
    if spec.interpolation == "nearest":
        image = F.interpolate(image[None], wanted, mode="nearest-exact")[0]
    else:
        mode = "bilinear" if spec.interpolation == "bilinear" else "bicubic"
        image = F.interpolate(image[None], wanted, mode=mode, antialias=True)[0].clamp(0, 255)
    return _centre(image, spec)


def _centre(image: Tensor, spec: ImageSpec) -> Tensor:
    """The centre of the spec's size; what lies outside the image is the mean colour."""
    page = torch.tensor(spec.mean).mul(255)[:, None, None].repeat(1, *spec.size)
    onto, taken = [], []
    for have, want in zip(image.shape[1:], spec.size):
        both = min(have, want)
        onto.append(slice((want - both) // 2, (want - both) // 2 + both))
        taken.append(slice((have - both) // 2, (have - both) // 2 + both))
    page[:, onto[0], onto[1]] = image[:, taken[0], taken[1]]
    return page
