"""What Lightning iterates over: the batches from the present place of the run on."""

from collections.abc import Iterator
from typing import Any

from allmlp.data import ResumableLoader
from allmlp.tasks.progress import Progress


class TrainStream:
    """One epoch an iteration, from the batch that `progress` says comes next.

    `module.progress` is read when an iteration starts. Has no length on purpose: the first epoch of a continued run is
    shorter than the others. Lightning then looks one batch ahead to know the last.
    """

    def __init__(self, loader: ResumableLoader, module: Any) -> None:
        self.loader = loader
        self._module = module

    def __iter__(self) -> Iterator[Any]:
        progress: Progress = self._module.progress
        # An epoch whose evaluation is still due has no batch left; what comes next is the next epoch's first.
        epoch, batch = (progress.epoch + 1, 0) if progress.evaluation_due else (progress.epoch, progress.batch)
        self.loader.batch_sampler.set_epoch(epoch)
        self.loader.load_state_dict({"epoch": epoch, "batches": batch})
        return iter(self.loader)


class EvaluationStream:
    """The evaluation split, from its beginning."""

    def __init__(self, loader: ResumableLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)
