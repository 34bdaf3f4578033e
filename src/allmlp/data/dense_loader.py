"""A loader of detection and segmentation batches that can be continued at any batch.

Memory: the loader holds `prefetch` batches for each worker and one more; a worker holds one batch while it makes it.
An image of h x w pixels with n masks is (3 + n) h w bytes as read, then (12 + n) h w once normalised.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

from allmlp.data.dense_dataset import DenseDataset
from allmlp.data.loader import ResumableLoader
from allmlp.data.sampler import EpochBatchSampler
from allmlp.errors import InputError

_WORKER_TIMEOUT = 600  # seconds without a batch until a hanging disk or worker becomes an error


class DenseLoader(ResumableLoader):
    """A `ResumableLoader` over a `DenseDataset`, whose batches come as they are; made by `make_dense_loader`."""

    def opened(self, batch: Any) -> Any:
        """The batch."""
        return batch


class _Collate:
    """A collate function that lets an error through, which then is raised without a worker's traceback."""

    def __init__(self, collate: Callable[[Sequence[Any]], Any]):
        self.collate = collate

    def __call__(self, items: Any) -> Any:
        return items if isinstance(items, InputError) else self.collate(items)


def make_dense_loader(
    dataset: DenseDataset,
    sampler: EpochBatchSampler,
    collate: Callable[[Sequence[Any]], Any],
    workers: int = 0,
    prefetch: int = 2,
    pin_memory: bool = False,
    start_method: str | None = None,
) -> DenseLoader:
    """A loader of the sampler's batches.

    Args:
        dataset, sampler: what to load, and its order (`AspectRatioBatches`, `EpochBatchSampler`, `EvaluationBatches`).
        collate: `DetectionCollate` or `SegmentationCollate`.
        workers: processes that read and augment; 0 does both in this one. The batches are the same for every number.
        prefetch: batches that each worker makes ahead.
        pin_memory: copy batches to page-locked memory, for a faster way to a GPU.
        start_method: how workers start: "fork", "spawn" or "forkserver"; None takes the platform's usual one.
    """
    if workers < 0 or prefetch < 1:
        raise InputError(f"Wanted workers of at least 0 and prefetch of at least 1; got {workers} and {prefetch}.")
    settings: dict[str, Any] = {"num_workers": workers, "pin_memory": pin_memory, "collate_fn": _Collate(collate)}
    if workers:
        settings.update(
            persistent_workers=True,
            prefetch_factor=prefetch,
            multiprocessing_context=multiprocessing.get_context(start_method),
            timeout=_WORKER_TIMEOUT,
        )
    return DenseLoader(dataset, sampler, **settings)
