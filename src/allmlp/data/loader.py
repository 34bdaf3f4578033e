"""Datasets and loaders whose every batch is a pure function of (seed, epoch, batch number), resumable at any batch.

Shapes: B batch, C channels, H, W height and width.
"""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from allmlp.data.image_file import BadImage, UnreadableImageError
from allmlp.data.randomness import sample_seed
from allmlp.data.sampler import EpochBatchSampler
from allmlp.data.source import ImageSource
from allmlp.data.transforms import ImageTransform
from allmlp.errors import InputError

CACHE_BYTES = 512 * 2**20  # prepared images are kept in memory if all of them fit in this ...
CACHED_IMAGE_BYTES = 3 * 96 * 96  # ... and each is small, so that one process can augment them faster than a model eats
_AUGMENT = 2  # keeps the seeds of augmentation apart from those of the epoch's order

Key = tuple[int, int]


class Batch(NamedTuple):
    """images float32 (B, C, H, W), labels and indices int64 (B,), and what could not be read on the way."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    bad: list[BadImage]


class ClassificationDataset(Dataset):
    """The transformed images of a source, by (epoch, index).

    In place of an image that cannot be read, with `on_bad_image="skip"`, comes the next one of the source that can:
    its pixels, its label and its index. So an evaluation that counts every index once leaves unreadable images out.

    Args:
        source: Where the images come from.
        transform: See `build_transform`.
        seed: Of the augmentation, together with epoch and index.
    """

    def __init__(self, source: ImageSource, transform: ImageTransform, seed: int = 0):
        self.source, self.transform, self.seed = source, transform, seed
        spec = transform.spec
        image_bytes = spec.channels * spec.height * spec.width
        self.keeps_images = (
            not transform.random_prepare
            and spec.channels in (1, 3)
            and image_bytes <= CACHED_IMAGE_BYTES
            and image_bytes * len(source) <= CACHE_BYTES
        )
        self._kept: Tensor | None = None
        self._is_kept = np.zeros(0, dtype=bool)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key | int) -> tuple[Tensor, int, int]:
        """(image (C, H, W), label, index) of one (epoch, index); a plain index means epoch 0.

        Raises:
            UnreadableImageError: An `InputError`; with `on_bad_image="stop"`, or if no image of the source can be read.
        """
        images, labels, indices, bad = self.batch([key if isinstance(key, tuple) else (0, int(key))])
        self.source.note_bad(bad)
        return images[0], int(labels[0]), int(indices[0])

    def __getitems__(self, keys: Sequence[Key]) -> Batch | InputError:
        """`batch`, which `DataLoader` calls by this name.

        An error is returned, not raised: `DataLoader` would raise it with a worker's traceback for its message.
        """
        try:
            return self.batch(keys)
        except InputError as error:
            return error

    def batch(self, keys: Sequence[Key]) -> Batch:
        """The images of these (epoch, index) pairs; raises as indexing does."""
        seeds = [sample_seed(self.seed, epoch, index, _AUGMENT) for epoch, index in keys]
        bad: list[BadImage] = []
        if self.keeps_images and get_worker_info() is None:
            indices = [self._keep(index, seed, bad) for (_, index), seed in zip(keys, seeds)]
            prepared = self._kept[indices]  # type: ignore[index]
        else:
            found = [self._prepare(index, seed, bad) for (_, index), seed in zip(keys, seeds)]
            indices = [index for index, _ in found]
            prepared = torch.stack([image for _, image in found])
        labels = torch.from_numpy(self.source.labels[indices])
        return Batch(self.transform.finish(prepared, seeds), labels, torch.tensor(indices), bad)

    def _keep(self, index: int, seed: int, bad: list[BadImage]) -> int:
        if self._kept is None:
            spec = self.transform.spec
            self._kept = torch.empty(len(self), spec.channels, spec.height, spec.width, dtype=torch.uint8)
            self._is_kept = np.zeros(len(self), dtype=bool)
        if not self._is_kept[index]:
            index, image = self._prepare(index, seed, bad)
            self._kept[index] = image
            self._is_kept[index] = True
        return index

    def _prepare(self, index: int, seed: int, bad: list[BadImage]) -> tuple[int, Tensor]:
        """The image of that index, or the next that can be read; adds what could not to `bad`."""
        for step in range(len(self)):
            place = (index + step) % len(self)
            try:
                picture = self.source.load(place, self.transform.channels, self.transform.at_least)
                return place, self.transform.prepare(picture, seed)
            except UnreadableImageError as error:
                if self.source.on_bad_image == "stop":
                    raise
                bad.append(BadImage(error.path, error.reason))
        raise InputError(f"None of the {len(self)} images can be read; the first: {bad[0].path}: {bad[0].reason}.")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None, "_is_kept": np.zeros(0, dtype=bool)}


class ResumableLoader(DataLoader):
    """A `DataLoader` that knows which batch comes next.

    Over a `ClassificationDataset` it yields (images, labels, indices); use `make_loader`. Lightning saves and loads its
    state with the checkpoint.
    """

    batch_sampler: EpochBatchSampler

    def __init__(
        self, dataset: Dataset, batch_sampler: EpochBatchSampler, collate_fn: Any = None, **settings: Any
    ) -> None:
        self._position = (0, 0)  # epoch, batches of it that were handed out
        self._resume_at: tuple[int, int] | None = None
        # Its own generator: making an iterator draws from it, and would else draw from the global one.
        super().__init__(
            dataset,
            batch_sampler=batch_sampler,
            collate_fn=collate_fn or _as_it_is,
            generator=torch.Generator(),
            **settings,
        )

    def opened(self, batch: Batch) -> tuple[Tensor, ...]:
        """What is yielded of a batch; notes what could not be read."""
        source: ImageSource = self.dataset.source  # type: ignore[attr-defined]
        source.note_bad(batch.bad)
        return batch.images, batch.labels, batch.indices

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """The current epoch's batches; the rest of them if a state of this epoch was loaded.

        Nothing happens before the first batch is asked for, so the epoch may be set after the iterator is made.
        """
        epoch = self.batch_sampler.epoch
        start = 0
        if self._resume_at is not None and self._resume_at[0] == epoch:
            start = self._resume_at[1]
        self._resume_at = None
        self._position = (epoch, start)
        self.batch_sampler.start = start
        for batch in super().__iter__():
            if isinstance(batch, InputError):
                raise batch
            content = self.opened(batch)
            self._position = (epoch, self._position[1] + 1)
            yield content

    def close(self) -> None:
        """Stop the worker processes now.

        Left to Python, that happens when the garbage collector comes by; it closes the workers' queues before it tells
        the workers, which then are waited for, five seconds each.
        """
        iterator: Any = self._iterator
        if iterator is not None:
            iterator._shutdown_workers()  # what Lightning calls, too, for loaders that it knows
            self._iterator = None

    def state_dict(self) -> dict[str, int]:
        """Which batch comes next: {"epoch", "batches" of it already handed out}."""
        epoch, batches = self._resume_at or self._position
        return {"epoch": epoch, "batches": batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken, once its epoch is set; any other epoch starts at its first batch."""
        self._resume_at = (state["epoch"], state["batches"])


def _as_it_is(batch: Any) -> Any:
    return batch


def make_loader(
    dataset: ClassificationDataset,
    sampler: EpochBatchSampler,
    workers: int | None = None,
    pin_memory: bool = False,
    start_method: str | None = None,
) -> ResumableLoader:
    """A loader of the sampler's batches.

    Args:
        dataset, sampler: What to load, and in which order.
        workers: Processes that read and augment; 0 does both in this one. None: `default_workers(dataset)`. The batches
            are the same for every number.
        pin_memory: Copy batches to page-locked memory, for a faster way to a GPU.
        start_method: How workers start: "fork", "spawn" or "forkserver"; None takes the platform's usual one.
    """
    workers = default_workers(dataset) if workers is None else workers
    if workers < 0:
        raise InputError(f"The number of loading workers is at least 0; got {workers}.")
    settings: dict[str, Any] = {"num_workers": workers, "pin_memory": pin_memory}
    if workers:
        context = multiprocessing.get_context(start_method)
        settings.update(persistent_workers=True, multiprocessing_context=context, timeout=_WORKER_TIMEOUT)
    return ResumableLoader(dataset, sampler, **settings)


_WORKER_TIMEOUT = 600  # seconds without a batch until a hanging disk or worker becomes an error


def default_workers(dataset: ClassificationDataset, processes: int = 1) -> int:
    """0 where images are kept in memory; otherwise one a processor, at most 8, shared by `processes` trainings."""
    if dataset.keeps_images:
        return 0
    return max(1, min(8, available_cpus() // processes))


def available_cpus() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
