"""Stop before a number that is not finite reaches the weights, and say which images it came from."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from allmlp.errors import InputError

# (epoch, batch in it, rank) -> the names of its images.
BatchNames = Callable[[int, int, int], list[str]]


class DivergedError(InputError):
    """The loss or the gradient was not finite. The message names the batch; the weights before it are kept."""


class FiniteGuard:
    """Checks the loss and the gradient's norm of every batch.

    On a CPU each is looked at before it is used, so that the weights stay good. On other devices looking waits for the
    device, so every `interval` batches; the weights may be spoilt by then, and what was saved before counts.

    With several processes all raise together, whichever of them saw it: a process that stopped alone would leave the
    others waiting.

    Args:
        module: the training module, for its place in the run, rank and device.
        names: images of a batch, for the message.
        interval: batches between two looks.
    """

    def __init__(self, module: Any, names: BatchNames, interval: int = 1) -> None:
        self.module = module
        self.names = names
        self.interval = interval
        self._pending: list[tuple[str, int, int, Tensor]] = []

    def check(self, what: str, value: Tensor) -> None:
        """Look at one number of the present batch.

        Raises:
            DivergedError: it, or one not looked at so far, is a NaN or an infinity.
        """
        progress = self.module.progress
        self._pending.append((what, progress.epoch, progress.batch, value))
        if (progress.batch + 1) % self.interval == 0 or self.interval == 1:
            self.look()

    def look(self) -> None:
        """Look at all numbers that were not looked at so far."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        numbers = torch.stack([value.float() for _, _, _, value in pending])
        wrong = ~numbers.isfinite()
        first = int(wrong.int().argmax()) if bool(wrong.any()) else len(pending)
        rank = self.module.global_rank
        if self.module.trainer.world_size > 1:
            first, rank = self._earliest(first, rank)
        if first < len(pending):
            what, epoch, batch, _ = pending[first]
            raise DivergedError(self._message(what, epoch, batch, rank, float(numbers[first])))

    def _earliest(self, first: int, rank: int) -> tuple[int, int]:
        """The earliest wrong number over all processes, and whose it was."""
        key = torch.tensor(first * self.module.trainer.world_size + rank, device=self.module.device)
        torch.distributed.all_reduce(key, torch.distributed.ReduceOp.MIN)
        return divmod(int(key), self.module.trainer.world_size)

    def _message(self, what: str, epoch: int, batch: int, rank: int, value: float) -> str:
        names = self.names(epoch, batch, rank)
        shown = ", ".join(names[:8]) + (f" ... ({len(names)} images)" if len(names) > 8 else "")
        number = "not finite" if torch.isfinite(torch.tensor(value)) else str(value)
        quantity = {"loss": "loss", "gradient": "gradient"}[what]
        return (
            f"Wanted a finite {quantity}; in epoch {epoch + 1}, batch {batch + 1} it was {number}. Its images: {shown}."
        )
