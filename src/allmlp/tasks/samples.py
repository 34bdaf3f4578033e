"""Some real pictures for a model: of its own data, of others, or two photos when there is nothing else.

Shapes: b images, c channels, h x w pixels.
"""

import glob
import os
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from allmlp.data import (
    ClassificationData,
    ImageSpec,
    UnreadableImageError,
    build_transform,
    open_classification,
    open_images,
)
from allmlp.data.dense_batches import pad_images
from allmlp.data.dense_transforms import build_view_transform
from allmlp.data.image_file import as_seen, read_image
from allmlp.errors import InputError
from allmlp.recipes.schema import DataGroup
from allmlp.runs import SavedModel
from allmlp.runs.dense import view_of
from allmlp.runs.dense_data import open_label_maps, open_objects
from allmlp.tasks.detect_prediction import to_image
from allmlp.tasks.pictures import Picture, open_pictures


def own_pictures(saved: SavedModel, part: str, count: int) -> tuple[list[Picture], str]:
    """Pictures of the data that a model was trained on, and where they are from.

    Args:
        part: "train" or "val".
        count: at most this many, evenly spread over the part.
    """
    if saved.folder.recipe.is_file():
        group = saved.folder.read_recipe().data
        try:
            return named_pictures(saved, group, part, count), f"{group.name}, {part}"
        except InputError:  # moved since, or not on this machine
            pass
    return _photos(saved.spec.channels, count), "two photos that scikit-learn brings"


def other_pictures(saved: SavedModel, name: str, count: int) -> list[Picture]:
    """Pictures that a person names: a file, folder or glob of images, or a data set, of which the training part.

    Raises:
        InputError: nothing there.
    """
    if os.path.isdir(name) or glob.glob(name, recursive=True):
        source = open_images([name])
        return [source.load(place, saved.spec.channels) for place in _spread(len(source), count)]
    group = saved.folder.read_recipe().data if saved.folder.recipe.is_file() else DataGroup(name=name)
    return named_pictures(saved, group if group.name == name else DataGroup(name=name), "train", count)


def classification_of(group: DataGroup) -> ClassificationData:
    """The images and classes that a recipe's `data` names, split as it says.

    Raises:
        InputError: they cannot be read.
    """
    return open_classification(
        group.name,
        val_fraction=group.val_fraction,
        seed=group.split_seed,
        root=group.root,
        options=group.options or None,
    )


def named_pictures(saved: SavedModel, group: DataGroup, part: str, count: int) -> list[Picture]:
    """Pictures of a data set.

    Raises:
        InputError: it cannot be read.
    """
    channels = saved.spec.channels
    if saved.task == "classify":
        found = classification_of(group)
        images = getattr(found, part)
        return [images.load(place, channels) for place in _spread(len(images), count)]
    data = open_objects(group, False, channels) if saved.task == "detect" else open_label_maps(group, channels)
    source: Any = getattr(data, part).source
    return [read_image(source.path(place), channels) for place in _spread(len(source), count)]


def first_seen(saved: SavedModel, inputs: list[Any], count: int) -> Tensor:
    """The first readable pictures of those that a person names, as a network sees them, (b, c, h, w), b <= `count`.

    Of a detector or segmenter only pictures that are seen at the size of the first.

    Raises:
        InputError: none can be read.
    """
    names, load = open_pictures(inputs, saved.spec.channels)
    seen: list[Tensor] = []
    for place in range(len(names)):
        try:
            picture = load(place)
        except UnreadableImageError:
            continue
        if saved.task == "classify":
            seen.append(build_transform(saved.spec)(picture))
        else:
            transform = build_view_transform(saved.spec, view_of(saved.config))
            image = transform(to_image(picture), {})[0].as_subclass(Tensor)
            # Segmenters pad for themselves.
            detects = saved.task == "detect"
            seen.append(pad_images([image], 32, cast(Any, saved.network).canvas)[0] if detects else image)
        if seen[-1].shape != seen[0].shape:
            seen.pop()
        if len(seen) == count:
            break
    if not seen:
        raise InputError(f"Wanted images; none of the {len(names)} files can be read.")
    return torch.stack(seen)


def _spread(length: int, count: int) -> list[int]:
    return np.unique(np.linspace(0, length - 1, min(length, count)).round().astype(int)).tolist()


def _photos(channels: int, count: int) -> list[Picture]:
    """Windows of scikit-learn's two photos of 427 x 640 pixels, as grey, RGB or bands that repeat."""
    from sklearn.datasets import load_sample_images

    pictures: list[Picture] = []
    for place in range(count):
        photo = load_sample_images().images[place % 2]
        step = 20 * (place // 2) % 200
        window = photo[step // 2 : step // 2 + 300, step : step + 400]
        if channels in (1, 3):
            pictures.append(as_seen(Image.fromarray(window), "RGB" if channels == 3 else "L"))
        else:
            pictures.append(np.take(window, [band % 3 for band in range(channels)], axis=2))
    return pictures


@dataclass(frozen=True)
class Inputs:
    """Pictures as a network takes them.

    images: float32 (b, c, h, w), normalised, 0 in the padding. pixels: uint8 (b, h, w, c), the mean colour in the
    padding; empty if the pictures are no grey or RGB ones. sizes: float32 (b, 2), height and width inside the padding.
    """

    images: Tensor
    pixels: Tensor
    sizes: Tensor


def prepare(pictures: list[Picture], spec: ImageSpec, task: str, antialias: bool = True) -> Inputs:
    """Bring pictures to the size of `spec`: cropped for a classifier, fitted in at the top left for the others.

    antialias: low-pass before shrinking for the dense tasks, as `View` has it.
    """
    transform = build_transform(spec)
    if task == "classify":
        ready = torch.stack([transform.prepare(picture) for picture in pictures])
        sizes = torch.tensor([spec.size] * len(ready), dtype=torch.float32)
        pixels = ready.movedim(1, -1) if ready.dtype == torch.uint8 else torch.empty(0, dtype=torch.uint8)
        return Inputs(transform.finish(ready, [0] * len(ready)), pixels.contiguous(), sizes)
    mean = torch.tensor(spec.mean)
    pixels = (255 * mean).round().to(torch.uint8).expand(len(pictures), *spec.size, spec.channels).clone()
    images = torch.zeros(len(pictures), spec.channels, *spec.size)
    sizes = torch.zeros(len(pictures), 2)
    for place, picture in enumerate(pictures):
        image = to_image(picture).as_subclass(Tensor)
        height, width = fitted(image.shape[-2], image.shape[-1], spec.size)
        image = F.resize(image.float(), [height, width], antialias=antialias).round()
        pixels[place, :height, :width] = image.movedim(0, -1).to(torch.uint8)
        images[place, :, :height, :width] = transform.finish(image[None], [0])[0]
        sizes[place] = torch.tensor([height, width])
    return Inputs(images, pixels, sizes)


def fitted(height: int, width: int, canvas: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the same shape that fits a canvas (height, width), rounded half up.

    >>> fitted(480, 640, (800, 1344))
    (800, 1067)
    """
    scale = min(canvas[0] / height, canvas[1] / width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
