"""Checking image files before a run: do they exist, open, decode, and have the size that their annotation says?"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from PIL import Image

from allmlp.data.image_file import UnreadableImageError, check_image, read_image
from allmlp.errors import InputError

CHECKS = ("auto", "full", "headers")

DECODED_BYTES = 200 << 20
"""Splits of files up to this many bytes together are decoded once before a run ("auto"); that takes seconds."""

_EXIF_ORIENTATION = 0x0112

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def decodes_all(check: str, paths: Iterable[str | os.PathLike[str]]) -> bool:
    """Whether files shall be decoded once before a run: "full" yes, "headers" no, "auto" up to `DECODED_BYTES`.

    Raises:
        InputError: `check` is none of these.
    """
    if check not in CHECKS:
        raise InputError(f"check is one of {', '.join(CHECKS)}; got {check!r}.")
    if check != "auto":
        return check == "full"
    left = DECODED_BYTES
    for path in paths:
        try:
            left -= os.stat(path).st_size
        except OSError:
            continue
        if left < 0:
            return False
    return True


def seen_size(path: str | os.PathLike[str], decode: bool = False) -> tuple[int, int] | str:
    """(height, width) in pixels of an image as a person sees it (turned upright), or what is wrong with the file.

    With `decode` the pixels are read too, so that a truncated file is found.
    """
    if decode:
        try:
            read_image(path, channels=3)
        except UnreadableImageError as error:
            return error.reason
    elif (reason := check_image(path)) is not None:
        return reason
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception as error:  # decoders raise almost anything on broken files
        return str(error) or type(error).__name__
    return (width, height) if turned else (height, width)


def in_threads(function: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    """`[function(item) for item in items]`, several at a time: opening files is mostly waiting."""
    if len(items) < 8:
        return [function(item) for item in items]
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(function, items))
