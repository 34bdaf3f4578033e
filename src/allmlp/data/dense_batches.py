"""Batches for detection and segmentation: which images go together, and how they become one tensor.

Shapes: b images, c channels, h and w the batch's canvas in pixels, n objects of one image.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchvision import tv_tensors

from allmlp.data.dense_dataset import DenseDataset
from allmlp.data.randomness import sample_generator
from allmlp.data.sampler import EpochBatchSampler
from allmlp.errors import InputError

_BATCH_ORDER = 2  # keeps this permutation's seed apart from the sampler's and the samples' own
REPEATED = -1


class DetectionBatch(NamedTuple):
    """Images padded right and bottom with 0 (the mean colour, once normalised) to one canvas.

    Attributes:
        images: float32 (b, c, h, w).
        sizes: (height, width) in pixels of each image before padding.
        targets: a dictionary an image with boxes (n, 4) float32 x0, y0, x1, y1, labels (n) int64 in 0 .. k-1, iscrowd
            (n) bool, area (n) float32 of the file's object, masks (n, height, width) uint8 if they are read, and
            image_id, index, original_size, repeated. In training they are in pixels of `images`, in evaluation in
            pixels of the original file.
    """

    images: Float[Tensor, "b c h w"]
    sizes: list[tuple[int, int]]
    targets: list[dict[str, Any]]


class SegmentationBatch(NamedTuple):
    """Images and label maps.

    Attributes:
        images: float32 (b, c, h, w).
        sizes: (height, width) in pixels of each image before padding.
        masks: int64 label maps: (b, h, w) in training; in evaluation a list, each at its file's own size.
        targets: a dictionary an image with index, original_size, repeated and path.
    """

    images: Float[Tensor, "b c h w"]
    sizes: list[tuple[int, int]]
    masks: Int64[Tensor, "b h w"] | list[Tensor]
    targets: list[dict[str, Any]]


def pad_images(
    images: Sequence[Tensor], multiple: int = 32, canvas: tuple[int, int] | None = None
) -> Float[Tensor, "b c h w"]:
    """Stack images, zeros right and bottom, on the least canvas with sides of multiples of `multiple`, or on `canvas`.

    Raises:
        InputError: an image is larger than `canvas`.
    """
    height, width = (max(image.shape[axis] for image in images) for axis in (-2, -1))
    if canvas is None:
        canvas = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
    elif height > canvas[0] or width > canvas[1]:
        raise InputError(
            f"An image of {height} x {width} (height x width) does not fit the network's canvas of {canvas[0]} x "
            f"{canvas[1]}: lower the sizes that the augmentation resizes to."
        )
    batch = images[0].new_zeros(len(images), images[0].shape[0], *canvas)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[-2], : image.shape[-1]] = image
    return batch


class DetectionCollate:
    """Items of a `DenseDataset` -> `DetectionBatch`.

    Args:
        multiple: the canvas's sides are multiples of it.
        canvas: (height, width) of a fixed canvas, for networks whose token mixing has a fixed size; None for the least.
    """

    def __init__(self, multiple: int = 32, canvas: tuple[int, int] | None = None):
        self.multiple, self.canvas = multiple, canvas

    def __call__(self, items: Sequence[tuple[Tensor, dict[str, Any]]]) -> DetectionBatch:
        """Pad and stack; tv_tensors become plain tensors."""
        images = [_plain(image) for image, _ in items]
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        targets = [{key: _plain(value) for key, value in target.items()} for _, target in items]
        return DetectionBatch(pad_images(images, self.multiple, self.canvas), sizes, targets)


class SegmentationCollate:
    """Items of a `DenseDataset` -> `SegmentationBatch`.

    `multiple` and `canvas` as in `DetectionCollate`; 1 pads no more than stacking needs, and a single image not at all,
    as the papers test.
    """

    def __init__(self, multiple: int = 1, canvas: tuple[int, int] | None = None):
        self.multiple, self.canvas = multiple, canvas

    def __call__(self, items: Sequence[tuple[Tensor, dict[str, Any]]]) -> SegmentationBatch:
        """Pad and stack the images; stack the label maps if they are of the images' size."""
        images = [_plain(image) for image, _ in items]
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        masks: Any = [_plain(target["mask"]).long() for _, target in items]
        if len({*sizes, *(tuple(mask.shape) for mask in masks)}) == 1:
            masks = torch.stack(masks)
        targets = [{key: value for key, value in target.items() if key != "mask"} for _, target in items]
        return SegmentationBatch(pad_images(images, self.multiple, self.canvas), sizes, masks, targets)


class AspectRatioBatches(EpochBatchSampler):
    """Batches of (epoch, index) that hold either wide images or high ones, so that padding stays small.

    Each epoch permutes the images, cuts each group into batches, fills a group's last batch from its beginning, and
    permutes the batches, which the ranks take in turn (the list is filled from its beginning to a multiple of them).

    Args:
        is_wide: for each image, which group it belongs to.
        batch_size, seed, shuffle, rank, world_size: as in `EpochBatchSampler`.
    """

    def __init__(
        self,
        is_wide: Sequence[bool],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ):
        super().__init__(len(is_wide), batch_size, seed=seed, shuffle=shuffle, rank=rank, world_size=world_size)
        self.is_wide = [bool(wide) for wide in is_wide]

    def __len__(self) -> int:
        """Number of batches of this process in a whole epoch."""
        wide = sum(self.is_wide)
        batches = sum(-(-count // self.batch_size) for count in (wide, self.length - wide))
        return -(-batches // self.world_size)

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[tuple[int, int]]]:
        """The batches of an epoch, the first `start` of them left out."""
        order = self._order(epoch)
        cut: list[list[int]] = []
        for group in (True, False):
            members = [index for index in order if self.is_wide[index] is group]
            missing = -len(members) % self.batch_size
            members += [members[place % len(members)] for place in range(missing)]
            cut += [members[place : place + self.batch_size] for place in range(0, len(members), self.batch_size)]
        if self.shuffle:
            generator = sample_generator(self.seed, epoch, _BATCH_ORDER)
            cut = [cut[place] for place in torch.randperm(len(cut), generator=generator).tolist()]
        for batch in range(start, len(self)):
            yield [(epoch, index) for index in cut[(batch * self.world_size + self.rank) % len(cut)]]


class EvaluationBatches(EpochBatchSampler):
    """Every image once, in order; with several processes, images dealt out a second time to fill the last batch come
    as (`REPEATED`, index), which `DenseDataset` turns into `repeated=True` in the target."""

    def __init__(self, length: int, batch_size: int = 1, *, rank: int = 0, world_size: int = 1):
        super().__init__(length, batch_size, shuffle=False, rank=rank, world_size=world_size)

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[tuple[int, int]]]:
        """The batches, the first `start` of them left out."""
        for number, batch in enumerate(super().batches(epoch, start), start):
            first = number * self.batch_size * self.world_size + self.rank
            yield [
                (epoch if first + place * self.world_size < self.length else REPEATED, index)
                for place, (_, index) in enumerate(batch)
            ]


def evaluation_batch(dataset: DenseDataset, wanted: int) -> int:
    """Images at a time in evaluation: one, unless all have one size, since padding an image changes its features."""
    sizes = {dataset.source.size(index) for index in range(len(dataset))}
    return min(wanted, len(dataset)) if len(sizes) == 1 else 1


def _plain(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, tv_tensors.TVTensor) else value
