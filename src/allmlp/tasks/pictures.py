"""What a model is asked to predict on: files, folders and globs, or pictures in memory."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from allmlp.data import UnreadableImageError, open_images
from allmlp.data.image_file import as_seen
from allmlp.errors import InputError

Picture = Image.Image | np.ndarray
_WANTED = "Wanted paths, Pillow images, or arrays (h, w) or (h, w, channels) of uint8"


def open_pictures(inputs: Sequence[Any], channels: int) -> tuple[list[str], Callable[[int], Picture]]:
    """The names of all pictures, and a function from a place among them to the picture, as `read_image` gives it.

    Args:
        inputs: paths of files and folders, and globs; or Pillow images and arrays (h, w) or (h, w, channels) of uint8.
        channels: of the picture that is given.

    Raises:
        InputError: nothing there, neither a path nor a picture, or both together.
    """
    in_memory = [isinstance(item, (Image.Image, np.ndarray)) for item in inputs]
    if any(in_memory) and not all(in_memory):
        raise InputError("Wanted either files or pictures in memory; got both. Call once for each.")
    if inputs and all(in_memory):
        for item in inputs:
            _check(item, channels)
        return [f"image {place}" for place in range(len(inputs))], lambda place: _seen(inputs[place], place, channels)
    for item in inputs:
        if not isinstance(item, (str, os.PathLike)):
            raise InputError(f"{_WANTED}; got {type(item).__name__}.")
    source = open_images(inputs)
    return [source.path(place) for place in range(len(source))], lambda place: source.load(place, channels)


def _check(picture: Picture, channels: int) -> None:
    if isinstance(picture, Image.Image):
        return
    fits = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (1, 3, 4, channels))
    if picture.dtype != np.uint8 or not fits:
        raise InputError(f"{_WANTED}; got {picture.dtype} {picture.shape}.")


def _seen(picture: Picture, place: int, channels: int) -> Picture:
    """A picture in memory as its file would have been read."""
    if channels not in (1, 3):
        return np.asarray(picture)
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture[..., 0] if picture.shape[2:] == (1,) else picture)
    try:
        return as_seen(picture.copy(), "RGB" if channels == 3 else "L")  # a copy, since it is turned upright in place
    except (OSError, SyntaxError) as error:  # it was opened and is decoded only now
        raise UnreadableImageError(f"image {place}", str(error).rstrip(".")) from None
