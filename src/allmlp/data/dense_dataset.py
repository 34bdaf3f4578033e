"""Images with boxes, masks or label maps as a data set; what is random in item (epoch, index) hangs on nothing else."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from allmlp.data.image_file import read_image
from allmlp.data.randomness import sample_seed, seeded
from allmlp.errors import InputError

Target = dict[str, Any]
Transform = Callable[[Any, Target], tuple[Any, Target]]


class DenseSource(Protocol):
    """Images with targets, numbered from 0, as the files have them."""

    def __len__(self) -> int:
        """Number of images."""

    def read(self, index: int) -> tuple[tv_tensors.Image, Target]:
        """Image uint8 (c, h, w) and target of one image."""

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) in pixels, without reading the image."""


class DenseDataset(Dataset):
    """Items (image, target) of a source, through a transform.

    Every target holds, besides what the source puts there: `index` (the image's number), `original_size` (height, width
    of the file in pixels) and `repeated` (True for an image that a distributed evaluation was given to fill its last
    batch, and must not count).

    Args:
        source: where images and targets come from.
        transform: (image, target) -> (image, target); None for items as the files have them.
        seed: of the transform's randomness, together with epoch and index.
    """

    def __init__(self, source: DenseSource, transform: Transform | None = None, seed: int = 0):
        self.source, self.transform, self.seed = source, transform, seed

    def with_transform(self, transform: Transform | None, seed: int = 0) -> "DenseDataset":
        """The same images through another transform."""
        return DenseDataset(self.source, transform, seed)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[Any, Target]:
        """Image and target of `(epoch, index)`, or of an index in epoch 0. A negative epoch marks a repeated image."""
        epoch, index = item if isinstance(item, tuple) else (0, item)
        image, target = self.source.read(index)
        target = {**target, "index": index, "original_size": self.source.size(index), "repeated": epoch < 0}
        if self.transform is None:
            return image, target
        with seeded(sample_seed(self.seed, epoch, index)):
            return self.transform(image, target)

    def __getitems__(self, items: Sequence[tuple[int, int]]) -> list[tuple[Any, Target]] | InputError:
        """Several items, which `DataLoader` asks for by this name; an error is given back, not raised."""
        try:
            return [self[item] for item in items]
        except InputError as error:
            return error

    def is_wide(self) -> list[bool]:
        """For each image whether it is at least as wide as high: the groups of `AspectRatioBatches`."""
        sizes = (self.source.size(index) for index in range(len(self)))
        return [width >= height for height, width in sizes]


def read_picture(path: str, channels: int, size: tuple[int, int]) -> tv_tensors.Image:
    """A file as a uint8 image (channels, height, width) of the size it had when the data set was opened.

    Raises:
        InputError: it cannot be read, or has changed its size since.
    """
    try:
        picture = read_image(path, channels)
    except InputError as error:
        raise InputError(
            f"{error} Before a long run files are only opened, not decoded; data.check=full finds and skips such files."
        ) from None
    image = (
        F.pil_to_tensor(picture) if not isinstance(picture, np.ndarray) else torch.from_numpy(picture).movedim(-1, 0)
    )
    if tuple(image.shape[-2:]) != tuple(size):
        raise InputError(
            f"{path} is now {tuple(image.shape[-2:])} (height, width), it was {tuple(size)}: did it change?"
        )
    return tv_tensors.Image(image)


def check_channels(channels: int) -> int:
    """`channels` if images with boxes or masks can be read with so many."""
    if channels not in (1, 3):
        raise InputError(
            f"Images with boxes or masks are read as grey (1 channel) or colour (3); got {channels} channels."
        )
    return channels
