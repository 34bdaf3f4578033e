"""Set up Lightning's Trainer for a run and let it train: the one place that knows the Trainer's arguments."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from rich.console import Console

from allmlp.errors import InputError
from allmlp.recipes import Recipe
from allmlp.runs import RunFolder
from allmlp.tasks.callbacks import Display, Keeper, Track, make_loggers
from allmlp.tasks.checkpoint_io import SafeCheckpointIO
from allmlp.tasks.guard import FiniteGuard
from allmlp.tasks.interruption import Interruption, Stopped
from allmlp.tasks.module import TrainingModule
from allmlp.tasks.stream import EvaluationStream, TrainStream
from allmlp.tasks.task import Task

_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
_LOOK_EVERY = 20  # batches between two looks for numbers that are not finite, on devices that would have to wait


def fit(
    task: Task,
    module: TrainingModule,
    run: RunFolder,
    interruption: Interruption,
    console: Console,
    resume: bool,
) -> bool:
    """Train to the end or to a stop.

    Args:
        resume: go on from checkpoints/last.ckpt.

    Returns:
        True if all epochs are done, False if a signal stopped it; then its state is saved.

    Raises:
        InputError: divergence, a full disk, or a device or strategy that is not there.
    """
    recipe = task.recipe
    checkpoint_io = SafeCheckpointIO(run.best)
    keeper = Keeper(run, checkpoint_io, interruption, task.monitor, task.higher_is_better)
    display = Display(console, recipe.progress, task.monitor, recipe.batch_size)
    trainer = make_trainer(recipe, run, [keeper, display, Track()], checkpoint_io, module.progress.step)
    rank, world_size = trainer.global_rank, trainer.world_size
    on_cpu = trainer.strategy.root_device.type == "cpu"

    def names(epoch: int, batch: int, owner: int) -> list[str]:
        return task.batch_names(epoch, batch, owner, world_size)

    module.guard = FiniteGuard(module, names, 1 if on_cpu else _LOOK_EVERY)
    training = TrainStream(task.train_loader(rank, world_size), module)
    evaluation = EvaluationStream(task.evaluation_loader(rank, world_size))
    interruption.deferring = True
    try:
        with quiet():
            trainer.fit(module, training, evaluation, ckpt_path=run.last if resume else None, weights_only=True)
    except Stopped:
        return False
    finally:
        interruption.deferring = False
        training.loader.close()
        evaluation.loader.close()
    return True


def make_trainer(
    recipe: Recipe, run: RunFolder, callbacks: list[Any], checkpoint_io: SafeCheckpointIO, step: int = 0
) -> lightning.Trainer:
    """Lightning's Trainer with everything of its own switched off that a callback here does exactly."""
    accelerator = recipe.device
    with quiet():
        try:
            loggers = make_loggers(recipe, run.logs, run.path.name, step) if recipe.loggers else False
            return lightning.Trainer(
                accelerator=accelerator,
                devices=recipe.devices,
                num_nodes=recipe.num_nodes,
                strategy=recipe.strategy,
                precision=_precision(recipe, accelerator),
                max_epochs=-1,  # Keeper ends the run; a continued run counts on from where it was
                accumulate_grad_batches=recipe.accumulate,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
                inference_mode=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
                logger=loggers,
                callbacks=callbacks,
                plugins=[checkpoint_io],
                default_root_dir=run.path,
            )
        except (lightning.fabric.utilities.exceptions.MisconfigurationException, ValueError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"device={accelerator} devices={recipe.devices} strategy={recipe.strategy}: {error}"
            ) from error


def _precision(recipe: Recipe, accelerator: str) -> Any:
    if recipe.precision != "auto":
        return _PRECISION[recipe.precision]
    on_gpu = accelerator in ("auto", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's notices about itself off the person's screen; warnings about the data or the run stay."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="lightning.*")
            warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated")  # torch's, about Lightning's use
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
