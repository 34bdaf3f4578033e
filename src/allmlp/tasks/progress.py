"""How far a run has come: everything that a continued run needs beside weights and optimiser."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Progress:
    """The place in a run. Randomness is a function of this place, so there is no generator to save.

    epoch: epoch in progress, from 0; `epochs` once all are done.
    batch: batches of it that are done. batches: of a whole epoch.
    step: optimiser steps done.
    rows: one a finished epoch, as metrics.csv has them.
    sums: the training sums of the epoch in progress.
    best_epoch, best_value: of the monitored number, None before the first evaluation.
    train_seconds, evaluation_seconds, epoch_seconds: wall-clock time of training steps and evaluation so far, and of
        training steps in this epoch. cpu_seconds: processor time of all so far, workers included.
    stopped_early: whether `early_stop` ended the run.
    """

    batches: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    best_epoch: int | None = None
    best_value: float | None = None
    train_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    epoch_seconds: float = 0.0
    cpu_seconds: float = 0.0
    stopped_early: bool = False

    @property
    def evaluation_due(self) -> bool:
        """All batches of this epoch are done, its evaluation is not."""
        return self.batches > 0 and self.batch >= self.batches

    @property
    def total_batch(self) -> int:
        """Number of the next batch, counted over all epochs."""
        return self.epoch * self.batches + self.batch

    def done(self, epochs: int) -> bool:
        """Whether nothing is left to train."""
        return self.epoch >= epochs or self.stopped_early

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and dictionaries."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "Progress":
        """What `to_dict` gave."""
        return cls(**state)
