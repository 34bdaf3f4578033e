"""Read one image file the way a person would see it.

What that means, by kind of file:

- EXIF orientation is applied; of an animation or a multi-page file, the first frame is read.
- Transparency (alpha, transparent palette entries, colour keys) is laid over white, as a page or a viewer shows it.
- 16-bit grey is divided by 257, as a viewer does. 32-bit integers and floats have no agreed range: integers up to 65535
  count as 16-bit, floats within [0, 1] as fractions, both within [0, 255] as 8-bit; anything else is stretched from its
  least to its greatest value.
- CMYK becomes RGB by the plain formula; embedded colour profiles are not applied.
- Other channel counts than 1 and 3 come from `.npy` files, from TIFF files through `tifffile`, or, four bands, from the
  raw bands of an RGBA or CMYK file.
"""

import contextlib
import io
import os
import struct
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps

from allmlp.data.bands import read_bands
from allmlp.errors import InputError

MAX_PIXELS = 178_956_970  # Pillow's own limit for an error: twice a quarter of a GiB of RGB
MAX_ASPECT = 500  # resizing the short side of a longer strip to a model's size would need gigabytes


@dataclass(frozen=True)
class BadImage:
    """A file that could not be read: where it is and why."""

    path: str
    reason: str


class UnreadableImageError(InputError):
    """An image that cannot be read. `path` says which, `reason` why."""

    def __init__(self, path: str, reason: str):
        super().__init__(f"Cannot read the image {path}: {reason}.")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return UnreadableImageError, (self.path, self.reason)


def read_image(
    path: str | os.PathLike[str], channels: int = 3, at_least: tuple[int, int] | None = None
) -> Image.Image | np.ndarray:
    """Read a file as an RGB (`channels` 3) or grey (1) Pillow image, or as an array (H, W, channels) otherwise.

    Args:
        path: The file.
        channels: 1, 3, or the number of bands to find.
        at_least: (height, width) in pixels that will be needed after scaling down. A JPEG file may then be decoded at
            a half, a quarter or an eighth of its size, never below twice `at_least`: several times faster, and equal
            to the eye but not to the bit. None decodes at full size.

    Raises:
        UnreadableImageError: An `InputError` that names the path and the reason: missing, empty, not an image,
            truncated, a decompression bomb, another number of bands.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            return decode_image(file, path, channels, at_least)
    except OSError as error:  # missing, a folder, no permission; what the decoder raises is handled inside
        raise UnreadableImageError(path, _words(error)) from None


def decode_image(
    file: IO[bytes], name: str, channels: int = 3, at_least: tuple[int, int] | None = None
) -> Image.Image | np.ndarray:
    """`read_image` for an open binary file; `name` stands for it in messages."""
    try:
        if name.lower().endswith(".npy") or channels not in (1, 3):
            bands = read_bands(file, name, channels)
            if bands.ndim == 3 and channels not in (1, 3):
                return bands
            return Image.fromarray(_eight_bits(bands[..., 0] if channels == 1 else bands))
        with Image.open(file) as image:
            _check_size(*image.size)
            if at_least is not None and image.format == "JPEG":
                enough = 2 * max(at_least)
                image.draft(image.mode, (enough, enough))
            return as_seen(image, "RGB" if channels == 3 else "L")
    except Exception as error:
        # Decoders raise almost anything on broken files: OSError, SyntaxError, struct.error, KeyError, MemoryError ...
        raise UnreadableImageError(name, _words(error, file)) from None


def check_image(path: str | os.PathLike[str]) -> str | None:
    """Why the file is certainly unreadable, from its first bytes only, or None. Truncation shows only on decoding."""
    try:
        with open(path, "rb") as file:
            return check_stream(file, os.fspath(path))
    except OSError as error:
        return _words(error)


def check_stream(file: IO[bytes], name: str) -> str | None:
    """`check_image` for an open binary file."""
    try:
        if name.lower().endswith(".npy"):
            np.lib.format.read_magic(file)
        else:
            with Image.open(file) as image:
                _check_size(*image.size)
    except Exception as error:
        return _words(error, file)
    return None


def as_seen(image: Image.Image, mode: str) -> Image.Image:
    """An opened image as "RGB" or "L", by the rules at the top of this file."""
    _turn_upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image))).convert(mode)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = _over_white(image.convert("RGBA"))
    elif image.mode == "P":
        image = image.convert("RGB")  # the palette's colours, not its indices, make the grey
    if image.mode != mode:
        return image.convert(mode)
    return image.copy() if image.readonly else image


def _turn_upright(image: Image.Image) -> None:
    image.load()  # broken pixels raise here, before what is forgiven below
    with contextlib.suppress(Exception):  # a damaged EXIF block: the picture is shown as stored, as viewers do
        ImageOps.exif_transpose(image, in_place=True)


def _over_white(image: Image.Image) -> Image.Image:
    if image.getchannel("A").getextrema() == (255, 255):
        return image.convert("RGB")
    page = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(page, image).convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Integers or floats of any range as uint8, by the rules at the top of this file."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    numbers = np.nan_to_num(values.astype(np.float64))
    low, high = float(numbers.min()), float(numbers.max())
    whole = values.dtype.kind in "iu"
    if values.dtype.itemsize == 2 and values.dtype.kind == "u":
        factor, offset = 1 / 257, 0.0
    elif not whole and low >= 0 and high <= 1:
        factor, offset = 255.0, 0.0
    elif low >= 0 and high <= 255:
        factor, offset = 1.0, 0.0
    elif whole and low >= 0 and high <= 65535:
        factor, offset = 1 / 257, 0.0
    else:
        factor, offset = 255 / max(high - low, 1e-300), low
    return np.clip(np.rint((numbers - offset) * factor), 0, 255).astype(np.uint8)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{width} x {height} pixels, more than the {MAX_PIXELS} that are allowed")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"{width} x {height} pixels: one side is more than {MAX_ASPECT} times the other")


def _words(error: BaseException, file: IO[bytes] | None = None) -> str:
    """The reason in words a person can use."""
    if file is not None:
        try:
            empty = file.seek(0, io.SEEK_END) == 0
        except (OSError, ValueError):
            empty = False
        if empty:
            return "the file is empty (0 bytes)"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"a decompression bomb? {error}".rstrip(".")
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is not an image in any format known here"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, (EOFError, struct.error)) or "truncated" in str(error).lower():
        detail = str(error).removeprefix("image file is truncated").strip(" ()")
        return f"the file is truncated ({detail})" if detail else "the file is truncated"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:1].lower() + error.strerror[1:]
    return f"{error}".rstrip(".") or type(error).__name__
