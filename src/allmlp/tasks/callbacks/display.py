"""What a person sees while training runs: a bar on a terminal, a line an epoch elsewhere."""

import time
from typing import Any

from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_EVERY = 0.25  # seconds between two looks at the loss, each of which waits for the device
_LINE_EVERY = 30.0  # seconds between two lines inside a long epoch, where there is no terminal


class Display(Callback):
    """Loss, accuracy, images a second and the time left.

    Args:
        console: where to write.
        kind: "bar", "lines" or "none"; "auto" is a bar on a terminal, else lines.
        accuracy: column of metrics.csv to show after each epoch, beside the losses.
        batch_size: images a batch over all processes.
    """

    def __init__(self, console: Console, kind: str, accuracy: str, batch_size: int) -> None:
        if kind == "auto":
            kind = "bar" if console.is_terminal else "lines"
        self.console = console
        self.kind = kind
        self.accuracy = accuracy
        self.batch_size = batch_size
        self._bar: Progress | None = None
        self._task: Any = None
        self._looked = self._started = self._line = time.monotonic()
        self._images = 0
        self._batches = 0
        self._rows = 0

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self._started = self._looked = self._line = time.monotonic()
        self._rows = len(module.progress.rows)
        if self.kind == "bar" and trainer.is_global_zero:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[numbers]}"),
                console=self.console, transient=True, auto_refresh=False,
            )  # fmt: skip
            self._task = self._bar.add_task("", total=module.progress.batches, numbers="")
            self._bar.start()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._images += self.batch_size
        self._batches += 1
        now = time.monotonic()
        if self.kind == "none" or now - self._looked < _EVERY or not trainer.is_global_zero:
            return
        if self._bar is None and now - self._line < _LINE_EVERY:
            return
        speed = self._images / (now - self._looked)
        self._looked, self._images = now, 0
        progress = module.progress
        numbers = (
            f"batch {progress.batch}/{progress.batches}  loss {float(module.last_loss):.3f}  "
            f"{speed:,.0f} images/s  {self._left(module, now)}"
        )
        title = f"epoch {progress.epoch + 1}/{module.recipe.epochs}"
        if self._bar is not None:
            self._bar.update(self._task, description=title, completed=progress.batch, numbers=numbers, refresh=True)
        else:
            self._line = now
            self.console.print(f"{title}  {numbers}", highlight=False, markup=False)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        rows = module.progress.rows
        if self.kind == "none" or not trainer.is_global_zero or len(rows) == self._rows:
            return
        self._rows = len(rows)
        row = rows[-1]
        best = "  (best)" if module.progress.best_epoch == row["epoch"] else ""
        self.console.print(
            f"epoch {row['epoch']}/{module.recipe.epochs}  {describe_row(row, self.accuracy)}  "
            f"{row['images_per_second']:,.0f} images/s  {self._left(module, time.monotonic())}{best}",
            highlight=False,
            markup=False,
        )
        self._looked = self._line = time.monotonic()
        self._images = 0

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self._close()

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _left(self, module: Any, now: float) -> str:
        """Time left, from the pace of this process so far."""
        progress = module.progress
        remaining = module.recipe.epochs * progress.batches - progress.total_batch
        if not self._batches or remaining <= 0:
            return "0:00 left"
        seconds = round((now - self._started) / self._batches * remaining)
        hours, rest = divmod(seconds, 3600)
        return (f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}") + " left"


def describe_row(row: dict[str, Any], accuracy: str) -> str:
    """The losses and the accuracies of an epoch in words."""
    parts = [f"loss {row['train_loss']:.3f}"] if "train_loss" in row else []
    training = accuracy.replace("val_", "train_")
    if training in row:
        parts.append(f"{training.removeprefix('train_')} {100 * row[training]:.1f} %")
    if "val_loss" in row:
        parts.append(f"val loss {row['val_loss']:.3f}")
    if row.get(accuracy) is not None:
        parts.append(f"val {accuracy.removeprefix('val_')} {100 * row[accuracy]:.2f} %")
    return "  ".join(parts)
