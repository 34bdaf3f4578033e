"""TensorBoard, W&B and MLflow through Lightning's loggers, without slowing the training step."""

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from allmlp.errors import InputError
from allmlp.recipes import Recipe

_EVERY = 50  # optimiser steps between two points


class Track(Callback):
    """Sends the loss, rate and gradient norm every 50 steps, and each epoch's row, to the trainer's loggers."""

    def __init__(self) -> None:
        self._rows = 0
        self._sent = -1

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self._rows = len(module.progress.rows)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = module.progress.step
        if step % _EVERY or step == self._sent or not trainer.loggers:
            return
        self._sent = step
        numbers = {"train/loss": float(module.last_loss), "train/lr": module.rate}
        if module.gradient_norm is not None:
            numbers["train/gradient_norm"] = float(module.gradient_norm)
        self._send(trainer, numbers, step)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        rows = module.progress.rows
        if len(rows) == self._rows or not trainer.loggers:
            return
        self._rows = len(rows)
        row = {f"epoch/{key}": float(value) for key, value in rows[-1].items() if isinstance(value, (int, float))}
        self._send(trainer, row, module.progress.step)

    def _send(self, trainer: Any, numbers: dict[str, float], step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step)


def make_loggers(recipe: Recipe, folder: Path, name: str, step: int = 0) -> list[Any]:
    """Lightning's loggers by the recipe's names; `step` is where a continued run goes on.

    Raises:
        InputError: a logger's package is not installed.
    """
    made: list[Any] = []
    for kind in recipe.loggers:
        try:
            if kind == "tensorboard":
                from lightning.pytorch.loggers import TensorBoardLogger

                logger: Any = TensorBoardLogger(folder, name="", version="tensorboard", purge_step=step or None)
            elif kind == "wandb":
                from lightning.pytorch.loggers import WandbLogger

                folder.mkdir(parents=True, exist_ok=True)
                logger = WandbLogger(name=name, save_dir=folder, project="allmlp")
            else:
                from lightning.pytorch.loggers import MLFlowLogger

                logger = MLFlowLogger(experiment_name="allmlp", run_name=name, save_dir=str(folder / "mlflow"))
            made.append(logger)
        except (ImportError, ModuleNotFoundError) as error:
            package = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}[kind]
            raise InputError(
                f"loggers: {kind} needs the package {package}, which is not installed ({error}). "
                f"pip install {package}, or leave it out with loggers=[]."
            ) from error
    for logger in made:
        logger.log_hyperparams(recipe.model_dump(mode="json"))
    return made
