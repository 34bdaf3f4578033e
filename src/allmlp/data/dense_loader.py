"""A loader of detection and segmentation batches that can be continued at any batch.

Memory: the loader holds `prefetch` batches for each worker and one more; a worker holds one batch while it makes it.
An image of h x w pixels with n masks is (3 + n) h w bytes as read, then (12 + n) h w once normalised.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from allmlp.data.dense_dataset import DenseDataset
from allmlp.data.sampler import EpochBatchSampler
from allmlp.errors import InputError

_WORKER_TIMEOUT = 600  # seconds without a batch until a hanging disk or worker becomes an error


class DenseLoader(DataLoader):
    """A `DataLoader` over a `DenseDataset` that knows which batch comes next; made by `make_dense_loader`.

    Lightning saves and loads its state with the checkpoint. The batches are a function of the sampler's epoch alone.
    """

    batch_sampler: EpochBatchSampler

    def __init__(self, dataset: DenseDataset, batch_sampler: EpochBatchSampler, **settings: Any):
        self._position = (0, 0)  # epoch, batches of it that were handed out
        self._resume_at: tuple[int, int] | None = None
        # Its own generator: making an iterator draws from it, and would else draw from the global one.
        super().__init__(dataset, batch_sampler=batch_sampler, generator=torch.Generator(), **settings)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """The current epoch's batches; the rest of them if a state of this epoch was loaded."""
        epoch = self.batch_sampler.epoch
        resumed = self._resume_at is not None and self._resume_at[0] == epoch
        start = self._resume_at[1] if resumed and self._resume_at is not None else 0
        self._resume_at = None
        self._position = (epoch, start)
        self.batch_sampler.start = start
        for batch in super().__iter__():
            self._position = (epoch, self._position[1] + 1)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Which batch comes next: {"epoch", "batches" of it already handed out}."""
        epoch, batches = self._resume_at or self._position
        return {"epoch": epoch, "batches": batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken, once its epoch is set; any other epoch starts at its first batch."""
        self._resume_at = (state["epoch"], state["batches"])


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
    settings: dict[str, Any] = {"num_workers": workers, "pin_memory": pin_memory, "collate_fn": collate}
    if workers:
        settings.update(
            persistent_workers=True,
            prefetch_factor=prefetch,
            multiprocessing_context=multiprocessing.get_context(start_method),
            timeout=_WORKER_TIMEOUT,
        )
    return DenseLoader(dataset, sampler, **settings)
