"""The keeper of a run: closes epochs, saves checkpoints, keeps the best weights, stops on request."""

import time
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from allmlp.runs import RunFolder
from allmlp.runs.network import clone_state
from allmlp.tasks.checkpoint_io import SafeCheckpointIO
from allmlp.tasks.interruption import Interruption, Stopped

# Saving at the end of short epochs may take this share of the time at most; the last epoch and a stop always save.
_SAVING_SHARE = 1 / 30
_LOOK_EVERY = 10  # batches between two agreements of several processes on whether to stop or save


class Keeper(Callback):
    """Moves the run's `progress` on, and writes what must outlive the process.

    Args:
        run: where to write.
        checkpoint_io: the writer given to the trainer.
        interruption: says whether to stop.
        monitor: column of metrics.csv that the best epoch has the most of (`higher_is_better`) or the least.
    """

    def __init__(
        self,
        run: RunFolder,
        checkpoint_io: SafeCheckpointIO,
        interruption: Interruption,
        monitor: str,
        higher_is_better: bool = True,
    ) -> None:
        self.run = run
        self.checkpoint_io = checkpoint_io
        self.interruption = interruption
        self.monitor = monitor
        self.sign = 1.0 if higher_is_better else -1.0
        self._batch_started = 0.0
        self._evaluation_started = 0.0
        self._saved_at = time.monotonic()
        self._save_seconds = 0.0
        self._cpu_mark = cpu_seconds()
        self._safe_to_save = False

    # ---- the course of a run

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.interruption.listen()
        self._saved_at = time.monotonic()
        self._safe_to_save = True
        if module.progress.evaluation_due:  # stopped between an epoch's last batch and the end of its evaluation
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True
            self.on_train_epoch_end(trainer, module)
        if module.progress.done(module.recipe.epochs):
            trainer.should_stop = True
        self._batch_started = time.monotonic()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self._safe_to_save = False

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        progress = module.progress
        progress.batch += 1
        now = time.monotonic()
        progress.train_seconds += now - self._batch_started
        progress.epoch_seconds += now - self._batch_started
        self._batch_started = now
        last = progress.evaluation_due
        if progress.batch % module.recipe.accumulate and not last:
            return  # gradients of a step in the making are not saved
        self._safe_to_save = True
        if trainer.world_size > 1 and progress.batch % _LOOK_EVERY and not last:
            return
        long_ago = now - self._saved_at > 60 * module.recipe.checkpoint_minutes
        stop, save = self._agree(trainer, self.interruption.signum is not None, long_ago and not last)
        if stop:
            self._stop(trainer, module)
        if save:
            self.save(trainer, module)
            self._batch_started = time.monotonic()

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        self._evaluation_started = time.monotonic()

    def on_validation_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.world_size > 1 and batch_idx % _LOOK_EVERY:
            return
        if self._agree(trainer, self.interruption.signum is not None)[0]:
            self._stop(trainer, module)

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        module.progress.evaluation_seconds += time.monotonic() - self._evaluation_started

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        progress, recipe = module.progress, module.recipe
        if not progress.evaluation_due:
            return
        if module.guard is not None:
            module.guard.look()
        row = self._row(module)
        progress.rows.append(row)
        value = row.get(self.monitor)
        if value is not None and (progress.best_value is None or self.sign * (value - progress.best_value) > 0):
            progress.best_epoch, progress.best_value = progress.epoch + 1, value
            if trainer.is_global_zero:
                self.checkpoint_io.best = clone_state(module.evaluated)
        progress.epoch += 1
        progress.batch = 0
        progress.epoch_seconds = 0.0
        if recipe.early_stop is not None and progress.best_epoch is not None:
            progress.stopped_early = progress.epoch - progress.best_epoch >= recipe.early_stop
        if trainer.is_global_zero:
            self.run.write_history(progress.rows)
        due = time.monotonic() - self._saved_at > self._save_seconds / _SAVING_SHARE
        done = progress.done(recipe.epochs)
        if self._agree(trainer, due or done or self.interruption.signum is not None)[0]:
            self.save(trainer, module)
        trainer.should_stop = done
        if self._agree(trainer, self.interruption.signum is not None)[0] and not done:
            raise Stopped
        self._batch_started = time.monotonic()

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        """Save when a signal tore down something else first, such as the data workers of the same process group."""
        asked = self.interruption.signum is not None
        if asked and self._safe_to_save and trainer.world_size == 1 and isinstance(exception, (RuntimeError, OSError)):
            self.save(trainer, module)
            raise Stopped from exception

    # ---- saving

    def save(self, trainer: Any, module: Any) -> None:
        """Write checkpoints/last.ckpt, and before it best.safetensors if a better epoch came since.

        Raises:
            InputError: the disk is full or weights are not finite; in every process.
        """
        started = time.monotonic()
        spent = cpu_seconds()
        module.progress.cpu_seconds += spent - self._cpu_mark
        self._cpu_mark = spent
        trainer.save_checkpoint(self.run.last, weights_only=False)
        failure = self.checkpoint_io.failure
        if trainer.world_size > 1:
            failure = trainer.strategy.broadcast(failure)
        if failure is not None:
            raise failure
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - started

    def _stop(self, trainer: Any, module: Any) -> None:
        self.save(trainer, module)
        raise Stopped

    def _agree(self, trainer: Any, *wishes: bool) -> list[bool]:
        """Whether any process wishes each; all processes get the same answer."""
        if trainer.world_size == 1:
            return list(wishes)
        flags = torch.tensor([float(wish) for wish in wishes], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        return [bool(flag) for flag in flags.tolist()]

    def _row(self, module: Any) -> dict[str, Any]:
        progress = module.progress
        numbers = module.close_epoch()
        images = numbers.pop("images")
        average = module.average
        return {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "lr": module.schedule.rate(progress.step - 1),
            **numbers,
            "images_per_second": round(images / max(progress.epoch_seconds, 1e-9), 1),
            "seconds": round(progress.train_seconds + progress.evaluation_seconds, 2),
            "ema": "" if average is None else round(average.decay_at(max(0, average.updates - 1)), 6),
        }


def cpu_seconds() -> float:
    """Processor time of this process and of its children that ended."""
    import os

    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
